"""``aura demo``: the whole product at work, watched from outside and proven at the end.

plan      what is asked for, and what must come of it: pure, repeatable by its seed
book      what was asked, what came back, where the two differ: pure
doors     the two ways in: a plain Kafka producer and an HTTP client
watch     what can be seen from outside: the topics and the rows in Postgres
view      the figures on a terminal
verdict   whether all of it holds
runner    puts them together; stage starts and ends the processes
"""

from __future__ import annotations
