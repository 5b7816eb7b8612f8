-- The ledger's tables show the API one tenant at a time, whatever its queries say.
-- depends: 0003_identity

-- migrate: apply

-- aura_tenant: what the API reads the ledger as. Its transactions name a tenant; without one they see nothing.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'aura_tenant') THEN
        BEGIN
            CREATE ROLE aura_tenant NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'aura_tenant', 'SET') THEN
        EXECUTE format('GRANT aura_tenant TO %I', current_user);
    END IF;
    -- COPY does not work under row level security. The writer may insert and change columns of status, for all tenants.
    IF NOT (SELECT rolbypassrls FROM pg_roles WHERE rolname = 'aura_writer') THEN
        ALTER ROLE aura_writer BYPASSRLS;
    END IF;
END
$$;

SET LOCAL ROLE aura_owner;

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['accounts', 'transactions', 'journals', 'entries', 'refusals', 'balance_checkpoints'] LOOP
        EXECUTE format('ALTER TABLE ledger.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', table_name);
        EXECUTE format('CREATE POLICY own_tenant ON ledger.%I FOR SELECT TO aura_tenant USING (tenant_id = current_setting(''aura.tenant'', true))', table_name);
        EXECUTE format('CREATE POLICY every_tenant ON ledger.%I TO aura_owner, aura_reader USING (true) WITH CHECK (true)', table_name);
    END LOOP;
END
$$;

-- A view that its owner runs would show every tenant.
ALTER VIEW ledger.balances SET (security_invoker = true);
ALTER VIEW ledger.in_flight SET (security_invoker = true);

GRANT USAGE ON SCHEMA ledger TO aura_tenant;
GRANT SELECT ON ledger.assets, ledger.accounts, ledger.transactions, ledger.journals, ledger.entries, ledger.refusals, ledger.balance_checkpoints,
    ledger.units, ledger.sink_offsets, ledger.balances, ledger.in_flight TO aura_tenant;
GRANT EXECUTE ON FUNCTION ledger.normal_side, ledger.house_accounts, ledger.balance_as_of TO aura_tenant;

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'the wall between tenants is not taken down; mend it by a new migration';
END
$$;
