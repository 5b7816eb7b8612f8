-- Identity: tenants, users, sessions, keys and the audit log, one tenant per transaction.
-- depends: 0002_chain

-- migrate: apply

-- aura_identity: what the API acts as; sees the tenant that its transaction names, nothing without one.
-- aura_platform: what the API becomes for one transaction when an operator or auditor crosses tenants.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['aura_identity', 'aura_platform'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        IF NOT pg_has_role(current_user, role_name, 'SET') THEN
            EXECUTE format('GRANT %I TO %I', role_name, current_user);
        END IF;
    END LOOP;
END
$$;

CREATE SCHEMA identity AUTHORIZATION aura_owner;

SET LOCAL ROLE aura_owner;

CREATE TABLE identity.tenants (
    tenant_id text COLLATE "C" PRIMARY KEY CHECK (tenant_id ~ '^[a-z0-9_-]{1,64}$'),
    name text NOT NULL,
    status text COLLATE "C" NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive')),
    needs_verified_email boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deactivated_at timestamptz,
    CHECK ((status = 'inactive') = (deactivated_at IS NOT NULL))
);

-- A person in one tenant; the same address may be in several. customer_id is whom the ledger knows.
CREATE TABLE identity.users (
    user_id uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL REFERENCES identity.tenants,
    customer_id text COLLATE "C" NOT NULL CHECK (customer_id ~ '^[A-Za-z0-9_-]{1,64}$'),
    email text,
    full_name text,
    password_hash text,
    roles text[] NOT NULL CHECK (cardinality(roles) BETWEEN 1 AND 5 AND roles <@ ARRAY['user', 'support', 'admin', 'operator', 'auditor']),
    status text COLLATE "C" NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'SUSPENDED', 'DELETED')),
    verified_at timestamptz,
    password_changed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant_id, user_id),
    UNIQUE (tenant_id, customer_id)
);

CREATE UNIQUE INDEX users_email ON identity.users (tenant_id, lower(email));
CREATE INDEX users_by_email ON identity.users (lower(email));

COMMENT ON COLUMN identity.users.password_hash IS 'Argon2id; bcrypt of an import until the next login; null: only an external issuer can log in';

-- Who a subject of an external issuer is here.
CREATE TABLE identity.external_identities (
    issuer text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (issuer, subject, tenant_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES identity.users (tenant_id, user_id)
);

-- One login: a family of refresh tokens and the access tokens made from it. It ends once, for good.
CREATE TABLE identity.sessions (
    session_id uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    user_id uuid NOT NULL,
    client text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text COLLATE "C" CHECK (end_reason IN ('logout', 'logout_all', 'password_changed', 'token_reused', 'revoked', 'user_disabled')),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
    UNIQUE (tenant_id, session_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES identity.users (tenant_id, user_id)
);

CREATE INDEX sessions_of_user ON identity.sessions (tenant_id, user_id, created_at);

-- The tokens themselves are nowhere: a row is a jti and whether it was used. A used row is what proves a theft.
CREATE TABLE identity.refresh_tokens (
    jti uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    session_id uuid NOT NULL,
    issued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    successor uuid,
    CHECK ((used_at IS NULL) = (successor IS NULL)),
    FOREIGN KEY (tenant_id, session_id) REFERENCES identity.sessions (tenant_id, session_id)
);

CREATE INDEX refresh_tokens_of_session ON identity.refresh_tokens (tenant_id, session_id);

CREATE TABLE identity.email_tokens (
    token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    tenant_id text COLLATE "C" NOT NULL,
    user_id uuid NOT NULL,
    email text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    FOREIGN KEY (tenant_id, user_id) REFERENCES identity.users (tenant_id, user_id)
);

-- Keys for servers: of a customer, or (customer_id null) of the whole tenant, for what the scopes name.
CREATE TABLE identity.api_keys (
    key_id text COLLATE "C" PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL REFERENCES identity.tenants,
    customer_id text COLLATE "C",
    user_id uuid,
    name text NOT NULL,
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    scopes text[] NOT NULL CHECK (cardinality(scopes) >= 1),
    created_by text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    FOREIGN KEY (tenant_id, user_id) REFERENCES identity.users (tenant_id, user_id),
    CHECK ((customer_id IS NULL) = (user_id IS NULL))
);

CREATE INDEX api_keys_of_tenant ON identity.api_keys (tenant_id, created_at);

COMMENT ON COLUMN identity.api_keys.secret_hash IS 'SHA-256 of 256 random bits: nothing to guess, so nothing to slow down';

-- What has to happen outside the database because of a row here: opening a wallet, sending a mail.
CREATE TABLE identity.outbox (
    outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('wallet', 'mail')),
    user_id uuid NOT NULL,
    payload_sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at timestamptz,
    FOREIGN KEY (tenant_id, user_id) REFERENCES identity.users (tenant_id, user_id)
);

CREATE INDEX outbox_open ON identity.outbox (kind, outbox_id) WHERE done_at IS NULL;
CREATE INDEX outbox_of_user ON identity.outbox (tenant_id, user_id, outbox_id);

-- Answers of writes that move no money, for a repeat with the same key (answers may hold a secret: sealed).
CREATE TABLE identity.stored_answers (
    tenant_id text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint,
    body_sealed bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, actor, idempotency_key)
);

CREATE INDEX stored_answers_by_age ON identity.stored_answers (created_at);

-- Keys that sign our tokens; private halves are sealed by a secret that the database does not have.
CREATE TABLE identity.signing_keys (
    kid text COLLATE "C" PRIMARY KEY,
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    private_sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    signs_from timestamptz NOT NULL,
    revoked_at timestamptz
);

COMMENT ON COLUMN identity.signing_keys.signs_from IS 'published before, so that others who cache the key set know it in time';

-- What every API process must forget before a revocation is answered. seq is in the order of commits.
CREATE TABLE identity.revocations (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('session', 'user', 'tenant', 'api_key', 'signing_keys')),
    subject text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C",
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The API processes that live, and up to which revocation each has forgotten.
CREATE TABLE identity.nodes (
    node_id uuid PRIMARY KEY,
    acked bigint NOT NULL,
    seen_at timestamptz NOT NULL
);

-- Who did what, and who tried; a hash chain per tenant (@platform: what belongs to none).
CREATE TABLE identity.audit_log (
    tenant_id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL CHECK (seq >= 1),
    at timestamptz NOT NULL,
    actor text COLLATE "C" NOT NULL,
    action text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('ok', 'refused')),
    reason text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    address_sealed bytea NOT NULL,
    previous bytea NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (tenant_id, seq)
);

-- One tenant per transaction. The owner's functions below and the platform's role are the only ways across.
DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['tenants', 'users', 'external_identities', 'sessions', 'refresh_tokens', 'email_tokens',
        'api_keys', 'outbox', 'stored_answers', 'audit_log']
    LOOP
        EXECUTE format('ALTER TABLE identity.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', table_name);
        EXECUTE format('CREATE POLICY own_tenant ON identity.%I TO aura_identity USING (tenant_id = current_setting(''aura.tenant'', true)) '
            'WITH CHECK (tenant_id = current_setting(''aura.tenant'', true))', table_name);
        EXECUTE format('CREATE POLICY every_tenant ON identity.%I TO aura_platform, aura_owner USING (true) WITH CHECK (true)', table_name);
    END LOOP;
END
$$;

-- What was written once.
CREATE FUNCTION identity.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'identity.% does not allow this %', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation', SCHEMA = 'identity', TABLE = TG_TABLE_NAME, CONSTRAINT = TG_TABLE_NAME || '_immutable';
END
$$;

CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON identity.audit_log FOR EACH ROW EXECUTE FUNCTION identity.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON identity.audit_log FOR EACH STATEMENT EXECUTE FUNCTION identity.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE ON identity.revocations FOR EACH ROW EXECUTE FUNCTION identity.refuse_change();
CREATE TRIGGER ended_is_final BEFORE UPDATE ON identity.sessions FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL OR NEW.user_id <> OLD.user_id OR NEW.tenant_id <> OLD.tenant_id) EXECUTE FUNCTION identity.refuse_change();
CREATE TRIGGER used_is_final BEFORE UPDATE ON identity.refresh_tokens FOR EACH ROW
    WHEN (OLD.used_at IS NOT NULL OR NEW.session_id <> OLD.session_id) EXECUTE FUNCTION identity.refuse_change();
CREATE TRIGGER revoked_is_final BEFORE UPDATE ON identity.api_keys FOR EACH ROW
    WHEN (OLD.revoked_at IS NOT NULL) EXECUTE FUNCTION identity.refuse_change();
CREATE TRIGGER deleted_is_final BEFORE UPDATE ON identity.users FOR EACH ROW
    WHEN ((OLD.status = 'DELETED' AND NEW.status <> 'DELETED') OR NEW.tenant_id <> OLD.tenant_id OR NEW.customer_id <> OLD.customer_id)
    EXECUTE FUNCTION identity.refuse_change();
ALTER TABLE identity.audit_log ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;

-- Before a tenant is known: who could be meant by an address at login. The only read across tenants by aura_identity.
CREATE FUNCTION identity.logins(address text, tenant text DEFAULT NULL)
RETURNS TABLE (tenant_id text, tenant_status text, tenant_name text, needs_verified_email boolean, user_id uuid, password_hash text, status text, is_verified boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.tenant_id, t.status, t.name, t.needs_verified_email, u.user_id, u.password_hash, u.status, u.verified_at IS NOT NULL
    FROM identity.users u JOIN identity.tenants t ON t.tenant_id = u.tenant_id
    WHERE lower(u.email) = lower(address) AND u.password_hash IS NOT NULL AND (tenant IS NULL OR u.tenant_id = tenant)
    ORDER BY u.created_at, u.user_id
    LIMIT 8
$$;

-- To which tenant a verification token belongs; whoever has the token may know.
CREATE FUNCTION identity.email_token_tenant(token_hash bytea) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.tenant_id FROM identity.email_tokens e WHERE e.token_hash = $1
$$;

-- Work that is left, of these tenants; rows under way elsewhere are passed over.
CREATE FUNCTION identity.open_outbox(wanted text, tenants text[], count_max integer) RETURNS TABLE (outbox_id bigint, tenant_id text, user_id uuid, payload_sealed bytea)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.outbox_id, o.tenant_id, o.user_id, o.payload_sealed FROM identity.outbox o
    WHERE o.done_at IS NULL AND o.kind = wanted AND o.tenant_id = ANY (tenants) ORDER BY o.outbox_id LIMIT count_max FOR UPDATE SKIP LOCKED
$$;

CREATE FUNCTION identity.finish_outbox(finished bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE identity.outbox SET done_at = clock_timestamp() WHERE outbox_id = finished AND done_at IS NULL
$$;

-- Tells every API process to forget. The lock is held until the commit, so that a lower seq is never seen later.
CREATE FUNCTION identity.revoke(kind text, subject text, tenant text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    made bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('identity.revocations', 0));
    INSERT INTO identity.revocations (kind, subject, tenant_id) VALUES ($1, $2, $3) RETURNING seq INTO made;
    PERFORM pg_notify('aura_identity', made::text);
    RETURN made;
END
$$;

-- One heartbeat of an API process: it lives, it has forgotten everything up to acked; what is new since?
CREATE FUNCTION identity.beat(node uuid, has bigint) RETURNS TABLE (seq bigint, kind text, subject text, tenant_id text) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO identity.nodes AS n (node_id, acked, seen_at) VALUES (node, has, clock_timestamp())
    ON CONFLICT (node_id) DO UPDATE SET acked = has, seen_at = clock_timestamp();
    RETURN QUERY SELECT r.seq, r.kind, r.subject, r.tenant_id FROM identity.revocations r WHERE r.seq > has ORDER BY r.seq;
END
$$;

CREATE FUNCTION identity.audit_hash(entry identity.audit_log) RETURNS bytea LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
    SELECT sha256(entry.previous || convert_to(jsonb_build_array(entry.tenant_id, entry.seq, entry.at, entry.actor, entry.action, entry.outcome,
        entry.reason, entry.subject, entry.request_id, encode(entry.address_sealed, 'hex'))::text, 'UTF8'))
$$;

-- Appends one row to its tenant's chain; the only way in. In the transaction of what it tells of.
CREATE FUNCTION identity.audit(tenant text, actor text, action text, outcome text, reason text, subject text, request_id text, address_sealed bytea)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry identity.audit_log;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('identity.audit/' || tenant, 0));
    SELECT a.seq, a.hash INTO entry.seq, entry.previous FROM identity.audit_log a WHERE a.tenant_id = tenant ORDER BY a.seq DESC LIMIT 1;
    entry.tenant_id := tenant;
    entry.seq := coalesce(entry.seq, 0) + 1;
    entry.previous := coalesce(entry.previous, '\x');
    entry.at := clock_timestamp();
    entry.actor := actor;
    entry.action := action;
    entry.outcome := outcome;
    entry.reason := reason;
    entry.subject := subject;
    entry.request_id := request_id;
    entry.address_sealed := address_sealed;
    entry.hash := identity.audit_hash(entry);
    INSERT INTO identity.audit_log SELECT entry.*;
    RETURN entry.seq;
END
$$;

-- The first row of a tenant's chain that is not what was written, null when all are; a cut end shows in the head only.
CREATE FUNCTION identity.audit_broken_at(tenant text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT min(c.place) FROM (
        SELECT row_number() OVER w AS place,
            a.seq = row_number() OVER w AND a.hash = identity.audit_hash(a.*) AND a.previous = coalesce(lag(a.hash) OVER w, '\x') AS is_right
        FROM identity.audit_log a WHERE a.tenant_id = tenant WINDOW w AS (ORDER BY a.seq)
    ) c WHERE NOT c.is_right
$$;

-- Grants, column by column where something may change. Nobody but the owner deletes anything but dead nodes and old answers.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA identity FROM PUBLIC;
GRANT USAGE ON SCHEMA identity TO aura_identity, aura_platform;
GRANT SELECT ON ALL TABLES IN SCHEMA identity TO aura_identity;
GRANT INSERT ON identity.users, identity.external_identities, identity.sessions, identity.refresh_tokens, identity.email_tokens, identity.api_keys,
    identity.outbox, identity.stored_answers, identity.signing_keys, identity.revocations, identity.nodes TO aura_identity;
GRANT UPDATE (email, full_name, password_hash, password_changed_at, roles, status, verified_at, updated_at) ON identity.users TO aura_identity;
GRANT UPDATE (ended_at, end_reason) ON identity.sessions TO aura_identity;
GRANT UPDATE (used_at, successor) ON identity.refresh_tokens TO aura_identity;
GRANT UPDATE (used_at) ON identity.email_tokens TO aura_identity;
GRANT UPDATE (revoked_at) ON identity.api_keys, identity.signing_keys TO aura_identity;
GRANT UPDATE (status, body_sealed, created_at) ON identity.stored_answers TO aura_identity;
GRANT UPDATE (acked, seen_at) ON identity.nodes TO aura_identity;
GRANT DELETE ON identity.nodes, identity.stored_answers TO aura_identity;
GRANT EXECUTE ON FUNCTION identity.logins, identity.email_token_tenant, identity.open_outbox, identity.finish_outbox, identity.revoke,
    identity.beat, identity.audit, identity.audit_hash, identity.audit_broken_at TO aura_identity;
GRANT SELECT ON identity.tenants, identity.audit_log TO aura_platform;
GRANT INSERT ON identity.tenants, identity.revocations TO aura_platform;
GRANT UPDATE (name, status, needs_verified_email, deactivated_at) ON identity.tenants TO aura_platform;
GRANT SELECT ON identity.revocations TO aura_platform;
GRANT EXECUTE ON FUNCTION identity.revoke, identity.audit, identity.audit_hash, identity.audit_broken_at TO aura_platform;

RESET ROLE;

-- migrate: rollback

-- The audit log is append-only and sessions are proof: a mistake in the schema is mended by a migration forward.
DO $$
BEGIN
    RAISE EXCEPTION 'identity is not rolled back; mend it by a new migration';
END
$$;
