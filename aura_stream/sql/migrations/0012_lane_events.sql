-- A lane whose breaker changes, or that is stopped or released, is an event: of the tenant whose money lies at the banks.
-- depends: 0011_reconciliation

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- Writes a lane's present state, and tells what is new about it.
CREATE FUNCTION settlement.lane_is(tenant text, lane_ text, breaker_ text, failures_ integer, stopped_ text, at timestamptz)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before settlement.lanes;
    about jsonb := jsonb_build_object('lane', lane_, 'breaker', breaker_, 'failures', failures_::text, 'stopped', stopped_);
BEGIN
    SELECT * INTO before FROM settlement.lanes WHERE lane = lane_ FOR UPDATE;
    INSERT INTO settlement.lanes (lane, breaker, failures, stopped, changed_at) VALUES (lane_, breaker_, failures_, stopped_, at)
    ON CONFLICT (lane) DO UPDATE SET
        breaker = excluded.breaker, failures = excluded.failures, stopped = excluded.stopped, changed_at = excluded.changed_at;
    IF coalesce(before.breaker, 'closed') <> breaker_ THEN
        PERFORM events.tell('auth', tenant, NULL, 'lane:' || lane_, 'lane.breaker_' ||
            CASE breaker_ WHEN 'open' THEN 'opened' ELSE breaker_ END, about);
    END IF;
    IF coalesce(before.stopped, '') <> stopped_ THEN
        PERFORM events.tell('auth', tenant, NULL, 'lane:' || lane_,
            CASE stopped_ WHEN '' THEN 'lane.released' ELSE 'lane.stopped' END, about);
    END IF;
END
$$;

REVOKE ALL ON FUNCTION settlement.lane_is FROM PUBLIC;
GRANT EXECUTE ON FUNCTION settlement.lane_is TO aura_writer;

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'lanes and what was told of them are not rolled back; mend it by a new migration';
END
$$;
