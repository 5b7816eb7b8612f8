-- Operators' cancels of nonces, and the addresses by which tokens come back.
-- depends: 0014_keys_and_mail

-- migrate: apply

SET LOCAL ROLE aura_owner;

-- What became of each cancel of a nonce, from the lane's journal.
CREATE TABLE settlement.nonce_cancels (
    cancel_id uuid PRIMARY KEY,
    lane text COLLATE "C" NOT NULL,
    nonce bigint NOT NULL CHECK (nonce >= 0),
    operator text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('canceled', 'not_waiting')),
    transaction_id uuid,
    hash text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL
);

CREATE INDEX nonce_cancels_of_lane ON settlement.nonce_cancels (lane, at);

COMMENT ON COLUMN settlement.nonce_cancels.hash IS 'of the transfer to itself that takes the nonce; what it replaces may land all the same';

-- Where a customer's tokens come back from outside, from the lane's journal. An address is given once, for good.
CREATE TABLE settlement.deposit_addresses (
    lane text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    given_at timestamptz NOT NULL,
    PRIMARY KEY (lane, address),
    UNIQUE (tenant_id, account_id, lane)
);

ALTER TABLE settlement.deposit_addresses ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON settlement.deposit_addresses FOR SELECT TO aura_tenant USING (tenant_id = current_setting('aura.tenant', true));
CREATE POLICY every_tenant ON settlement.deposit_addresses TO aura_owner, aura_reader, aura_writer USING (true) WITH CHECK (true);

GRANT SELECT ON settlement.nonce_cancels, settlement.deposit_addresses TO aura_reader;
GRANT SELECT ON settlement.deposit_addresses TO aura_tenant;
GRANT SELECT, INSERT ON settlement.nonce_cancels, settlement.deposit_addresses TO aura_writer;
GRANT SELECT ON settlement.nonce_cancels TO aura_platform;

COMMENT ON COLUMN settlement.lanes.figures IS 'of a minter: next_nonce, seen_nonce (used up on the chain when it stopped), in minor units of its token mintable, in_flight, open_returns, and what the contract refuses (1 mint, 2 burn, 4 transfer) after all that is signed: acts, and at finality: acts_final';
COMMENT ON COLUMN settlement.attempts.detail IS 'of a broadcast: its nonce, and what the node said';

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'cancels and addresses are not rolled back; mend it by a new migration';
END
$$;
