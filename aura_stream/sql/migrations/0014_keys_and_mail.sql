-- Keys wrapped by a key that the database does not have, and mails that are sent.
-- depends: 0013_lanes

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- The keys that seal, sealed themselves under a key made from AURA_IDENTITY_SECRET. A new generation has another key
-- for what is personal: what an older copy of this database sealed is then opened by nobody who lacks the older secret.
CREATE TABLE identity.platform_keys (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    generation integer NOT NULL CHECK (generation >= 1),
    keys_sealed bytea NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Nobody but the owner's functions below: not even the API sees them by itself.
ALTER TABLE identity.platform_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY of_the_owner ON identity.platform_keys TO aura_owner USING (true) WITH CHECK (true);

ALTER TABLE identity.subject_keys ADD COLUMN generation integer NOT NULL DEFAULT 1;
COMMENT ON COLUMN identity.subject_keys.generation IS 'of the platform keys that seal it';

DROP TRIGGER destroyed_is_final ON identity.subject_keys;
CREATE TRIGGER destroyed_is_final BEFORE UPDATE ON identity.subject_keys FOR EACH ROW
    WHEN (OLD.key_sealed IS NULL OR (NEW.key_sealed IS NOT NULL AND NEW.generation <= OLD.generation)
        OR NEW.user_id <> OLD.user_id OR NEW.tenant_id <> OLD.tenant_id)
    EXECUTE FUNCTION identity.refuse_change();

-- A process that has not heard of a new generation yet seals nothing under the old one: it is told to come again.
CREATE FUNCTION identity.check_generation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM identity.platform_keys p WHERE p.generation = NEW.generation FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the keys have changed' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER of_now BEFORE INSERT ON identity.subject_keys FOR EACH ROW EXECUTE FUNCTION identity.check_generation();

CREATE FUNCTION identity.platform_keys() RETURNS TABLE (generation integer, keys_sealed bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.generation, p.keys_sealed FROM identity.platform_keys p
$$;

-- The first keys: new ones, or (`before`) those that sealed what is here already. Whoever is second changes nothing.
CREATE FUNCTION identity.put_platform_keys(fresh bytea, before bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO identity.platform_keys (generation, keys_sealed)
    SELECT 1, CASE WHEN EXISTS (SELECT FROM identity.subject_keys) OR EXISTS (SELECT FROM identity.signing_keys) THEN before ELSE fresh END
    ON CONFLICT DO NOTHING
$$;

-- Mails: when the next try is, and why the last one failed for good.
ALTER TABLE identity.outbox ADD COLUMN tries integer NOT NULL DEFAULT 0, ADD COLUMN next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN failure text;
CREATE INDEX outbox_due ON identity.outbox (kind, next_at) WHERE done_at IS NULL;

ALTER TABLE identity.email_tokens ADD COLUMN purpose text COLLATE "C" NOT NULL DEFAULT 'verify' CHECK (purpose IN ('verify', 'reset'));

-- A mail that is due, of any tenant, locked until the transaction ends; none that another process has.
CREATE FUNCTION identity.take_mail() RETURNS TABLE (outbox_id bigint, user_id uuid, payload_sealed bytea, created_at timestamptz, tries integer)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.outbox_id, o.user_id, o.payload_sealed, o.created_at, o.tries FROM identity.outbox o
    WHERE o.kind = 'mail' AND o.done_at IS NULL AND o.next_at <= clock_timestamp() ORDER BY o.next_at, o.outbox_id LIMIT 1 FOR UPDATE SKIP LOCKED
$$;

-- Tried once more: done (with a failure: given up), or due again in so many seconds.
CREATE FUNCTION identity.mail_tried(tried bigint, again_s double precision, failed text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE identity.outbox SET tries = tries + 1, failure = failed,
        next_at = clock_timestamp() + make_interval(secs => coalesce(again_s, 0)),
        done_at = CASE WHEN again_s IS NULL THEN clock_timestamp() END
    WHERE outbox_id = tried AND kind = 'mail' AND done_at IS NULL
$$;

REVOKE ALL ON FUNCTION identity.check_generation, identity.platform_keys, identity.put_platform_keys, identity.take_mail, identity.mail_tried FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.platform_keys, identity.put_platform_keys, identity.take_mail, identity.mail_tried TO aura_identity;
-- Who sends webhooks opens their secrets.
GRANT USAGE ON SCHEMA identity TO aura_events;
GRANT EXECUTE ON FUNCTION identity.platform_keys, identity.put_platform_keys TO aura_events;

RESET ROLE;

-- migrate: rollback

-- What is sealed under keys that only this table has would be lost.
DO $$
BEGIN
    RAISE EXCEPTION 'keys are not rolled back; mend it by a new migration';
END
$$;
