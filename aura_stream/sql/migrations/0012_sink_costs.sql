-- What the sink's rows cost: room for a transaction's next status in its page, and one look-up per journal.
-- depends: 0012_lane_events

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- A transaction changes once as a rule, with many others of its page in one statement, so a page must have room for all
-- of them a second time. Where it has not, the row moves, and each of its three indexes gets a new entry for it.
ALTER TABLE ledger.transactions SET (fillfactor = 40);

-- Debits = credits, as before: what is inserted must be each journal's whole leg set, agree with the journal and sum to
-- zero. Entries that differ in what they must have in common with their journal fall apart into several sets, none of
-- which is whole. Each journal is looked for once, not once per entry.
CREATE OR REPLACE FUNCTION ledger.check_entries() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    bad record;
BEGIN
    SELECT e.journal_id, e.total INTO bad
    FROM (
        SELECT n.journal_id, n.transaction_id, n.tenant_id, n.asset, n.partition, n.effective_at, n.posted_at,
            sum(n.amount) AS total, min(n.leg) AS first_leg, max(n.leg) AS last_leg, count(*) AS legs
        FROM new_entries n
        GROUP BY n.journal_id, n.transaction_id, n.tenant_id, n.asset, n.partition, n.effective_at, n.posted_at
    ) e
    LEFT JOIN ledger.journals j ON j.journal_id = e.journal_id
    WHERE (e.total = 0 AND e.first_leg = 0 AND e.last_leg = e.legs - 1 AND e.legs = j.leg_count
        AND e.transaction_id = j.transaction_id AND e.tenant_id = j.tenant_id AND e.asset = j.asset
        AND e.asset IN (SELECT a.asset FROM ledger.assets a)
        AND e.partition = j.partition AND e.effective_at = j.effective_at AND e.posted_at = j.posted_at) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries of journal % are not its whole, balanced leg set (sum %)', bad.journal_id, bad.total
            USING ERRCODE = 'check_violation', SCHEMA = 'ledger', TABLE = 'entries', CONSTRAINT = 'entries_balanced';
    END IF;
    RETURN NULL;
END
$$;

RESET ROLE;

-- migrate: rollback

-- Like the ledger itself it only goes forward.
DO $$
BEGIN
    RAISE EXCEPTION 'the ledger is not rolled back; mend it by a new migration';
END
$$;
