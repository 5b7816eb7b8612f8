-- The ledger: schema, integrity, views.
-- depends:

-- migrate: apply

-- Roles belong to the whole cluster: two databases may be migrated at once, so an existing role is no error.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['aura_owner', 'aura_writer', 'aura_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        -- Whoever migrates without being a superuser must be able to act as the roles it has made.
        IF NOT pg_has_role(current_user, role_name, 'SET') THEN
            EXECUTE format('GRANT %I TO %I', role_name, current_user);
        END IF;
    END LOOP;
END
$$;

CREATE SCHEMA ledger AUTHORIZATION aura_owner;

SET LOCAL ROLE aura_owner;

-- What an asset is; append-only, since every entry ever written is read by its scale.
CREATE TABLE ledger.assets (
    asset text COLLATE "C" PRIMARY KEY,
    scale smallint NOT NULL CHECK (scale BETWEEN 0 AND 18)
);

-- Customers' accounts. House accounts (they begin with @) need no row: they are never opened, frozen or closed.
CREATE TABLE ledger.accounts (
    tenant_id text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL REFERENCES ledger.assets,
    name text COLLATE "C",
    status text COLLATE "C" NOT NULL CHECK (status IN ('open', 'frozen', 'closed')),
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    partition integer NOT NULL,
    PRIMARY KEY (tenant_id, account_id),
    CHECK (account_id NOT LIKE '@%'),
    CHECK ((status = 'closed') = (closed_at IS NOT NULL))
);

CREATE INDEX accounts_of_customer ON ledger.accounts (tenant_id, customer_id);

-- What customers asked for, with its present status: a projection, written in the same commit as its entries.
-- No indexed column ever changes, and a page keeps room, so that a change of status touches no index (HOT).
CREATE TABLE ledger.transactions (
    transaction_id uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL CHECK (status IN ('created', 'requires_approval', 'processing', 'completed', 'failed', 'canceled', 'requires_attention')),
    state text COLLATE "C" NOT NULL,
    reason text COLLATE "C",
    asset text COLLATE "C" NOT NULL,
    amount numeric(38, 0) NOT NULL,
    from_account_id text COLLATE "C",
    to_account_id text COLLATE "C",
    captured_amount numeric(38, 0),
    idempotency_key text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    expires_at timestamptz,
    seq integer NOT NULL CHECK (seq >= 1),
    partition integer NOT NULL,
    journal_ids bigint[] NOT NULL,
    history jsonb NOT NULL,
    CONSTRAINT transactions_idempotency UNIQUE (tenant_id, customer_id, idempotency_key)
) WITH (fillfactor = 75);

CREATE INDEX transactions_of_customer ON ledger.transactions (tenant_id, customer_id, created_at, transaction_id);

COMMENT ON COLUMN ledger.transactions.amount IS 'minor units as asked for; zero or negative only in a failed row';
COMMENT ON COLUMN ledger.transactions.journal_ids IS 'all journals of the transaction, the receiver''s half included, oldest first';
COMMENT ON COLUMN ledger.transactions.history IS 'its events, oldest first: [{seq, type, status, state, reason, at (ms since 1970), journal_seq, command_id}]; empty fields are left out';

-- One balanced step of one transaction. journal_id = partition * 2^48 + the shard's dense number, 1 for the first.
-- No foreign key to transactions: the receiver's half may be committed before the sender's.
CREATE TABLE ledger.journals (
    journal_id bigint PRIMARY KEY,
    partition integer NOT NULL,
    transaction_id uuid NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    leg_count smallint NOT NULL CHECK (leg_count >= 2),
    effective_at timestamptz NOT NULL,
    posted_at timestamptz NOT NULL,
    journal_seq bigint NOT NULL,
    CONSTRAINT journals_id CHECK ((journal_id >> 48) = partition AND (journal_id & 281474976710655) >= 1)
);

COMMENT ON COLUMN ledger.journals.journal_seq IS 'seq of the unit (ledger.units) that booked it';

-- The money. amount: signed minor units, debit +, credit -.
CREATE TABLE ledger.entries (
    journal_id bigint NOT NULL,
    leg smallint NOT NULL,
    transaction_id uuid NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    amount numeric(38, 0) NOT NULL CHECK (amount <> 0),
    layer text COLLATE "C" NOT NULL CHECK (layer IN ('available', 'held', 'pending_in')),
    partition integer NOT NULL,
    effective_at timestamptz NOT NULL,
    posted_at timestamptz NOT NULL,
    PRIMARY KEY (journal_id, leg)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- The one index beside the key: an account's slice of a partition is one range of journal_id, oldest first, so that
-- balances, balances as known at a time, statements and checkpoints are all index-only reads of one range.
CREATE INDEX entries_of_account ON ledger.entries (tenant_id, account_id, journal_id) INCLUDE (effective_at, layer, asset, amount);

-- Commands refused by business that made no transaction.
CREATE TABLE ledger.refusals (
    partition integer NOT NULL,
    journal_seq bigint NOT NULL,
    line integer NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    command_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    detail text COLLATE "C",
    transaction_id text COLLATE "C",
    account_id text COLLATE "C",
    at timestamptz NOT NULL,
    PRIMARY KEY (partition, journal_seq, line)
);

CREATE INDEX refusals_of_customer ON ledger.refusals (tenant_id, customer_id, idempotency_key);

-- One row per journal message: what it read (in its last part), what it made. Its insert seals the batch.
CREATE TABLE ledger.units (
    partition integer NOT NULL,
    seq bigint NOT NULL CHECK (seq >= 1),
    inputs jsonb NOT NULL,
    counters jsonb NOT NULL,
    last boolean NOT NULL,
    rules jsonb,
    at timestamptz NOT NULL,
    committed_at timestamptz NOT NULL,
    PRIMARY KEY (partition, seq)
);

CREATE INDEX units_by_knowledge ON ledger.units (partition, committed_at, seq);

COMMENT ON COLUMN ledger.units.inputs IS '[["commands", first, last], ["signals", first, last], ["clock", ms], ["rules", hash]], in the order they were read';
COMMENT ON COLUMN ledger.units.counters IS 'first_journal, last_journal (numbers; last = first - 1 without journals), entries, transactions, changes, received, accounts, repeats, refusals, dead_letters, answers (to commands)';
COMMENT ON COLUMN ledger.units.at IS 'the shard''s time after the unit';
COMMENT ON COLUMN ledger.units.committed_at IS 'knowledge time: monotone per partition, set under the fence';

-- How far each partition of the journal topic is in here. Not money; the one row a sink may change.
CREATE TABLE ledger.sink_offsets (
    partition integer PRIMARY KEY CHECK (partition BETWEEN 0 AND 32767),
    next_offset bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 1,
    last_seq bigint NOT NULL DEFAULT 0,
    last_journal bigint NOT NULL DEFAULT 0,
    committed_at timestamptz,
    commands_offset bigint NOT NULL DEFAULT 0,
    signals_offset bigint NOT NULL DEFAULT 0,
    shard_time timestamptz
);

COMMENT ON COLUMN ledger.sink_offsets.next_offset IS 'of the journal topic: the next one to write';
COMMENT ON COLUMN ledger.sink_offsets.commands_offset IS 'all commands below it are reflected here, whole';
COMMENT ON COLUMN ledger.sink_offsets.signals_offset IS 'all signals below it are reflected here, whole';

-- Sums of an account's slice of one partition, one row per block of entries. Derived, provable, never needed for
-- being right: a checkpoint only saves reading what lies before it. The blocks of a slice form a chain
-- (journal_after, journal_through]; totals and effective_max are of the whole chain up to here, effective_min of the
-- block alone, which tells a question about the past whether a back-dated entry may hide in it.
CREATE TABLE ledger.balance_checkpoints (
    tenant_id text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    journal_after bigint NOT NULL,
    journal_through bigint NOT NULL,
    entry_count bigint NOT NULL,
    available numeric NOT NULL,
    held numeric NOT NULL,
    pending_in numeric NOT NULL,
    effective_min timestamptz NOT NULL,
    effective_max timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, account_id, partition, journal_through),
    UNIQUE (tenant_id, account_id, partition, journal_after),
    CHECK (journal_through > journal_after)
);

-- Immutability. ENABLE ALWAYS: for the owner and for replication as well.
CREATE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ledger.% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation', SCHEMA = 'ledger', TABLE = TG_TABLE_NAME, CONSTRAINT = TG_TABLE_NAME || '_immutable';
END
$$;

CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON ledger.assets FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON ledger.journals FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON ledger.entries FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON ledger.refusals FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON ledger.units FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON ledger.balance_checkpoints FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.assets FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.journals FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.entries FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.refusals FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.units FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.balance_checkpoints FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- Projections change, but never lose a row, never leave a terminal status, never go back.
CREATE TRIGGER immutable BEFORE DELETE ON ledger.transactions FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable BEFORE DELETE ON ledger.accounts FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable BEFORE DELETE ON ledger.sink_offsets FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.transactions FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.accounts FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.sink_offsets FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER terminal_is_final BEFORE UPDATE ON ledger.transactions FOR EACH ROW
    WHEN ((OLD.status IN ('completed', 'failed', 'canceled') AND NEW.status <> OLD.status) OR NEW.seq <= OLD.seq
        OR NEW.transaction_id <> OLD.transaction_id OR NEW.tenant_id <> OLD.tenant_id OR NEW.customer_id <> OLD.customer_id
        OR NEW.asset <> OLD.asset OR NEW.amount <> OLD.amount OR NEW.idempotency_key <> OLD.idempotency_key)
    EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER closed_is_final BEFORE UPDATE ON ledger.accounts FOR EACH ROW
    WHEN (OLD.status = 'closed' OR NEW.tenant_id <> OLD.tenant_id OR NEW.account_id <> OLD.account_id OR NEW.asset <> OLD.asset)
    EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER forward_only BEFORE UPDATE ON ledger.sink_offsets FOR EACH ROW
    WHEN (NEW.partition <> OLD.partition OR NEW.next_offset < OLD.next_offset OR NEW.epoch < OLD.epoch
        OR NEW.last_seq < OLD.last_seq OR NEW.last_journal < OLD.last_journal OR NEW.committed_at < OLD.committed_at)
    EXECUTE FUNCTION ledger.refuse_change();

ALTER TABLE ledger.assets ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;
ALTER TABLE ledger.journals ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;
ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;
ALTER TABLE ledger.refusals ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;
ALTER TABLE ledger.units ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;
ALTER TABLE ledger.balance_checkpoints ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;
ALTER TABLE ledger.transactions ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole, ENABLE ALWAYS TRIGGER terminal_is_final;
ALTER TABLE ledger.accounts ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole, ENABLE ALWAYS TRIGGER closed_is_final;
ALTER TABLE ledger.sink_offsets ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole, ENABLE ALWAYS TRIGGER forward_only;

-- Debits = credits. All legs of a journal come in one statement: what is inserted must be each journal's whole leg
-- set, agree with the journal and sum to zero, so no leg can be added later. Planned anew each time, by range, since
-- the tables outgrow any cached plan.
CREATE FUNCTION ledger.check_entries() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    lowest bigint;
    highest bigint;
    bad record;
BEGIN
    SELECT min(journal_id), max(journal_id) INTO lowest, highest FROM new_entries;
    SELECT e.journal_id, sum(e.amount) AS total INTO bad
    FROM new_entries e
    LEFT JOIN (SELECT * FROM ledger.journals WHERE journal_id BETWEEN lowest AND highest) j ON j.journal_id = e.journal_id
    LEFT JOIN ledger.assets a ON a.asset = e.asset
    GROUP BY e.journal_id
    HAVING sum(e.amount) <> 0
        OR min(e.leg) <> 0
        OR max(e.leg) <> count(*) - 1
        OR (count(*) = min(j.leg_count)) IS NOT TRUE
        OR bool_and(e.tenant_id = j.tenant_id AND e.asset = j.asset AND a.asset IS NOT NULL AND e.transaction_id = j.transaction_id
            AND e.partition = j.partition AND e.effective_at = j.effective_at AND e.posted_at = j.posted_at) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'entries of journal % are not its whole, balanced leg set (sum %)', bad.journal_id, bad.total
            USING ERRCODE = 'check_violation', SCHEMA = 'ledger', TABLE = 'entries', CONSTRAINT = 'entries_balanced';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER balanced AFTER INSERT ON ledger.entries REFERENCING NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_entries();
ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER balanced;

-- The seal: what a unit names really is here. Entries come only as whole leg sets, so equal counts mean that every
-- journal has its entries.
CREATE FUNCTION ledger.check_units() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    sealed record;
    journal_count bigint;
    leg_total bigint;
    entry_count bigint;
BEGIN
    FOR sealed IN
        SELECT partition, min(seq) AS first_seq, max(seq) AS last_seq,
            (partition::bigint << 48) + min((counters ->> 'first_journal')::bigint) AS lowest,
            (partition::bigint << 48) + max((counters ->> 'last_journal')::bigint) AS highest,
            count(*) AS unit_count,
            sum((counters ->> 'last_journal')::bigint - (counters ->> 'first_journal')::bigint + 1) AS journals,
            sum((counters ->> 'entries')::bigint) AS entries
        FROM new_units
        GROUP BY partition
    LOOP
        SELECT count(*), coalesce(sum(leg_count), 0) INTO journal_count, leg_total
        FROM ledger.journals
        WHERE journal_id BETWEEN sealed.lowest AND sealed.highest AND journal_seq BETWEEN sealed.first_seq AND sealed.last_seq;
        SELECT count(*) INTO entry_count
        FROM ledger.entries
        WHERE journal_id BETWEEN sealed.lowest AND sealed.highest;
        IF (sealed.unit_count = sealed.last_seq - sealed.first_seq + 1
            AND sealed.journals = sealed.highest - sealed.lowest + 1
            AND journal_count = sealed.journals
            AND leg_total = sealed.entries
            AND entry_count = sealed.entries) IS NOT TRUE
        THEN
            RAISE EXCEPTION 'units % to % of partition % name % journals and % entries, but % and % are here',
                sealed.first_seq, sealed.last_seq, sealed.partition, sealed.journals, sealed.entries, journal_count, entry_count
                USING ERRCODE = 'check_violation', SCHEMA = 'ledger', TABLE = 'units', CONSTRAINT = 'units_sealed';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER sealed AFTER INSERT ON ledger.units REFERENCING NEW TABLE AS new_units
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.check_units();
ALTER TABLE ledger.units ENABLE ALWAYS TRIGGER sealed;

-- D for accounts that grow by debits, C for those that grow by credits (all customers' accounts).
CREATE FUNCTION ledger.normal_side(account_id text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURNS NULL ON NULL INPUT AS $$
    SELECT CASE
        WHEN split_part($1, ':', 1) IN ('@bank', '@custody', '@receivable', '@expense', '@merchant') THEN 'D'
        WHEN $1 LIKE '@rail:%:in_transit:%' THEN 'D'
        ELSE 'C'
    END
$$;

-- The house accounts that have entries, found by jumping through the index: their number counts, not their entries'.
CREATE FUNCTION ledger.house_accounts() RETURNS TABLE (tenant_id text, account_id text, asset text) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH RECURSIVE tenants (tenant_id) AS (
        (SELECT e.tenant_id FROM ledger.entries e ORDER BY e.tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT e.tenant_id FROM ledger.entries e WHERE e.tenant_id > t.tenant_id ORDER BY e.tenant_id LIMIT 1)
        FROM tenants t WHERE t.tenant_id IS NOT NULL
    ), house (tenant_id, account_id, asset) AS (
        SELECT t.tenant_id, f.account_id, f.asset
        FROM tenants t
        CROSS JOIN LATERAL (
            SELECT e.account_id, e.asset FROM ledger.entries e
            WHERE e.tenant_id = t.tenant_id AND e.account_id >= '@' AND e.account_id < 'A'
            ORDER BY e.account_id LIMIT 1
        ) f
        UNION ALL
        SELECT h.tenant_id, n.account_id, n.asset
        FROM house h
        CROSS JOIN LATERAL (
            SELECT e.account_id, e.asset FROM ledger.entries e
            WHERE e.tenant_id = h.tenant_id AND e.account_id > h.account_id AND e.account_id < 'A'
            ORDER BY e.account_id LIMIT 1
        ) n
    )
    SELECT h.tenant_id, h.account_id, h.asset FROM house h
$$;

-- Balances now, computed from the entries: per slice the last checkpoint and what came after it. Minor units, the sign
-- turned by the account's normal side: a customer's money is positive. posted = available + held.
CREATE VIEW ledger.balances AS
SELECT s.tenant_id, s.account_id, s.asset,
    sum(s.available + s.held) * s.sign AS posted,
    sum(s.pending_in) * s.sign AS pending,
    sum(s.available) * s.sign AS available
FROM (
    SELECT a.tenant_id, a.account_id, a.asset,
        CASE ledger.normal_side(a.account_id) WHEN 'D' THEN 1 ELSE -1 END AS sign,
        coalesce(c.available, 0) + coalesce(t.available, 0) AS available,
        coalesce(c.held, 0) + coalesce(t.held, 0) AS held,
        coalesce(c.pending_in, 0) + coalesce(t.pending_in, 0) AS pending_in
    FROM (
        SELECT tenant_id, account_id, asset, partition FROM ledger.accounts
        UNION ALL
        SELECT h.tenant_id, h.account_id, h.asset, o.partition FROM ledger.house_accounts() h CROSS JOIN ledger.sink_offsets o
    ) a
    LEFT JOIN LATERAL (
        SELECT b.journal_through, b.available, b.held, b.pending_in
        FROM ledger.balance_checkpoints b
        WHERE b.tenant_id = a.tenant_id AND b.account_id = a.account_id AND b.partition = a.partition
        ORDER BY b.journal_through DESC LIMIT 1
    ) c ON true
    CROSS JOIN LATERAL (
        SELECT sum(e.amount) FILTER (WHERE e.layer = 'available') AS available,
            sum(e.amount) FILTER (WHERE e.layer = 'held') AS held,
            sum(e.amount) FILTER (WHERE e.layer = 'pending_in') AS pending_in
        FROM ledger.entries e
        WHERE e.tenant_id = a.tenant_id AND e.account_id = a.account_id
            AND e.journal_id > coalesce(c.journal_through, a.partition::bigint << 48)
            AND e.journal_id < (a.partition + 1)::bigint << 48
    ) t
) s
GROUP BY s.tenant_id, s.account_id, s.asset, s.sign;

-- Money between two customers' partitions, per tenant and asset.
CREATE VIEW ledger.in_flight AS
SELECT tenant_id, asset, posted AS amount FROM ledger.balances WHERE account_id LIKE '@clearing:%';

-- The balance of one account as of effective_at, as it was known at known_at (units.committed_at). Exact with
-- back-dated entries. known_at repeats exactly once it is older than the sink's time-out for one write.
-- Per slice: the last checkpoint that lies wholly before both times; then each later block that may hold an entry
-- effective by then; then what no checkpoint covers.
CREATE FUNCTION ledger.balance_as_of(
    tenant text, account text, effective_at timestamptz DEFAULT 'infinity', known_at timestamptz DEFAULT 'infinity',
    OUT posted numeric, OUT pending numeric, OUT available numeric
) RETURNS record LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH slices AS MATERIALIZED (
        SELECT o.partition, k.through,
            coalesce(b.journal_through, o.partition::bigint << 48) AS covered,
            coalesce(b.available, 0) AS available, coalesce(b.held, 0) AS held, coalesce(b.pending_in, 0) AS pending_in
        FROM ledger.sink_offsets o
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN $4 = 'infinity' THEN ((o.partition + 1)::bigint << 48) - 1
                ELSE (o.partition::bigint << 48) + coalesce((
                    SELECT (u.counters ->> 'last_journal')::bigint
                    FROM ledger.units u
                    WHERE u.partition = o.partition AND u.committed_at <= $4
                    ORDER BY u.committed_at DESC, u.seq DESC LIMIT 1
                ), 0)
            END AS through
        ) k
        LEFT JOIN LATERAL (
            SELECT c.journal_through, c.available, c.held, c.pending_in
            FROM ledger.balance_checkpoints c
            WHERE c.tenant_id = $1 AND c.account_id = $2 AND c.partition = o.partition
                AND c.journal_through <= k.through AND c.effective_max <= $3
            ORDER BY c.journal_through DESC LIMIT 1
        ) b ON true
    ), ranges AS (
        SELECT c.journal_after AS after, least(c.journal_through, s.through) AS through
        FROM slices s
        JOIN ledger.balance_checkpoints c ON c.tenant_id = $1 AND c.account_id = $2 AND c.partition = s.partition
            AND c.journal_after >= s.covered AND c.journal_after < s.through AND c.effective_min <= $3
        UNION ALL
        SELECT coalesce((
            SELECT max(c.journal_through) FROM ledger.balance_checkpoints c
            WHERE c.tenant_id = $1 AND c.account_id = $2 AND c.partition = s.partition
        ), s.covered), s.through
        FROM slices s
    ), parts AS (
        SELECT s.available, s.held, s.pending_in FROM slices s
        UNION ALL
        SELECT coalesce(t.available, 0), coalesce(t.held, 0), coalesce(t.pending_in, 0)
        FROM ranges r
        CROSS JOIN LATERAL (
            SELECT sum(e.amount) FILTER (WHERE e.layer = 'available') AS available,
                sum(e.amount) FILTER (WHERE e.layer = 'held') AS held,
                sum(e.amount) FILTER (WHERE e.layer = 'pending_in') AS pending_in
            FROM ledger.entries e
            WHERE e.tenant_id = $1 AND e.account_id = $2 AND e.journal_id > r.after AND e.journal_id <= r.through AND e.effective_at <= $3
        ) t
    )
    SELECT coalesce(sum(p.available + p.held), 0) * n.sign, coalesce(sum(p.pending_in), 0) * n.sign, coalesce(sum(p.available), 0) * n.sign
    FROM (SELECT CASE ledger.normal_side($2) WHEN 'D' THEN 1 ELSE -1 END AS sign) n
    LEFT JOIN parts p ON true
    GROUP BY n.sign
$$;

-- Writes the checkpoints of one account (of one partition, if named) that are due: one per full block of block_entries
-- entries of a slice. Returns how many. What a snapshot shows of a partition is a prefix of it, so a block can never gain an entry later. Runs as
-- the owner: nobody else may insert a checkpoint. Two at once cannot overlap: the chain's unique key refuses.
CREATE FUNCTION ledger.write_checkpoints(tenant text, account text, block_entries integer DEFAULT 4000, only_partition integer DEFAULT NULL)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    written bigint;
BEGIN
    IF block_entries < 1 THEN
        RAISE EXCEPTION 'block_entries must be above zero' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('ledger.checkpoints/' || tenant || '/' || account, 0));
    WITH slices AS (
        SELECT o.partition, coalesce(c.journal_through, o.partition::bigint << 48) AS covered, coalesce(c.entry_count, 0) AS entry_count,
            coalesce(c.available, 0) AS available, coalesce(c.held, 0) AS held, coalesce(c.pending_in, 0) AS pending_in, c.effective_max
        FROM ledger.sink_offsets o
        LEFT JOIN LATERAL (
            SELECT * FROM ledger.balance_checkpoints b
            WHERE b.tenant_id = tenant AND b.account_id = account AND b.partition = o.partition
            ORDER BY b.journal_through DESC LIMIT 1
        ) c ON true
        WHERE o.partition = coalesce(only_partition, o.partition)
    ), fresh AS (
        -- rank() gives all entries of a journal one number: a block never splits a journal.
        SELECT s.partition, e.journal_id, e.asset, e.layer, e.amount, e.effective_at,
            (rank() OVER (PARTITION BY s.partition ORDER BY e.journal_id) - 1) / block_entries AS block
        FROM slices s
        JOIN ledger.entries e ON e.tenant_id = tenant AND e.account_id = account
            AND e.journal_id > s.covered AND e.journal_id < (s.partition + 1)::bigint << 48
    ), blocks AS (
        SELECT f.partition, f.block, min(f.asset) AS asset, max(f.journal_id) AS through, count(*) AS entry_count,
            coalesce(sum(f.amount) FILTER (WHERE f.layer = 'available'), 0) AS available,
            coalesce(sum(f.amount) FILTER (WHERE f.layer = 'held'), 0) AS held,
            coalesce(sum(f.amount) FILTER (WHERE f.layer = 'pending_in'), 0) AS pending_in,
            min(f.effective_at) AS effective_min, max(f.effective_at) AS effective_max,
            max(f.block) OVER (PARTITION BY f.partition) AS last_block
        FROM fresh f GROUP BY f.partition, f.block
    )
    INSERT INTO ledger.balance_checkpoints (tenant_id, account_id, asset, partition, journal_after, journal_through,
        entry_count, available, held, pending_in, effective_min, effective_max)
    SELECT tenant, account, b.asset, b.partition, coalesce(lag(b.through) OVER w, s.covered), b.through,
        s.entry_count + sum(b.entry_count) OVER w, s.available + sum(b.available) OVER w, s.held + sum(b.held) OVER w,
        s.pending_in + sum(b.pending_in) OVER w, b.effective_min, greatest(s.effective_max, max(b.effective_max) OVER w)
    FROM blocks b JOIN slices s ON s.partition = b.partition
    WHERE b.block < b.last_block OR b.entry_count >= block_entries
    WINDOW w AS (PARTITION BY b.partition ORDER BY b.block);
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END
$$;

-- Grants. Neither role owns anything; only projections and the sink's own row may be changed, column by column.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ledger FROM PUBLIC;
GRANT USAGE ON SCHEMA ledger TO aura_writer, aura_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO aura_writer, aura_reader;
GRANT INSERT ON ledger.accounts, ledger.transactions, ledger.journals, ledger.entries, ledger.refusals, ledger.units, ledger.sink_offsets TO aura_writer;
GRANT UPDATE (status, state, reason, captured_amount, updated_at, seq, journal_ids, history) ON ledger.transactions TO aura_writer;
GRANT UPDATE (status, closed_at) ON ledger.accounts TO aura_writer;
GRANT UPDATE (next_offset, epoch, last_seq, last_journal, committed_at, commands_offset, signals_offset, shard_time) ON ledger.sink_offsets TO aura_writer;
GRANT EXECUTE ON FUNCTION ledger.normal_side, ledger.house_accounts, ledger.balance_as_of TO aura_writer, aura_reader;
GRANT EXECUTE ON FUNCTION ledger.write_checkpoints TO aura_writer;

RESET ROLE;

-- migrate: rollback

-- A ledger is not rolled back: its entries are append-only. A mistake in the schema is mended by a migration forward.
DO $$
BEGIN
    RAISE EXCEPTION 'the ledger is not rolled back; mend it by a new migration';
END
$$;
