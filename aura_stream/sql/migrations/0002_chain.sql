-- The hash chain over journals: one block per unit, so that a change by whoever owns the database shows.
-- depends: 0001_ledger

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- hash = sha256(hash of seq - 1 || the unit || its journals || its entries), see aura_stream/ledger/chain.py: a function
-- of the journal topic alone, so that a rebuilt ledger has the same chain. Its heads are published outside (Kafka,
-- aura.chain-heads.v1), where who can rewrite the chain here cannot reach them.
-- No foreign key to units: the block is written by the statement that moves the sink's offset, before the rows.
CREATE TABLE ledger.chain_blocks (
    partition integer NOT NULL,
    seq bigint NOT NULL CHECK (seq >= 1),
    journal_offset bigint,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (partition, seq)
);

COMMENT ON COLUMN ledger.chain_blocks.seq IS 'the unit (ledger.units) that the block seals; the first of a partition follows 32 zero bytes';
COMMENT ON COLUMN ledger.chain_blocks.journal_offset IS 'where the unit''s record stands in the journal topic; NULL where the block was sealed later, from the rows';

CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON ledger.chain_blocks FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER immutable_whole BEFORE TRUNCATE ON ledger.chain_blocks FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.chain_blocks ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole;

GRANT SELECT ON ledger.chain_blocks TO aura_writer, aura_reader;
GRANT INSERT ON ledger.chain_blocks TO aura_writer;

RESET ROLE;

-- migrate: rollback

-- Like the ledger itself it only goes forward.
DO $$
BEGIN
    RAISE EXCEPTION 'the ledger is not rolled back; mend it by a new migration';
END
$$;
