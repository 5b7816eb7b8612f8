-- Reconciliation: statements of banks, what they were matched with, breaks and what became of them, reports of reserves.
-- depends: 0010_attempts

-- migrate: apply

-- aura_reconciler: what `aura reconcile` acts as. It reads the ledger of all tenants, appends here, and owns nothing.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'aura_reconciler') THEN
        BEGIN
            CREATE ROLE aura_reconciler NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'aura_reconciler', 'SET') THEN
        EXECUTE format('GRANT aura_reconciler TO %I', current_user);
    END IF;
END
$$;

CREATE SCHEMA reconciliation AUTHORIZATION aura_owner;

SET LOCAL ROLE aura_owner;

-- What a bank says of one closed day of one account. The first of an id counts; another content under it is kept too.
CREATE TABLE reconciliation.statements (
    statement_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bank text COLLATE "C" NOT NULL CHECK (bank ~ '^[a-z0-9_-]{1,64}$'),
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('trust', 'operating')),
    currency text COLLATE "C" NOT NULL REFERENCES ledger.assets (asset),
    statement_id text COLLATE "C" NOT NULL CHECK (length(statement_id) BETWEEN 1 AND 64),
    bank_account text COLLATE "C" NOT NULL,
    day date NOT NULL,
    opening numeric(38, 0) NOT NULL,
    closing numeric(38, 0) NOT NULL,
    line_count integer NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    counts boolean NOT NULL,
    imported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (bank, kind, currency, statement_id, content_hash)
);

CREATE UNIQUE INDEX statements_that_count ON reconciliation.statements (bank, kind, currency, statement_id) WHERE counts;
CREATE UNIQUE INDEX statements_by_day ON reconciliation.statements (bank, kind, currency, day) WHERE counts;

COMMENT ON COLUMN reconciliation.statements.content_hash IS 'sha256 of what the statement says, however its file is laid out';
COMMENT ON COLUMN reconciliation.statements.counts IS 'false: it contradicts the one of this id that counts, and is evidence only';

-- No names and no account numbers of other people: a reference finds them where they may be seen.
CREATE TABLE reconciliation.lines (
    line_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    statement_key bigint NOT NULL REFERENCES reconciliation.statements,
    number integer NOT NULL CHECK (number >= 1),
    amount numeric(38, 0) NOT NULL CHECK (amount <> 0),
    day date NOT NULL,
    reference text COLLATE "C" NOT NULL,
    bank_reference text COLLATE "C" NOT NULL,
    is_return boolean NOT NULL,
    code text COLLATE "C" NOT NULL,
    UNIQUE (statement_key, number)
);

CREATE INDEX lines_by_reference ON reconciliation.lines (reference) WHERE reference <> '';

COMMENT ON COLUMN reconciliation.lines.amount IS 'minor units; positive: money came in';

CREATE TABLE reconciliation.matches (
    line_key bigint PRIMARY KEY REFERENCES reconciliation.lines,
    journal_id bigint NOT NULL,
    leg smallint NOT NULL,
    rule text COLLATE "C" NOT NULL CHECK (rule IN ('reference', 'amount_and_day')),
    difference numeric(38, 0) NOT NULL,
    matched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (journal_id, leg)
);

CREATE INDEX matches_that_differ ON reconciliation.matches (line_key) WHERE difference <> 0;

COMMENT ON COLUMN reconciliation.matches.difference IS 'the line less the entry, minor units';

-- Files of returns (NACHA), each content once, and the returns that they name.
CREATE TABLE reconciliation.return_files (
    file_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bank text COLLATE "C" NOT NULL CHECK (bank ~ '^[a-z0-9_-]{1,64}$'),
    name text COLLATE "C" NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    imported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (bank, content_hash)
);

CREATE TABLE reconciliation.returns (
    file_key bigint NOT NULL REFERENCES reconciliation.return_files,
    number integer NOT NULL CHECK (number >= 1),
    reference text COLLATE "C" NOT NULL,
    code text COLLATE "C" NOT NULL,
    amount numeric(38, 0) NOT NULL CHECK (amount <> 0),
    day date NOT NULL,
    PRIMARY KEY (file_key, number)
);

COMMENT ON COLUMN reconciliation.returns.amount IS 'minor units of USD; negative: a collection that was taken back from us';

CREATE TABLE reconciliation.breaks (
    break_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    bank text COLLATE "C",
    account text COLLATE "C",
    asset text COLLATE "C" NOT NULL,
    amount numeric(38, 0) NOT NULL,
    tenant_id text COLLATE "C",
    transaction_id uuid,
    reference text COLLATE "C",
    line_key bigint REFERENCES reconciliation.lines,
    journal_id bigint,
    leg smallint,
    detail text NOT NULL CHECK (length(detail) <= 500),
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX breaks_by_key ON reconciliation.breaks (key, break_id);

COMMENT ON COLUMN reconciliation.breaks.amount IS 'what the bank, or the chain, has more than the ledger; minor units of asset';
COMMENT ON COLUMN reconciliation.breaks.tenant_id IS 'whose transaction it is about; null: nobody''s yet';

-- What became of a break; the last one says how it stands.
CREATE TABLE reconciliation.break_events (
    break_id bigint NOT NULL REFERENCES reconciliation.breaks,
    number integer NOT NULL CHECK (number >= 1),
    action text COLLATE "C" NOT NULL CHECK (action IN ('opened', 'assigned', 'resolved', 'gone')),
    actor text COLLATE "C" NOT NULL,
    owner text COLLATE "C",
    resolution text COLLATE "C" CHECK (resolution IN ('explained', 'booked', 'corrected_by_bank', 'written_off', 'gone')),
    note text CHECK (length(note) BETWEEN 1 AND 1000),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (break_id, number),
    CHECK ((action IN ('resolved', 'gone')) = (resolution IS NOT NULL)),
    CHECK (action <> 'resolved' OR note IS NOT NULL),
    CHECK ((action = 'gone') = (resolution IS NOT DISTINCT FROM 'gone'))
);

CREATE TABLE reconciliation.reports (
    report_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    body jsonb NOT NULL
);

-- Everything here only grows, for the owner too.
CREATE FUNCTION reconciliation.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'reconciliation.% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation', SCHEMA = 'reconciliation', TABLE = TG_TABLE_NAME, CONSTRAINT = TG_TABLE_NAME || '_immutable';
END
$$;

-- What has ended stays so, and a break's history has no holes.
CREATE FUNCTION reconciliation.check_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('reconciliation.breaks/' || NEW.break_id, 0));
    SELECT number, action INTO last FROM reconciliation.break_events WHERE break_id = NEW.break_id ORDER BY number DESC LIMIT 1;
    IF NEW.number <> coalesce(last.number, 0) + 1 OR (NEW.action = 'opened') <> (NEW.number = 1) OR last.action IN ('resolved', 'gone') THEN
        RAISE EXCEPTION 'break % is % after % events: % refused', NEW.break_id, coalesce(last.action, 'new'), coalesce(last.number, 0), NEW.action
            USING ERRCODE = 'restrict_violation', SCHEMA = 'reconciliation', TABLE = 'break_events', CONSTRAINT = 'break_events_in_order';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER in_order BEFORE INSERT ON reconciliation.break_events FOR EACH ROW EXECUTE FUNCTION reconciliation.check_event();
ALTER TABLE reconciliation.break_events ENABLE ALWAYS TRIGGER in_order;

-- How breaks stand now.
CREATE VIEW reconciliation.break_states WITH (security_invoker = true) AS
SELECT b.*, CASE WHEN l.action IN ('resolved', 'gone') THEN 'resolved' ELSE 'open' END AS status, l.number AS events,
    o.owner, l.resolution, l.note, CASE WHEN l.resolution IS NOT NULL THEN l.actor END AS resolved_by,
    CASE WHEN l.resolution IS NOT NULL THEN l.at END AS resolved_at
FROM reconciliation.breaks b
CROSS JOIN LATERAL (SELECT * FROM reconciliation.break_events e WHERE e.break_id = b.break_id ORDER BY e.number DESC LIMIT 1) l
LEFT JOIN LATERAL (SELECT e.owner FROM reconciliation.break_events e WHERE e.break_id = b.break_id AND e.action = 'assigned'
    ORDER BY e.number DESC LIMIT 1) o ON true;

-- One tenant's people see nothing of this: it is about the platform's accounts at its banks.
DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['statements', 'lines', 'matches', 'return_files', 'returns', 'breaks', 'break_events', 'reports'] LOOP
        EXECUTE format('ALTER TABLE reconciliation.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', table_name);
        EXECUTE format('CREATE POLICY of_the_platform ON reconciliation.%I TO aura_reconciler, aura_platform, aura_reader, aura_owner '
            'USING (true) WITH CHECK (true)', table_name);
        EXECUTE format('CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON reconciliation.%I FOR EACH ROW EXECUTE FUNCTION reconciliation.refuse_change()', table_name);
        EXECUTE format('CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON reconciliation.%I FOR EACH STATEMENT EXECUTE FUNCTION reconciliation.refuse_change()', table_name);
        EXECUTE format('ALTER TABLE reconciliation.%I ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole', table_name);
    END LOOP;
    FOREACH table_name IN ARRAY ARRAY['accounts', 'transactions', 'entries', 'balance_checkpoints'] LOOP
        EXECUTE format('CREATE POLICY reconciled ON ledger.%I FOR SELECT TO aura_reconciler USING (true)', table_name);
    END LOOP;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA reconciliation FROM PUBLIC;
GRANT USAGE ON SCHEMA reconciliation TO aura_reconciler, aura_platform, aura_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA reconciliation TO aura_reconciler, aura_platform, aura_reader;
GRANT INSERT ON ALL TABLES IN SCHEMA reconciliation TO aura_reconciler;
REVOKE INSERT ON reconciliation.break_states FROM aura_reconciler;
GRANT INSERT ON reconciliation.break_events TO aura_platform;
GRANT USAGE ON SCHEMA ledger TO aura_reconciler;
GRANT SELECT ON ledger.assets, ledger.accounts, ledger.transactions, ledger.entries, ledger.balance_checkpoints, ledger.sink_offsets, ledger.balances
    TO aura_reconciler;
GRANT EXECUTE ON FUNCTION ledger.normal_side, ledger.house_accounts TO aura_reconciler;

RESET ROLE;

-- migrate: rollback

-- It says what banks have told, and what people have made of it: a mistake in the schema is mended by a migration forward.
DO $$
BEGIN
    RAISE EXCEPTION 'the reconciliation is not rolled back; mend it by a new migration';
END
$$;
