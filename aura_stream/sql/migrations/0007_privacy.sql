-- Personal data under a key per person that can be destroyed; erasure; dead letters sent again; tenants opened by the ledger.
-- depends: 0006_manners

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- What is in the clear cannot be sealed here: the database does not have the secret.
DO $$
BEGIN
    IF EXISTS (SELECT FROM identity.users) THEN
        RAISE EXCEPTION 'identity.users has rows from before personal data was sealed'
            USING HINT = 'a version that wrote them was never released; begin with an empty database';
    END IF;
END
$$;

-- One key per person, sealed by a secret that the database does not have. Destroyed: what it sealed is noise for ever.
CREATE TABLE identity.subject_keys (
    user_id uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    key_sealed bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    destroyed_at timestamptz,
    CHECK ((key_sealed IS NULL) = (destroyed_at IS NOT NULL)),
    FOREIGN KEY (tenant_id, user_id) REFERENCES identity.users (tenant_id, user_id) DEFERRABLE INITIALLY DEFERRED
);

DROP FUNCTION identity.logins(text, text);
DROP INDEX identity.users_email, identity.users_by_email;
ALTER TABLE identity.users DROP COLUMN email, DROP COLUMN full_name,
    ADD COLUMN email_hash bytea CHECK (octet_length(email_hash) = 32),
    ADD COLUMN email_sealed bytea,
    ADD COLUMN full_name_sealed bytea;
CREATE UNIQUE INDEX users_email ON identity.users (tenant_id, email_hash);
CREATE INDEX users_by_email ON identity.users (email_hash);
CREATE INDEX users_by_age ON identity.users (tenant_id, created_at, user_id);
COMMENT ON COLUMN identity.users.email_hash IS 'keyed hash of the address in lower case: finds it, says nothing without the secret; null after an erasure';

ALTER TABLE identity.email_tokens DROP COLUMN email, ADD COLUMN email_hash bytea NOT NULL;
ALTER TABLE identity.sessions DROP COLUMN client, ADD COLUMN client_sealed bytea;

CREATE TABLE identity.erasure_requests (
    request_id uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    user_id uuid NOT NULL,
    status text COLLATE "C" NOT NULL CHECK (status IN ('requires_approval', 'pending', 'completed', 'rejected')),
    waits_for text[] NOT NULL DEFAULT '{}',
    maker text COLLATE "C" NOT NULL,
    checker text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at timestamptz,
    CHECK ((status = 'completed') = (completed_at IS NOT NULL)),
    CHECK (checker <> maker),
    FOREIGN KEY (tenant_id, user_id) REFERENCES identity.users (tenant_id, user_id)
);

CREATE UNIQUE INDEX erasure_requests_open ON identity.erasure_requests (user_id) WHERE status IN ('requires_approval', 'pending');
CREATE INDEX erasure_requests_by_age ON identity.erasure_requests (tenant_id, created_at, request_id);

-- A dead letter that someone wants to be tried again, and who allowed it. The letter itself stays in Kafka.
CREATE TABLE identity.requeues (
    requeue_id uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    partition integer NOT NULL CHECK (partition >= 0),
    offset_ bigint NOT NULL CHECK (offset_ >= 0),
    status text COLLATE "C" NOT NULL DEFAULT 'requires_approval' CHECK (status IN ('requires_approval', 'requeued', 'rejected')),
    maker text COLLATE "C" NOT NULL,
    checker text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_at timestamptz,
    CHECK (checker <> maker),
    CHECK ((status = 'requires_approval') = (checker IS NULL)),
    CHECK ((status = 'requires_approval') = (decided_at IS NULL))
);

CREATE UNIQUE INDEX requeues_of_letter ON identity.requeues (partition, offset_) WHERE status <> 'rejected';

-- Those that a setting names are open to the ledger from the start; the others when all its partitions know of them.
ALTER TABLE identity.tenants ADD COLUMN ledger_opened_at timestamptz;
UPDATE identity.tenants SET ledger_opened_at = created_at;
COMMENT ON COLUMN identity.tenants.ledger_opened_at IS 'since when every partition of the ledger takes commands of the tenant; null: not yet';

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['subject_keys', 'erasure_requests', 'requeues'] LOOP
        EXECUTE format('ALTER TABLE identity.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', table_name);
        EXECUTE format('CREATE POLICY own_tenant ON identity.%I TO aura_identity USING (tenant_id = current_setting(''aura.tenant'', true)) '
            'WITH CHECK (tenant_id = current_setting(''aura.tenant'', true))', table_name);
        EXECUTE format('CREATE POLICY every_tenant ON identity.%I TO aura_platform, aura_owner USING (true) WITH CHECK (true)', table_name);
    END LOOP;
END
$$;

CREATE TRIGGER destroyed_is_final BEFORE UPDATE ON identity.subject_keys FOR EACH ROW
    WHEN (OLD.key_sealed IS NULL OR NEW.key_sealed IS NOT NULL OR NEW.user_id <> OLD.user_id OR NEW.tenant_id <> OLD.tenant_id)
    EXECUTE FUNCTION identity.refuse_change();
CREATE TRIGGER decided_is_final BEFORE UPDATE ON identity.erasure_requests FOR EACH ROW
    WHEN (OLD.status IN ('completed', 'rejected') OR NEW.user_id <> OLD.user_id OR NEW.tenant_id <> OLD.tenant_id OR NEW.maker <> OLD.maker)
    EXECUTE FUNCTION identity.refuse_change();
CREATE TRIGGER decided_is_final BEFORE UPDATE ON identity.requeues FOR EACH ROW
    WHEN (OLD.status <> 'requires_approval') EXECUTE FUNCTION identity.refuse_change();

-- Before a tenant is known: who could be meant by an address at login. The only read across tenants by aura_identity.
CREATE FUNCTION identity.logins(address bytea, tenant text DEFAULT NULL)
RETURNS TABLE (tenant_id text, tenant_status text, tenant_name text, needs_verified_email boolean, user_id uuid, password_hash text, status text, is_verified boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.tenant_id, t.status, t.name, t.needs_verified_email, u.user_id, u.password_hash, u.status, u.verified_at IS NOT NULL
    FROM identity.users u JOIN identity.tenants t ON t.tenant_id = u.tenant_id
    WHERE u.email_hash = address AND u.password_hash IS NOT NULL AND (tenant IS NULL OR u.tenant_id = tenant)
    ORDER BY u.created_at, u.user_id
    LIMIT 8
$$;

-- The key that seals what the audit log says of an actor, who may be of another tenant than the log. Of use only with the secret.
CREATE FUNCTION identity.subject_key(subject uuid) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.key_sealed FROM identity.subject_keys k WHERE k.user_id = subject
$$;

-- Forgets a person of the transaction's tenant: the key goes, and with it what it sealed here, in the audit log and in
-- any copy without the key. The row of the user stays, since the ledger's entries do. False when there is no such user.
CREATE FUNCTION identity.erase(person uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE identity.users u SET status = 'DELETED', email_hash = NULL, email_sealed = NULL, full_name_sealed = NULL, password_hash = NULL,
        updated_at = clock_timestamp()
    WHERE u.user_id = person AND u.tenant_id = current_setting('aura.tenant', true);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE identity.subject_keys k SET key_sealed = NULL, destroyed_at = clock_timestamp() WHERE k.user_id = person AND k.key_sealed IS NOT NULL;
    DELETE FROM identity.email_tokens e WHERE e.user_id = person;
    DELETE FROM identity.outbox o WHERE o.user_id = person AND o.kind = 'mail';
    DELETE FROM identity.external_identities e WHERE e.user_id = person;
    DELETE FROM identity.stored_answers a WHERE a.tenant_id = current_setting('aura.tenant', true) AND a.actor = 'user:' || person AND a.status IS NOT NULL;
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION identity.logins, identity.subject_key, identity.erase FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.logins, identity.subject_key, identity.erase TO aura_identity;
GRANT EXECUTE ON FUNCTION identity.subject_key TO aura_platform;
GRANT UPDATE (ledger_opened_at) ON identity.tenants TO aura_platform;
GRANT SELECT ON identity.subject_keys, identity.erasure_requests, identity.requeues TO aura_identity;
GRANT SELECT ON identity.erasure_requests TO aura_platform;
GRANT INSERT ON identity.subject_keys, identity.erasure_requests, identity.requeues TO aura_identity;
GRANT UPDATE (email_hash, email_sealed, full_name_sealed) ON identity.users TO aura_identity;
GRANT UPDATE (status, waits_for, checker, updated_at, completed_at) ON identity.erasure_requests TO aura_identity;
GRANT UPDATE (status, checker, decided_at) ON identity.requeues TO aura_identity;

RESET ROLE;

-- migrate: rollback

-- A key that was destroyed does not come back.
DO $$
BEGIN
    RAISE EXCEPTION 'privacy is not rolled back; mend it by a new migration';
END
$$;
