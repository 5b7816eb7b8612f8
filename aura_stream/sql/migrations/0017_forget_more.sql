-- To be forgotten takes names of API keys and webhooks along.
-- depends: 0015_chain_doors

-- migrate: apply

SET LOCAL ROLE aura_owner;

CREATE OR REPLACE FUNCTION identity.erase(person uuid) RETURNS boolean
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
    -- What the person has named, and where they are told: theirs, and said in the clear.
    UPDATE identity.api_keys a SET name = '' WHERE a.user_id = person;
    DELETE FROM events.webhook_endpoints w USING identity.users u
    WHERE u.user_id = person AND w.tenant_id = u.tenant_id AND w.customer_id = u.customer_id;
    RETURN true;
END
$$;

RESET ROLE;

-- migrate: rollback

SET LOCAL ROLE aura_owner;

CREATE OR REPLACE FUNCTION identity.erase(person uuid) RETURNS boolean
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

RESET ROLE;
