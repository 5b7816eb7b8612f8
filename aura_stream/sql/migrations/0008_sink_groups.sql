-- The sink writes several partitions in one transaction: their ids are far apart, so the check of entries goes by partition.
-- depends: 0007_privacy

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- Debits = credits, as before: what is inserted must be each journal's whole leg set, agree with the journal and sum to
-- zero. Planned once per session, so as it is right at any size: journals are found one by one, by their key.
CREATE OR REPLACE FUNCTION ledger.check_entries() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    bad record;
BEGIN
    SELECT e.journal_id, sum(e.amount) AS total INTO bad
    FROM new_entries e
    LEFT JOIN ledger.journals j ON j.journal_id = e.journal_id
    GROUP BY e.journal_id
    HAVING sum(e.amount) <> 0
        OR min(e.leg) <> 0
        OR max(e.leg) <> count(*) - 1
        OR (count(*) = min(j.leg_count)) IS NOT TRUE
        OR bool_and(e.tenant_id = j.tenant_id AND e.asset = j.asset AND e.asset IN (SELECT a.asset FROM ledger.assets a) AND e.transaction_id = j.transaction_id
            AND e.partition = j.partition AND e.effective_at = j.effective_at AND e.posted_at = j.posted_at) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries of journal % are not its whole, balanced leg set (sum %)', bad.journal_id, bad.total
            USING ERRCODE = 'check_violation', SCHEMA = 'ledger', TABLE = 'entries', CONSTRAINT = 'entries_balanced';
    END IF;
    RETURN NULL;
END
$$;

-- The seal of units as it was; planned once per session: its ranges are read by the keys at any size.
ALTER FUNCTION ledger.check_units() SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION ledger.check_units() SET enable_seqscan = off;

RESET ROLE;

-- migrate: rollback

-- Like the ledger itself it only goes forward.
DO $$
BEGIN
    RAISE EXCEPTION 'the ledger is not rolled back; mend it by a new migration';
END
$$;
