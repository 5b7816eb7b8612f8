-- How far the clock of the sandbox is moved, from the log of events; what webhooks wait for comes nearer with it.
-- depends: 0017_forget_more

-- migrate: apply

SET LOCAL ROLE aura_owner;

CREATE TABLE events.clock (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    moved_ms bigint NOT NULL DEFAULT 0 CHECK (moved_ms >= 0),
    taken_ms bigint NOT NULL DEFAULT 0 CHECK (taken_ms >= 0)
);

INSERT INTO events.clock DEFAULT VALUES;

COMMENT ON TABLE events.clock IS 'how far the time of the ledger is ahead of the machines'', and how far every partition and lane has it; 0 in live mode';

GRANT USAGE ON SCHEMA events TO aura_tenant;
GRANT SELECT ON events.clock TO aura_reader, aura_tenant;

-- Deliveries and leases are of this world's time, and so are the stamps of signatures, which receivers check. That time
-- passes for webhooks means that what they wait for is nearer. The largest sum holds, in whatever order it is told.
CREATE FUNCTION events.move_clock() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told bigint := (NEW.body::jsonb #>> '{data,clock,moved_ms}')::bigint;
    step interval;
BEGIN
    IF NEW.type = 'clock.moved' THEN
        UPDATE events.clock SET taken_ms = told WHERE taken_ms < told;
        RETURN NULL;
    END IF;
    SELECT make_interval(secs => (told - c.moved_ms) / 1000.0) INTO step FROM events.clock c WHERE c.moved_ms < told FOR UPDATE;
    IF FOUND THEN
        UPDATE events.clock SET moved_ms = told;
        UPDATE events.webhook_deliveries SET next_at = next_at - step WHERE status = 'pending';
        UPDATE events.webhook_endpoints SET failing_since = failing_since - step WHERE failing_since IS NOT NULL;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER move_clock AFTER INSERT ON events.log FOR EACH ROW
WHEN (NEW.type IN ('clock.advanced', 'clock.moved')) EXECUTE FUNCTION events.move_clock();

REVOKE ALL ON FUNCTION events.move_clock FROM PUBLIC;

RESET ROLE;

-- migrate: rollback

SET LOCAL ROLE aura_owner;

DROP TRIGGER move_clock ON events.log;
DROP FUNCTION events.move_clock;
DROP TABLE events.clock;
REVOKE USAGE ON SCHEMA events FROM aura_tenant;

RESET ROLE;
