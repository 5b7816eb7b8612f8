-- The ledger to compare with: one call of one function per transfer, as small and as quick as such a ledger can be
-- while it still keeps balances, immutable-looking entries with running balances, and no overdraft. It is leaner than
-- pgledger: bigint keys from sequences, no idempotency, no metadata, two indexes fewer.

CREATE TABLE accounts (
    id bigint PRIMARY KEY,
    balance bigint NOT NULL,
    version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (balance >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05); -- room on the page: no update touches the index (HOT)

CREATE TABLE transfers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_account_id bigint NOT NULL,
    to_account_id bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL,
    transfer_id bigint NOT NULL,
    amount bigint NOT NULL,
    previous_balance bigint NOT NULL,
    current_balance bigint NOT NULL,
    account_version bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX entries_of_account ON entries (account_id, id);
CREATE INDEX entries_of_transfer ON entries (transfer_id);

CREATE FUNCTION transfer(source bigint, target bigint, transferred bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    transfer_id bigint;
    source_balance bigint;
    source_version bigint;
    target_balance bigint;
    target_version bigint;
BEGIN
    -- In the order of their ids, so that two transfers never wait for each other.
    PERFORM 1 FROM accounts WHERE id IN (source, target) ORDER BY id FOR NO KEY UPDATE;
    UPDATE accounts SET balance = balance - transferred, version = version + 1, updated_at = now()
    WHERE id = source RETURNING balance, version INTO STRICT source_balance, source_version;
    UPDATE accounts SET balance = balance + transferred, version = version + 1, updated_at = now()
    WHERE id = target RETURNING balance, version INTO STRICT target_balance, target_version;
    INSERT INTO transfers (from_account_id, to_account_id, amount) VALUES (source, target, transferred)
    RETURNING id INTO transfer_id;
    INSERT INTO entries (account_id, transfer_id, amount, previous_balance, current_balance, account_version)
    VALUES
        (source, transfer_id, -transferred, source_balance + transferred, source_balance, source_version),
        (target, transfer_id, transferred, target_balance - transferred, target_balance, target_version);
    RETURN transfer_id;
END
$$;

INSERT INTO accounts (id, balance) SELECT id, 1000000000000 FROM generate_series(1, 2000) AS id;
VACUUM (FREEZE, ANALYZE) accounts;
