"""What lanes hear: the messages of `aura.bank-inbox.v1` and `aura.chain-inbox.v1`.

Whatever the world outside says to a lane is written here first, and handled from here: what came of a call, a webhook,
a look at the chain. So a lane's decisions follow from its two topics alone. Amounts are minor units, times ms.
"""

from __future__ import annotations

import msgspec


class Opened(msgspec.Struct, frozen=True, tag_field="news", tag="opened"):
    """A connector has started: the lane shall begin to look."""


class Heard(msgspec.Struct, frozen=True, tag_field="news", tag="heard"):
    """A webhook whose signature is right, as it came."""

    id: str
    event: msgspec.Raw


class CallEnded(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="news", tag="call_ended"):
    """What came of a call to a bank. `number` counts the calls of a reference."""

    reference: str
    number: int
    kind: str  # a kind of fact, not_processed, lost, not_found
    code: str = ""
    bank_reference: str = ""
    amount: int = 0
    fact_id: str = ""
    status: int = 0
    detail: str = ""
    took_ms: int = 0
    wait_ms: int = 0  # how long the bank wishes not to be called
    is_unreadable: bool = False  # there was an answer, and no bank of the contract says that


class Polled(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="news", tag="polled"):
    """Events that a bank lists after a number, and the last number; `error` says why there are none."""

    after: int
    events: list[msgspec.Raw] = []
    error: str = ""


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the chain has of a job: the hash that is in a block. "" = none of its hashes is in the chain."""

    reference: str
    hash: str = ""
    block: int = 0
    ok: bool = False
    gas: int = 0  # wei paid
    is_missing: bool = False  # in no block and in no pool: the same bytes are to be sent again
    error: str = ""  # why the lane stops: somebody else has used the nonce or the reference


class Arrival(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens that came to an address outside our custody, in a final block."""

    hash: str
    index: int  # of the log, in its block
    block: int
    to: str
    amount: int


class Looked(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="news", tag="looked"):
    """The chain as one node shows it, as of one head. Fees are wei per gas."""

    chain: str  # id and hash of the first block
    chain_id: int
    height: int
    final: int
    nonce: int  # used up at the head
    final_nonce: int
    fee: int
    tip: int
    supply: int
    sightings: list[Sighting] = []
    scanned_from: int = 0  # the first final block whose transfers were read; 0 = none was
    scanned: int = 0  # the last one
    arrivals: list[Arrival] = []  # all that moved there, but to our custody
    native: int = -1  # wei that our key has at the final block; -1 = not asked


class NotSeen(msgspec.Struct, frozen=True, tag_field="news", tag="not_seen"):
    """A look failed: nothing is known."""

    error: str


class Sent(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="news", tag="sent"):
    """Signed bytes were given to a node; `error` = why it did not take them."""

    reference: str
    hash: str
    number: int  # how often the job was sent, this time included
    error: str = ""
    took_ms: int = 0


class Release(msgspec.Struct, frozen=True, tag_field="news", tag="release"):
    """An operator lets a stopped lane go on, who has read that it is stopped for this reason."""

    id: str  # UUID; the same for a repeat
    operator: str
    stopped: str


class Cancel(msgspec.Struct, frozen=True, tag_field="news", tag="cancel"):
    """An operator has a nonce used up by a transfer to itself: what was signed under it has not come into a block."""

    id: str  # UUID; the same for a repeat
    operator: str
    nonce: int


class AddressWanted(msgspec.Struct, frozen=True, tag_field="news", tag="address"):
    """An account of the lane's token shall have an address to which its owner sends tokens from outside."""

    tenant: str
    account: str


BankNews = Opened | Heard | CallEnded | Polled
ChainNews = Opened | Looked | NotSeen | Sent | Release | Cancel | AddressWanted

ENCODE = msgspec.json.Encoder().encode
DECODE_BANK = msgspec.json.Decoder(BankNews).decode
DECODE_CHAIN = msgspec.json.Decoder(ChainNews).decode
