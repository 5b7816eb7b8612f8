"""The exactly-once core: one batch of one partition is one Kafka transaction. It knows nothing of money.

Reading order: `table.py` (state), `unit.py` (what one batch does), `shard.py` (the life of a partition),
`transport.py` (where it meets Faust). The idea in one sentence: progress is stored with the state it produced.
"""
