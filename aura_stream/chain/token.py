"""The token as the code sees it: call data in, return values, logs and revert reasons out. Pure.

The contract itself is ``token.vy``; ``token.json`` is what the compiler made of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any, Final, Literal

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

PLACES: Final = 6
"""Decimal places of the token; amounts are counted in its smallest unit everywhere."""

MAX_AMOUNT: Final = 2**256 - 1
ZERO_ADDRESS: Final = "0x" + "00" * 20


class Role(IntFlag):
    """What an account may do to the token; the bits of the contract's own flag."""

    NONE = 0
    MINTER = 1
    BURNER = 2
    PAUSER = 4


class Act(IntFlag):
    """What can be paused; the bits of the contract's own flag."""

    NONE = 0
    MINT = 1
    BURN = 2
    TRANSFER = 4


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A mint, a burn or a transfer as the chain has logged it. ``account`` received, or held, the ``amount``.

    A transfer's ``account`` is its sender, and its ``reference`` the receiver's address with zeros before it.
    """

    kind: Literal["minted", "burned", "transferred"]
    token: str
    account: str
    reference: bytes
    amount: int
    tx_hash: str
    block_number: int
    block_hash: str
    log_index: int = 0


HASH: Final = re.compile(r"0x[0-9a-f]{64}")
"""Of a block or a transaction, as nodes write it."""


class NotOurs(ValueError):
    """A log, a return value or a revert that is not of the form that our contract writes."""


_ARTEFACT: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("token.json").read_text(encoding="utf-8"))
_BYTECODE: Final = bytes.fromhex(_ARTEFACT["bytecode"][2:])
NAMES: Final = {"AUSD": "Aura Dollar", "AEUR": "Aura Euro"}
"""What wallets show, by symbol."""
RUNTIME: Final = bytes.fromhex(_ARTEFACT["runtime"][2:])
"""The code that then lies at its address."""
STORAGE: Final[Mapping[str, int]] = _ARTEFACT["storage"]
"""Variable -> storage slot."""


def _selectors() -> dict[str, tuple[bytes, list[str], list[str]]]:
    found = {}
    for item in _ARTEFACT["abi"]:
        if item["type"] == "function":
            inputs = [argument["type"] for argument in item["inputs"]]
            outputs = [argument["type"] for argument in item["outputs"]]
            found[item["name"]] = (keccak(text=f"{item['name']}({','.join(inputs)})")[:4], inputs, outputs)
    return found


_FUNCTIONS: Final = _selectors()
MINTED: Final = "0x" + keccak(text="Minted(address,bytes32,uint256)").hex()
"""First topic of a mint's log."""
BURNED: Final = "0x" + keccak(text="Burned(address,bytes32,uint256)").hex()
"""First topic of a burn's log."""
TRANSFERRED: Final = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
"""First topic of a transfer's log; a mint comes from the zero address, a burn goes there."""
_KINDS: Final[dict[str, Literal["minted", "burned", "transferred"]]] = {
    MINTED: "minted",
    BURNED: "burned",
    TRANSFERRED: "transferred",
}
_ERROR: Final = keccak(text="Error(string)")[:4]
_PANIC: Final = keccak(text="Panic(uint256)")[:4]


def padded(address: str) -> bytes:
    """An address as a log's topic has it."""
    return to_canonical_address(address).rjust(32, b"\0")


# --- Calls ---


def call_data(function: str, *arguments: object) -> bytes:
    """Call data of any of the contract's functions. Raises ``KeyError`` for an unknown one."""
    selector, inputs, _ = _FUNCTIONS[function]
    return selector + encode(inputs, arguments)


def creation(symbol: str) -> bytes:
    """Call data of the transaction that puts the token on the chain (to nobody)."""
    return _BYTECODE + encode(["string", "string"], [NAMES[symbol], symbol])


def mint(receiver: str, amount: int, ref: bytes) -> bytes:
    """Call data that makes ``amount`` units for ``receiver``. Raises ``ValueError`` for what is refused anyway."""
    return call_data("mint", _receiver(receiver), _amount(amount), _reference(ref))


def burn(amount: int, ref: bytes) -> bytes:
    """Call data that destroys ``amount`` units of the signer."""
    return call_data("burn", _amount(amount), _reference(ref))


def transfer(receiver: str, amount: int) -> bytes:
    """Call data that moves ``amount`` units of the signer."""
    return call_data("transfer", _receiver(receiver), _amount(amount))


def set_paused(acts: Act) -> bytes:
    """Call data that pauses exactly ``acts`` and resumes the others."""
    return call_data("setPaused", int(acts))


def set_roles(account: str, roles: Role) -> bytes:
    """Call data that gives ``account`` exactly these roles."""
    return call_data("setRoles", account, int(roles))


def decode_call(data: bytes) -> tuple[str, tuple[Any, ...]]:
    """Function and arguments of call data: what an operator sees of a stored transaction.

    Raises :class:`NotOurs`.
    """
    for name, (selector, inputs, _) in _FUNCTIONS.items():
        if data[:4] == selector:
            return name, _decode(inputs, data[4:])
    raise NotOurs(f"no function of the token begins with {data[:4].hex()}")


def decode_return(function: str, data: bytes) -> Any:
    """The one value that a reading function returned. Raises :class:`NotOurs`."""
    return _decode(_FUNCTIONS[function][2], data)[0]


# --- Logs and reverts ---


def decode_event(log: Mapping[str, Any]) -> TokenEvent | None:
    """The mint, burn or transfer that a log of ``eth_getLogs`` or of a receipt tells; None for any other log.

    It does not say whose log it is: compare ``token`` with our address. Raises :class:`NotOurs` for a damaged one.
    """
    try:
        topics = log["topics"]
        if not topics or topics[0] not in _KINDS:
            return None
        account = to_checksum_address(_decode(["address"], bytes.fromhex(topics[1][2:]))[0])
        (amount,) = _decode(["uint256"], bytes.fromhex(log["data"][2:]))
        ref = bytes.fromhex(topics[2][2:])
        if len(topics) != 3 or len(ref) != 32:
            raise NotOurs("a mint, burn or transfer has three topics")
        hashes = log["transactionHash"], log["blockHash"]
        if not all(HASH.fullmatch(one) for one in hashes):
            raise NotOurs(f"{hashes!r:.80} are not hashes")
        numbers = int(log["blockNumber"], 16), int(log["logIndex"], 16)
        if not all(0 <= one < 2**63 for one in numbers):
            raise NotOurs(f"no chain has {max(numbers):#x} blocks or logs")
        token = to_checksum_address(log["address"])
        return TokenEvent(_KINDS[topics[0]], token, account, ref, amount, hashes[0], numbers[0], hashes[1], numbers[1])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise error if isinstance(error, NotOurs) else NotOurs(f"a log cannot be read: {error!r}") from error


def revert_reason(data: bytes) -> str:
    """The text of a revert: the contract's own words, e.g. ``duplicate ref``; empty when it gave none."""
    try:
        if data[:4] == _ERROR:
            return str(_decode(["string"], data[4:])[0])
        if data[:4] == _PANIC:
            return f"panic {_decode(['uint256'], data[4:])[0]:#x}"
    except NotOurs:
        pass
    return f"0x{data[:36].hex()}" if data else ""


def _decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    try:
        return decode(types, data)
    except (DecodingError, ValueError) as error:
        raise NotOurs(f"{data[:64].hex()} is not ({','.join(types)}): {error}") from error


def _receiver(address: str) -> str:
    if address == ZERO_ADDRESS:
        raise ValueError("the zero address cannot receive tokens")
    return address


def _amount(amount: int) -> int:
    if not 0 < amount <= MAX_AMOUNT:
        raise ValueError(f"amount {amount} is not 1 to 2**256 - 1 units")
    return amount


def _reference(ref: bytes) -> bytes:
    if len(ref) != 32 or not any(ref):
        raise ValueError("a reference is 32 bytes, not all zero")
    return ref
