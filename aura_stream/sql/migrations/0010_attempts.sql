-- What was tried outside: every call to a bank and every broadcast to a chain, with its answer; and the lanes' breakers.
-- depends: 0009_pauses

-- migrate: apply

CREATE SCHEMA settlement AUTHORIZATION aura_owner;

SET LOCAL ROLE aura_owner;

-- One row per attempt, written when it is about to be made (ended_at is null: cut off, or still under way) and once more
-- when its answer is known. Made of the lanes' journals; show them by transaction_id, in the order of started_at, number.
CREATE TABLE settlement.attempts (
    lane text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    number integer NOT NULL CHECK (number >= 1),
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('submit', 'inquire', 'broadcast')),
    transaction_id uuid NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    step text COLLATE "C" NOT NULL,
    breaker text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    answer text COLLATE "C" NOT NULL DEFAULT '',
    code text COLLATE "C" NOT NULL DEFAULT '',
    status integer NOT NULL DEFAULT 0,
    detail text NOT NULL DEFAULT '',
    took_ms bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (lane, reference, number)
);

COMMENT ON COLUMN settlement.attempts.lane IS 'bank:<bank> or chain:<chain>:<token>';
COMMENT ON COLUMN settlement.attempts.reference IS 'by which the other side knows it: ours, the 15 characters of NACHA, or the hash on the chain';
COMMENT ON COLUMN settlement.attempts.breaker IS 'state of the lane''s breaker when the row was last written: closed, open, half_open';
COMMENT ON COLUMN settlement.attempts.answer IS 'accepted, settled, rejected, not_processed, lost (nobody knows), not_found, taken';
COMMENT ON COLUMN settlement.attempts.status IS 'of HTTP; 0: there was no answer';

CREATE INDEX attempts_of_transaction ON settlement.attempts (transaction_id, started_at);

-- The present state of each lane: its breaker, and why it is stopped, if it is.
CREATE TABLE settlement.lanes (
    lane text COLLATE "C" PRIMARY KEY,
    breaker text COLLATE "C" NOT NULL,
    failures integer NOT NULL,
    stopped text NOT NULL,
    changed_at timestamptz NOT NULL
);

-- How far each partition of the lanes' journals is written; moved in the transaction that writes.
CREATE TABLE settlement.progress (
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL CHECK (partition >= 0),
    next_offset bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition)
);

ALTER TABLE settlement.attempts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON settlement.attempts FOR SELECT TO aura_tenant USING (tenant_id = current_setting('aura.tenant', true));
CREATE POLICY every_tenant ON settlement.attempts TO aura_owner, aura_reader, aura_writer USING (true) WITH CHECK (true);

GRANT USAGE ON SCHEMA settlement TO aura_writer, aura_reader, aura_tenant;
GRANT SELECT ON settlement.attempts, settlement.lanes TO aura_reader, aura_tenant;
GRANT SELECT, INSERT ON settlement.attempts, settlement.lanes, settlement.progress TO aura_writer;
GRANT UPDATE (ended_at, breaker, answer, code, status, detail, took_ms) ON settlement.attempts TO aura_writer;
GRANT UPDATE ON settlement.lanes TO aura_writer;
GRANT UPDATE (next_offset, last_seq) ON settlement.progress TO aura_writer;

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'attempts are not rolled back; mend it by a new migration';
END
$$;
