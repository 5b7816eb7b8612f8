"""State of the ledger's partitions, one file per table. All live in one store and one changelog per partition."""
