-- Limits of rates shared by all API processes, and the end of what has served its time.
-- depends: 0005_events

-- migrate: apply

SET LOCAL ROLE aura_owner;

ALTER TABLE identity.tenants
    ADD COLUMN rate_limit bigint CHECK (rate_limit >= 1),
    ADD COLUMN rate_window_s integer CHECK (rate_window_s BETWEEN 1 AND 86400),
    ADD COLUMN command_limit bigint CHECK (command_limit >= 1);

COMMENT ON COLUMN identity.tenants.rate_limit IS 'requests per user or key and window; null: the setting';
COMMENT ON COLUMN identity.tenants.command_limit IS 'commands in batches per user or key and window; null: the setting';

-- What was spent of a limit. Not logged: after a crash everybody begins a new window, and no request costs a flush.
CREATE UNLOGGED TABLE identity.rate_buckets (
    bucket text COLLATE "C" PRIMARY KEY,
    spent bigint NOT NULL,
    ends_at timestamptz NOT NULL
);

CREATE INDEX rate_buckets_by_end ON identity.rate_buckets (ends_at);

-- Where somebody has logged in before, both as pseudonyms: failures from elsewhere do not lock the owner out.
CREATE TABLE identity.login_places (
    target text COLLATE "C" NOT NULL,
    place text COLLATE "C" NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (target, place)
);

-- Takes up to wanted from a bucket, nothing if fewer than at_least are left, and in advance a twentieth of what is then left.
-- A window begins with its first request.
CREATE FUNCTION identity.lease(bucket text, kind text, tenant text, wanted bigint, at_least bigint, default_limit bigint, default_window_s integer)
RETURNS TABLE (granted bigint, left_over bigint, allowed bigint, window_s integer, left_s double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    had bigint;
    ends timestamptz;
    at timestamptz;
BEGIN
    allowed := default_limit;
    window_s := default_window_s;
    IF kind IN ('requests', 'commands') THEN
        SELECT coalesce(CASE kind WHEN 'commands' THEN t.command_limit ELSE t.rate_limit END, allowed), coalesce(t.rate_window_s, window_s)
        INTO allowed, window_s FROM identity.tenants t WHERE t.tenant_id = tenant;
        allowed := coalesce(allowed, default_limit);
        window_s := coalesce(window_s, default_window_s);
    END IF;
    LOOP
        INSERT INTO identity.rate_buckets VALUES (bucket, 0, clock_timestamp() + make_interval(secs => window_s)) ON CONFLICT DO NOTHING;
        SELECT b.spent, b.ends_at INTO had, ends FROM identity.rate_buckets b WHERE b.bucket = bucket FOR UPDATE;
        EXIT WHEN had IS NOT NULL;
    END LOOP;
    at := clock_timestamp();
    IF ends <= at THEN
        had := 0;
        ends := at + make_interval(secs => window_s);
    END IF;
    granted := greatest(0, least(wanted, allowed - had));
    IF granted < at_least THEN
        granted := 0;
    END IF;
    granted := granted + least(1000, (allowed - had - granted) / 20);
    UPDATE identity.rate_buckets b SET spent = had + granted, ends_at = ends WHERE b.bucket = bucket;
    left_over := greatest(0, allowed - had - granted);
    left_s := extract(epoch FROM ends - at);
    RETURN NEXT;
END
$$;

-- Removes what has served its time, so many rows of each kind at most; how many were removed, by kind. No money is here:
-- the ledger keeps the reference of every transaction for ever.
CREATE FUNCTION identity.clean(answers_s double precision, ended_s double precision, count_max integer)
RETURNS TABLE (kind text, removed bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at timestamptz := clock_timestamp();
    answers_before timestamptz := at - make_interval(secs => answers_s);
    ended_before timestamptz := at - make_interval(secs => ended_s);
BEGIN
    kind := 'stored_answers';
    DELETE FROM identity.stored_answers a WHERE a.ctid = ANY (ARRAY(
        SELECT o.ctid FROM identity.stored_answers o WHERE o.created_at < answers_before ORDER BY o.created_at LIMIT count_max FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;

    -- A used token proves a theft as long as it could be used; after that it is refused for its age.
    kind := 'refresh_tokens';
    DELETE FROM identity.refresh_tokens r WHERE r.ctid = ANY (ARRAY(
        SELECT o.ctid FROM identity.refresh_tokens o WHERE o.expires_at < ended_before LIMIT count_max FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;

    kind := 'sessions';
    DELETE FROM identity.sessions s WHERE s.ctid = ANY (ARRAY(
        SELECT o.ctid FROM identity.sessions o
        WHERE o.expires_at < ended_before
            AND NOT EXISTS (SELECT FROM identity.refresh_tokens r WHERE r.tenant_id = o.tenant_id AND r.session_id = o.session_id)
        LIMIT count_max FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;

    kind := 'email_tokens';
    DELETE FROM identity.email_tokens e WHERE e.ctid = ANY (ARRAY(
        SELECT o.ctid FROM identity.email_tokens o WHERE o.expires_at < ended_before LIMIT count_max FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;

    kind := 'outbox';
    DELETE FROM identity.outbox w WHERE w.ctid = ANY (ARRAY(
        SELECT o.ctid FROM identity.outbox o WHERE o.done_at < ended_before LIMIT count_max FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;

    -- The last one stays: a process that starts begins at its number.
    kind := 'revocations';
    DELETE FROM identity.revocations v WHERE v.ctid = ANY (ARRAY(
        SELECT o.ctid FROM identity.revocations o WHERE o.at < ended_before AND o.seq < (SELECT max(l.seq) FROM identity.revocations l) LIMIT count_max));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;

    kind := 'rate_buckets';
    DELETE FROM identity.rate_buckets b WHERE b.ctid = ANY (ARRAY(
        SELECT o.ctid FROM identity.rate_buckets o WHERE o.ends_at < at ORDER BY o.ends_at LIMIT count_max FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;

    kind := 'login_places';
    DELETE FROM identity.login_places p WHERE p.ctid = ANY (ARRAY(
        SELECT o.ctid FROM identity.login_places o WHERE o.seen_at < at - interval '90 days' LIMIT count_max FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN NEXT;
END
$$;

-- The last link of every tenant's chain: kept elsewhere, it shows a chain that was cut or written anew.
CREATE FUNCTION identity.audit_heads() RETURNS TABLE (tenant_id text, seq bigint, hash bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT ON (a.tenant_id) a.tenant_id, a.seq, a.hash FROM identity.audit_log a ORDER BY a.tenant_id, a.seq DESC
$$;

REVOKE ALL ON FUNCTION identity.lease, identity.clean, identity.audit_heads FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.lease, identity.clean, identity.audit_heads TO aura_identity;
GRANT EXECUTE ON FUNCTION identity.audit_heads TO aura_platform;
GRANT SELECT, INSERT, UPDATE (seen_at) ON identity.login_places TO aura_identity;
GRANT UPDATE (rate_limit, rate_window_s, command_limit) ON identity.tenants TO aura_platform;

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'identity is not rolled back; mend it by a new migration';
END
$$;
