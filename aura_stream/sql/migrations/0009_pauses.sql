-- Pauses: which stand, from the log of events. A pause is about no tenant or about one; operators see all.
-- depends: 0008_sink_groups

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- Ids that were given with a receipt, and then not taken because of a pause.
CREATE INDEX refusals_by_pause ON ledger.refusals (transaction_id) WHERE reason = 'paused';

CREATE INDEX log_of_pauses ON events.log (position) WHERE type LIKE 'pause.%';

-- The events of all pauses that stand, and of the last thousand that were lifted, in the order of the log.
CREATE FUNCTION events.pauses() RETURNS TABLE (body text) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH told AS MATERIALIZED (
        SELECT l.position, l.type, l.body, l.body::jsonb #>> '{data,pause,id}' AS pause_id
        FROM events.log l WHERE l.type LIKE 'pause.%'
    ), wanted AS (
        SELECT t.pause_id FROM told t GROUP BY t.pause_id
        ORDER BY bool_or(t.type = 'pause.lifted'), max(t.position) DESC LIMIT 1000
    )
    SELECT t.body FROM told t JOIN wanted USING (pause_id) ORDER BY t.position
$$;

REVOKE ALL ON FUNCTION events.pauses FROM PUBLIC;
GRANT EXECUTE ON FUNCTION events.pauses TO aura_identity;

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'the ledger is not rolled back; mend it by a new migration';
END
$$;
