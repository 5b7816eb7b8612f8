"""Asks a node by JSON-RPC over HTTP, and says honestly what is known after a failure.

    ChainError
      NotTaken      the node did not act on it: no connection, or refused at its door; send again as you like
      Refused       the node answered with an error; ``kind`` says which, ``definite`` whether nothing happened
      Unanswered    the outcome is unknown: time-out, cut, or an answer that is none; look at the chain before deciding
        BadAnswer   the node answered what no honest node answers

What a node says is input from outside: sizes are bounded, every field is checked before it is used, and an address
with a key in its path appears in no text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from aura_stream.chain import token
from aura_stream.chain.signer import Fees, Signed, Transaction, fees_for
from aura_stream.chain.token import NotOurs, TokenEvent

TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
BATCH: Final = 100
"""Calls per request: the least that common nodes allow."""
LOG_SPAN: Final = 1000
"""Blocks per request for logs: public nodes refuse much more."""

_QUANTITY: Final = re.compile(r"0x[0-9a-f]{1,64}")

At = int | str
"""A block: its number, a tag as ``latest``, or its hash."""


class Kind(Enum):
    """Why a node refused."""

    NONCE_TOO_LOW = "nonce_too_low"
    """The nonce is used, perhaps by these very bytes."""
    NONCE_TOO_HIGH = "nonce_too_high"
    ALREADY_KNOWN = "already_known"
    """The node has these bytes: as good as accepted."""
    UNDERPRICED = "underpriced"
    """Another transaction of this nonce waits, and this one does not pay enough more."""
    FEE_TOO_LOW = "fee_too_low"
    """Below what the block or the pool asks for."""
    NO_FUNDS = "no_funds"
    """The signer cannot pay for the gas."""
    REVERTED = "reverted"
    """The contract refused; ``reason`` has its words."""
    MALFORMED = "malformed"
    """The node cannot read the request, does not know the method, or the bytes can never be mined."""
    OTHER = "other"
    """Anything else: not a definite answer."""


_TEXTS: Final = (
    # The order matters: the first that is found decides. Wordings of geth, reth, erigon, nethermind, besu and anvil.
    (Kind.ALREADY_KNOWN, ("already known", "alreadyknown", "known transaction", "already imported", "already in")),
    (Kind.UNDERPRICED, ("replacement transaction underpriced", "replacementnotallowed", "too low to replace")),
    (Kind.NONCE_TOO_LOW, ("nonce too low", "nonce is too low", "oldnonce", "nonce too small")),
    (Kind.NONCE_TOO_HIGH, ("nonce too high", "nonce is too high", "nonce too distant", "nonce gap")),
    (
        Kind.FEE_TOO_LOW,
        (
            "underpriced",
            "less than block base fee",
            "feetoolow",
            "fee too low",
            "below current base fee",
            "gas price too",
        ),
    ),
    (Kind.NO_FUNDS, ("insufficient funds", "insufficientfunds", "upfront cost exceeds", "insufficient balance for")),
    (Kind.REVERTED, ("execution reverted", "vm execution error", "reverted")),
    (
        Kind.MALFORMED,
        (
            "intrinsic gas too low",
            "exceeds block gas limit",
            "exceeds the configured cap",
            "failed to decode",
            "invalid sender",
            "invalid chain id",
            "invalid signer",
            "rlp:",
            "typed transaction too short",
            "oversized data",
        ),
    ),
)


class ChainError(Exception):
    """The top of the tree above."""


class NotTaken(ChainError):
    """The node did not act on the request."""


class Unanswered(ChainError):
    """Whether the node acted on the request is not known."""


class BadAnswer(Unanswered):
    """The node answered something that cannot be true."""


class Refused(ChainError):
    """The node's own error."""

    def __init__(self, code: int, text: str, data: bytes = b"") -> None:
        self.code = code
        self.text = text[:300]
        self.kind = kind_of(code, text)
        self.reason = token.revert_reason(data) if data else ""
        super().__init__(f"{self.kind.value}: {self.text}" + (f" ({self.reason})" if self.reason else ""))

    @property
    def definite(self) -> bool:
        """Whether these bytes certainly did not enter the node's pool by this request."""
        return self.kind not in (Kind.OTHER, Kind.ALREADY_KNOWN)


def kind_of(code: int, text: str) -> Kind:
    """What a node means by an error: nodes agree on few codes, so their words decide."""
    words = text.lower()
    for kind, patterns in _TEXTS:
        if any(pattern in words for pattern in patterns):
            return kind
    if code == 3:
        return Kind.REVERTED
    return Kind.MALFORMED if code in (-32700, -32600, -32601, -32602) else Kind.OTHER


@dataclass(frozen=True, slots=True)
class Block:
    """What matters of a block. ``time_s`` is its own stamp, in seconds since 1970."""

    number: int
    hash: str
    parent: str
    time_s: int
    base_fee: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a mined transaction. ``events`` are those of any contract of our token's form."""

    tx_hash: str
    block_number: int
    block_hash: str
    succeeded: bool
    gas_used: int
    gas_price: int
    events: tuple[TokenEvent, ...]


def final_block(head: int, confirmations: int) -> int:
    """The youngest block that counts as final, below zero when there is none: the head itself is one confirmation."""
    return head - confirmations + 1


class ChainNode:
    """A client of one node. Use as an async context manager; calls may run at once.

    ``timeout_s`` bounds each request as a whole. Nothing is tried again here: who asks decides that.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        parts = urlsplit(url)
        self.shown = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        """The node's address without what may be secret in it."""
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 3.0))
        self._session: aiohttp.ClientSession | None = None
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # --- The protocol ---

    async def call(self, method: str, *params: object) -> Any:
        """The result of one call. Raises :class:`ChainError`."""
        (answer,) = await self.batch([(method, *params)])
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def batch(self, calls: Iterable[tuple[object, ...]]) -> list[Any]:
        """Results of many calls ``(method, *params)``, in their order; a call that was refused has its
        :class:`Refused` there.

        The node need not work in that order, nor on one state of the chain. Raises :class:`NotTaken` or
        :class:`Unanswered`, then for all.
        """
        results: list[Any] = []
        for part in _parts(list(calls), BATCH):
            results += await self._ask(part)
        return results

    async def _ask(self, calls: Sequence[tuple[object, ...]]) -> list[Any]:
        requests = [
            {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params} for method, *params in calls
        ]
        answer = await self._post(orjson.dumps(requests if len(requests) > 1 else requests[0]))
        answers = answer if isinstance(answer, list) else [answer]
        by_id = {item.get("id"): item for item in answers if isinstance(item, dict) and isinstance(item.get("id"), int)}
        if len(answers) != len(requests) or any(request["id"] not in by_id for request in requests):
            # A node that refuses the batch as a whole answers once, without an id.
            if len(answers) == 1 and isinstance(answers[0], dict) and "error" in answers[0]:
                raise _refusal(answers[0]["error"])
            raise BadAnswer(f"{self.shown} answered {len(answers)} of {len(requests)} calls")
        results: list[Any] = []
        for request in requests:
            item = by_id[request["id"]]
            if item.get("error") is not None:
                results.append(_refusal(item["error"]))
            elif "result" in item:
                results.append(item["result"])
            else:
                raise BadAnswer(f"{self.shown} answered {request['method']} with neither result nor error")
        return results

    async def _post(self, body: bytes) -> Any:
        if self._session is None:
            raise RuntimeError("a ChainNode is used as `async with ChainNode(url) as node`")
        try:
            async with self._session.post(
                self._url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as response:
                if 400 <= response.status < 500 and response.status != 408:
                    raise NotTaken(f"{self.shown} refused the request at its door: HTTP {response.status}")
                if response.status != 200:
                    raise Unanswered(f"{self.shown} answered HTTP {response.status}")
                text = bytearray()
                async for chunk in response.content.iter_any():
                    text += chunk
                    if len(text) > MAX_ANSWER_BYTES:
                        raise BadAnswer(f"{self.shown} answered more than {MAX_ANSWER_BYTES} bytes")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotTaken(f"no connection to {self.shown}: {type(error).__name__}") from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unanswered(f"no answer from {self.shown}: {type(error).__name__}") from None
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            raise BadAnswer(f"{self.shown} answered something that is not JSON") from None

    # --- Questions ---

    async def identity(self) -> tuple[int, str]:
        """Chain id and hash of the first block: a lane stops when they are not those it began with."""
        chain_id, genesis = await self.batch([("eth_chainId",), ("eth_getBlockByNumber", "0x0", False)])
        return count(_good(chain_id)), block(_good(genesis)).hash

    async def head(self) -> Block:
        """The youngest block."""
        return block(await self.call("eth_getBlockByNumber", "latest", False))

    async def block(self, number: int) -> Block | None:
        """The block of that height, None above the head."""
        found = await self.call("eth_getBlockByNumber", hex(number), False)
        return None if found is None else block(found)

    async def nonce(self, address: str, at: At = "latest") -> int:
        """How many transactions ``address`` has had mined up to a block: its next free nonce there.

        The pool does not count; what waits there is known to the lane, and may be dropped.
        """
        return count(await self.call("eth_getTransactionCount", address, _at(at)))

    async def native_of(self, address: str, at: At = "latest") -> int:
        """What ``address`` has of what gas is paid in, wei."""
        return quantity(await self.call("eth_getBalance", address, _at(at)))

    async def market(self) -> Fees:
        """Fees that get a transaction into one of the next blocks."""
        history, tip = await self.batch([("eth_feeHistory", "0x1", "latest", []), ("eth_maxPriorityFeePerGas",)])
        fees = _good(history).get("baseFeePerGas") if isinstance(_good(history), dict) else None
        if not isinstance(fees, list) or not fees:
            raise BadAnswer(f"{self.shown} answered a fee history without fees")
        try:
            return fees_for(quantity(fees[-1]), quantity(_good(tip)))
        except ValueError as error:
            raise BadAnswer(f"{self.shown} answered fees that nobody can pay: {error}") from error

    async def read(self, contract: str, function: str, *arguments: object, at: At = "latest") -> Any:
        """What a reading function of our token returns as of a block.

        Raises :class:`BadAnswer` when nothing of that form comes back: there is no token at that address.
        """
        request = {"to": contract, "data": "0x" + token.call_data(function, *arguments).hex()}
        try:
            return token.decode_return(function, data(await self.call("eth_call", request, _at(at))))
        except NotOurs as error:
            raise BadAnswer(f"{contract} does not answer {function} as our token does") from error

    async def total_supply(self, contract: str, at: At) -> int:
        """Units of the token that existed after a block; ask at a final one."""
        return int(await self.read(contract, "totalSupply", at=at))

    async def balance_of(self, contract: str, address: str, at: At) -> int:
        """Units of the token that an address held after a block; ask at a final one."""
        return int(await self.read(contract, "balanceOf", address, at=at))

    async def simulate(self, transaction: Transaction, sender: str, at: At = "latest") -> int:
        """Gas that the transaction would use. Raises :class:`Refused`, with the contract's reason if it reverts."""
        request = {
            "from": sender,
            **({"to": transaction.to} if transaction.to is not None else {}),
            "data": "0x" + transaction.data.hex(),
            "value": hex(transaction.value),
        }
        return quantity(await self.call("eth_estimateGas", request, _at(at)))

    async def events(
        self, contract: str, first: int, last: int, references: Sequence[bytes] | None = None
    ) -> list[TokenEvent]:
        """Mints and burns of a token in blocks ``first`` to ``last``, oldest first; only of ``references`` if given."""
        wanted = None if references is None else ["0x" + ref.hex() for ref in references]
        found = await self._events(contract, first, last, [[token.MINTED, token.BURNED], None, wanted])
        return [event for event in found if event.kind != "transferred"]

    async def transfers(self, contract: str, first: int, last: int) -> list[TokenEvent]:
        """All that has moved of a token in blocks ``first`` to ``last``, mints and burns too, oldest first."""
        found = await self._events(contract, first, last, [token.TRANSFERRED])
        return [event for event in found if event.kind == "transferred"]

    async def _events(self, contract: str, first: int, last: int, topics: list[object]) -> list[TokenEvent]:
        found: list[TokenEvent] = []
        for begin in range(first, last + 1, LOG_SPAN):
            query = {
                "address": contract,
                "fromBlock": hex(begin),
                "toBlock": hex(min(begin + LOG_SPAN - 1, last)),
                "topics": topics,
            }
            logs = await self.call("eth_getLogs", query)
            found += [event for event in events(logs) if event.token == contract]
        return found

    async def send(self, signed: Signed) -> None:
        """Give a signed transaction to the node. Returns when the node has it, now or since before.

        Raises :class:`Refused`; :class:`NotTaken`; :class:`Unanswered`, then it may have it. The same bytes may always
        be sent again.
        """
        (error,) = await self.send_all([signed])
        if error is not None:
            raise error

    async def send_all(self, signed: Sequence[Signed]) -> list[ChainError | None]:
        """Give many, in the order of their nonces; per transaction None when the node has it, else why not."""
        answers = await self.batch([("eth_sendRawTransaction", "0x" + one.raw.hex()) for one in signed])
        outcomes: list[ChainError | None] = []
        for one, answer in zip(signed, answers, strict=True):
            if isinstance(answer, Refused):
                outcomes.append(None if answer.kind is Kind.ALREADY_KNOWN else answer)
            elif answer != one.tx_hash:
                outcomes.append(BadAnswer(f"{self.shown} answered another hash than that of the bytes sent"))
            else:
                outcomes.append(None)
        return outcomes


# --- Reading answers ---


def quantity(value: object) -> int:
    """A number as nodes write them. Raises :class:`BadAnswer`."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise BadAnswer(f"{str(value)[:80]!r} is not a quantity")
    return int(value, 16)


def count(value: object) -> int:
    """A number of blocks, nonces, seconds or units of gas: no chain has 2**63 of them. Raises :class:`BadAnswer`."""
    if (number := quantity(value)) >= 2**63:
        raise BadAnswer(f"{str(value)[:80]!r} is no number of blocks, nonces, seconds or gas")
    return number


def data(value: object) -> bytes:
    """Bytes as nodes write them. Raises :class:`BadAnswer`."""
    try:
        if isinstance(value, str) and value.startswith("0x"):
            return bytes.fromhex(value[2:])
    except ValueError:
        pass
    raise BadAnswer(f"{str(value)[:80]!r} is not data")


def hash32(value: object) -> str:
    """A hash as nodes write them. Raises :class:`BadAnswer`."""
    if not isinstance(value, str) or not token.HASH.fullmatch(value):
        raise BadAnswer(f"{str(value)[:80]!r} is not a hash")
    return value


def block(value: object) -> Block:
    """A block without its transactions. Raises :class:`BadAnswer`."""
    fields = _fields(value)
    return Block(
        count(fields.get("number")),
        hash32(fields.get("hash")),
        hash32(fields.get("parentHash")),
        count(fields.get("timestamp")),
        quantity(fields.get("baseFeePerGas")),
    )


def receipt(value: object) -> Receipt:
    """A receipt. Raises :class:`BadAnswer`."""
    fields = _fields(value)
    status = quantity(fields.get("status"))
    if status not in (0, 1):
        raise BadAnswer(f"{status} is not the status of a receipt")
    return Receipt(
        hash32(fields.get("transactionHash")),
        count(fields.get("blockNumber")),
        hash32(fields.get("blockHash")),
        status == 1,
        count(fields.get("gasUsed")),
        quantity(fields.get("effectiveGasPrice")),
        tuple(events(fields.get("logs"))),
    )


def events(logs: object) -> list[TokenEvent]:
    """The mints, burns and transfers among logs. Raises :class:`BadAnswer`."""
    if not isinstance(logs, list):
        raise BadAnswer("the logs are not a list")
    try:
        return [event for log in logs if (event := token.decode_event(_fields(log))) is not None]
    except NotOurs as error:
        raise BadAnswer(str(error)) from error


def _fields(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadAnswer(f"{str(value)[:80]!r} is not an object")
    return value


def _good(answer: Any) -> Any:
    if isinstance(answer, Refused):
        raise answer
    return answer


def _refusal(error: object) -> Refused:
    fields = _fields(error)
    code, text, details = fields.get("code"), fields.get("message"), fields.get("data")
    if not isinstance(code, int) or not isinstance(text, str):
        raise BadAnswer("the node's error has no code or no text")
    try:
        return Refused(code, text, data(details) if isinstance(details, str) else b"")
    except BadAnswer:  # some nodes put words there
        return Refused(code, text)


def _at(at: At) -> object:
    if isinstance(at, int):
        return hex(at)
    return {"blockHash": at} if token.HASH.fullmatch(at) else at


def _parts(calls: list[tuple[object, ...]], size: int) -> list[list[tuple[object, ...]]]:
    return [calls[start : start + size] for start in range(0, len(calls), size)]
