"""What the ledger asks of the minter lanes. Only the ledger writes here, in the unit that decided it."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

CHAIN_REQUESTS = Topic(
    "aura.chain-requests.v1",
    key="~chain:<chain>:<token>, UTF-8",
    value="one request, JSON",
    schema="chain-request.json",
    # A lane's time is the broker's: a ledger whose clock is wrong must not make it wait for its own deadlines.
    config=KEEP | {"message.timestamp.type": "LogAppendTime"},
)
