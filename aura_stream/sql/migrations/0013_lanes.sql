-- Lanes that stop: why, and who let them go on. Breaks and reports tell the log of events. Refused ids are found.
-- depends: 0012_sink_costs

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- An id that was given with a receipt, and whose command made no transaction, is found by it.
DROP INDEX ledger.refusals_by_pause;
CREATE INDEX refusals_by_id ON ledger.refusals (transaction_id) WHERE transaction_id IS NOT NULL;

-- What a lane holds back, and what it goes by; of minters.
ALTER TABLE settlement.lanes
    ADD COLUMN held_back text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN figures jsonb NOT NULL DEFAULT '{}';

COMMENT ON COLUMN settlement.lanes.stopped IS 'why it signs nothing until a person releases it; empty: it is not stopped';
COMMENT ON COLUMN settlement.lanes.held_back IS 'why what is queued waits although the lane is not stopped; it ends by itself';
COMMENT ON COLUMN settlement.lanes.figures IS 'of a minter: next_nonce, seen_nonce (used up on the chain when it stopped), and in minor units of its token mintable, in_flight, open_returns';

-- What became of each release, from the lane's journal.
CREATE TABLE settlement.lane_releases (
    release_id uuid PRIMARY KEY,
    lane text COLLATE "C" NOT NULL,
    stopped text COLLATE "C" NOT NULL,
    operator text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('released', 'not_stopped', 'stopped_otherwise')),
    at timestamptz NOT NULL
);

COMMENT ON COLUMN settlement.lane_releases.stopped IS 'the reason that the operator had read; another one is not released by it';

GRANT SELECT ON settlement.lane_releases TO aura_reader, aura_tenant;
GRANT SELECT ON settlement.progress TO aura_reader;
GRANT SELECT, INSERT ON settlement.lane_releases TO aura_writer;
GRANT USAGE ON SCHEMA settlement TO aura_platform, aura_reconciler;
GRANT SELECT ON settlement.lanes, settlement.lane_releases TO aura_platform, aura_reconciler;

-- What becomes of breaks is told, under the platform's name, which no tenant can have: breaks are of no tenant.
CREATE FUNCTION reconciliation.tell_break() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b record;
    about jsonb;
BEGIN
    IF NEW.action = 'assigned' THEN
        RETURN NULL;
    END IF;
    SELECT * INTO b FROM reconciliation.breaks WHERE break_id = NEW.break_id;
    about := jsonb_build_object('break_id', b.break_id::text, 'kind', b.kind, 'asset', b.asset, 'amount', b.amount::text,
        'bank_account', b.account, 'transaction_id', b.transaction_id::text, 'resolution', NEW.resolution);
    PERFORM events.tell('auth', '@platform', NULL, 'break_id:' || b.break_id,
        CASE NEW.action WHEN 'opened' THEN 'reconciliation.break_opened' ELSE 'reconciliation.break_closed' END, about);
    IF NEW.action = 'opened' AND b.kind IN ('supply_differs', 'custody_differs', 'not_backed') THEN
        PERFORM events.tell('auth', '@platform', NULL, 'break_id:' || b.break_id, 'reserve.breached', about);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER tell AFTER INSERT ON reconciliation.break_events FOR EACH ROW EXECUTE FUNCTION reconciliation.tell_break();
ALTER TABLE reconciliation.break_events ENABLE ALWAYS TRIGGER tell;
REVOKE ALL ON FUNCTION reconciliation.tell_break FROM PUBLIC;

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'releases are not rolled back; mend it by a new migration';
END
$$;
