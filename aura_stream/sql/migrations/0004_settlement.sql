-- Settlement: a bank may take back what is done. Nothing else ever follows a status that ends something.
-- depends: 0003_tenant_wall

-- migrate: apply

SET LOCAL ROLE aura_owner;

ALTER TABLE ledger.transactions DROP CONSTRAINT transactions_status_check;
ALTER TABLE ledger.transactions ADD CONSTRAINT transactions_status_check CHECK (status IN
    ('created', 'requires_approval', 'processing', 'completed', 'failed', 'canceled', 'requires_attention', 'returned'));

DROP TRIGGER terminal_is_final ON ledger.transactions;
CREATE TRIGGER terminal_is_final BEFORE UPDATE ON ledger.transactions FOR EACH ROW
    WHEN ((OLD.status IN ('completed', 'failed', 'canceled', 'returned') AND NEW.status <> OLD.status
            AND NOT (OLD.status = 'completed' AND NEW.status = 'returned'))
        OR NEW.seq <= OLD.seq
        OR NEW.transaction_id <> OLD.transaction_id OR NEW.tenant_id <> OLD.tenant_id OR NEW.customer_id <> OLD.customer_id
        OR NEW.asset <> OLD.asset OR NEW.amount <> OLD.amount OR NEW.idempotency_key <> OLD.idempotency_key)
    EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.transactions ENABLE ALWAYS TRIGGER terminal_is_final;

COMMENT ON COLUMN ledger.transactions.history IS 'its events, oldest first: [{seq, type, status, state, reason, at (ms since 1970), journal_seq, command_id, by_bank {rail, bank, code, hash, ...}}]; empty fields are left out';

RESET ROLE;

-- migrate: rollback

DO $$
BEGIN
    RAISE EXCEPTION 'the ledger is not rolled back; mend it by a new migration';
END
$$;
