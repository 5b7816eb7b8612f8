"""``aura demo``: the whole product at work, watched from outside and proven at the end.

plan      what is asked for, and what must come of it: pure, repeatable by its seed
book      what was asked, what came back, where the two differ: pure
doors     the two ways in: a plain Kafka producer and an HTTP client
stories   what banks, customers and the chain play, and how each ends: pure, repeatable by its seed
settled   the book of settlements, and where banks, chain and ledger differ from it: pure
outside   the mock bank by its operator's door, the chain by its node, and what both say at the end
settling  plays the stories, misbehaves, lets days pass at the banks
watch     what can be seen from outside: the topics and the rows in Postgres
view      the figures on a terminal; panel has those of banks and chain, drawing what both draw with
verdict   whether all of it holds
runner    puts them together; stage starts and ends the processes
"""

from __future__ import annotations
