-- A lane whose breaker changes, or that stops or goes on, is an event: of the platform, since a lane is no tenant's.
-- depends: 0011_reconciliation

-- migrate: apply

SET LOCAL ROLE aura_owner;

CREATE FUNCTION settlement.tell_lane() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    breaker_before text := 'closed';
    stopped_before text := '';
    about jsonb := jsonb_build_object('lane', NEW.lane, 'breaker', NEW.breaker, 'failures', NEW.failures::text, 'stopped', NEW.stopped);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        breaker_before := OLD.breaker;
        stopped_before := OLD.stopped;
    END IF;
    IF NEW.breaker <> breaker_before THEN
        PERFORM events.tell('auth', 'platform', NULL, 'lane:' || NEW.lane,
            CASE NEW.breaker WHEN 'open' THEN 'lane.breaker_opened' ELSE 'lane.breaker_' || NEW.breaker END, about);
    END IF;
    IF NEW.stopped <> stopped_before THEN
        PERFORM events.tell('auth', 'platform', NULL, 'lane:' || NEW.lane,
            CASE NEW.stopped WHEN '' THEN 'lane.released' ELSE 'lane.stopped' END, about);
    END IF;
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION settlement.tell_lane FROM PUBLIC;

CREATE TRIGGER tell AFTER INSERT OR UPDATE ON settlement.lanes FOR EACH ROW EXECUTE FUNCTION settlement.tell_lane();

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'what was told of lanes is not rolled back; mend it by a new migration';
END
$$;
