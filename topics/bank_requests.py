"""What the ledger asks of banks' lanes. Only the ledger writes here, in the unit that decided it."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

BANK_REQUESTS = Topic(
    "aura.bank-requests.v1",
    key="~bank:<bank>, UTF-8",
    value="one request, JSON",
    schema="bank-request.json",
    # A lane's time is the broker's: a ledger whose clock is wrong must not make it wait for its own deadlines.
    config=KEEP | {"message.timestamp.type": "LogAppendTime"},
)
