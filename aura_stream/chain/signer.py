"""Transactions and their signatures: pure functions from (nonce, fees, call data, key) to bytes and hash.

Signing is deterministic (RFC 6979): the same transaction and key give the same bytes, on every machine and in every
replay. So a lane can compute a signature inside a unit of work, store it, and send it after the commit.

A key is never written anywhere: not in logs, texts of errors, ``repr`` or pickles. What is given to this module as a
key comes from :func:`load_key`.
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import rlp
from coincurve import PrivateKey, PublicKey
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

from aura_stream import SettingsError
from aura_stream.settings import Settings

GWEI: Final = 10**9

BUMP_PER_MILLE: Final = 125
"""A replacement pays at least 12.5 % more, both as fee and as tip: nodes refuse less than 10 %, and some round."""

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Number of points of secp256k1: a key is 1 to this less 1."""

_TYPE: Final = b"\x02"
"""First byte of an EIP-1559 transaction."""

_FIELDS: Final = 9
"""Of a transaction before its signature."""

_PUBLISHED: Final = frozenset(
    {
        # The ten accounts of every development node (mnemonic "test test ... junk"): bots empty them within a block.
        "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
        "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
        "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
        "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
        "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
        "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
        "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
    }
)


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction pays per unit of gas, in wei: at most ``max_fee``, of which ``tip`` to the block's maker."""

    max_fee: int
    tip: int

    def __post_init__(self) -> None:
        if not 0 <= self.tip <= self.max_fee < 2**256:
            raise ValueError(f"tip {self.tip} and fee {self.max_fee} are not 0 <= tip <= fee")


@dataclass(frozen=True, slots=True)
class Transaction:
    """An EIP-1559 transaction before it is signed. ``to`` None puts a contract on the chain."""

    chain_id: int
    nonce: int
    to: str | None
    data: bytes
    gas: int
    fees: Fees
    value: int = 0


@dataclass(frozen=True, slots=True)
class Signed:
    """The bytes to send, and the hash under which every node will know them."""

    raw: bytes
    tx_hash: str


class SigningKey:
    """A private key that shows only its address."""

    __slots__ = ("_key", "address")

    def __init__(self, key: bytes) -> None:
        if len(key) != 32 or not 0 < int.from_bytes(key) < _ORDER:
            raise ValueError("a signing key is 32 bytes, from 1 to the order of secp256k1")
        self._key = PrivateKey(key)
        self.address: Final = _address(self._key.public_key)
        """The account it signs for, with its checksum."""

    def __repr__(self) -> str:
        return f"<SigningKey of {self.address}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is not written down")


def sign(transaction: Transaction, key: SigningKey) -> Signed:
    """The signed bytes of a transaction, always the same for the same arguments."""
    fields: list[Any] = [
        transaction.chain_id,
        transaction.nonce,
        transaction.fees.tip,
        transaction.fees.max_fee,
        transaction.gas,
        to_canonical_address(transaction.to) if transaction.to is not None else b"",
        transaction.value,
        transaction.data,
        [],  # no access list
    ]
    signature = key._key.sign_recoverable(_digest(fields), hasher=None)
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
    raw = _TYPE + rlp.encode([*fields, signature[64], r, s])
    return Signed(raw, "0x" + keccak(raw).hex())


def sender_of(raw: bytes) -> str:
    """The address that signed these bytes. Raises ``ValueError`` for bytes that are not a signed transaction."""
    if raw[:1] != _TYPE:
        raise ValueError("not an EIP-1559 transaction")
    try:
        *fields, parity, r, s = rlp.decode(raw[1:])
        if len(fields) != _FIELDS:
            raise ValueError("a wrong number of fields")
        signature = r.rjust(32, b"\0") + s.rjust(32, b"\0") + (parity or b"\0")
        return _address(PublicKey.from_signature_and_message(signature, _digest(fields), hasher=None))
    except Exception as error:  # the libraries raise whatever their parser and their curve raise
        raise ValueError(f"not a signed transaction: {type(error).__name__}") from error


def _digest(fields: list[Any]) -> bytes:
    """What is signed of a transaction."""
    return keccak(_TYPE + rlp.encode(fields))


def _address(key: PublicKey) -> str:
    return to_checksum_address(keccak(key.format(compressed=False)[1:])[12:])


def contract_address(sender: str, nonce: int) -> str:
    """Where the contract will lie that ``sender`` puts on the chain with ``nonce``: known before it is sent."""
    return to_checksum_address(keccak(rlp.encode([to_canonical_address(sender), nonce]))[12:])


def cancellation(transaction: Transaction, address: str, fees: Fees) -> Transaction:
    """A transfer of nothing from ``address`` to itself that takes the nonce of its ``transaction``.

    It is an operator's decision. What it replaces may still be mined instead, so every hash of a nonce is watched.
    """
    return replace(transaction, to=address, data=b"", value=0, gas=21_000, fees=fees)


# --- Fees ----------------------------------------------------------------------------------------------------------


def fees_for(base_fee: int, tip: int) -> Fees:
    """Fees that stay good for some blocks: twice the base fee (it grows by 12.5 % a block at most), and the tip."""
    return Fees(2 * base_fee + tip, tip)


def bumped(fees: Fees, market: Fees | None = None) -> Fees:
    """Fees with which a transaction takes the place of one that paid ``fees``, and no less than ``market``."""
    raised = Fees(_bump(fees.max_fee), _bump(fees.tip))
    if market is None:
        return raised
    return Fees(max(raised.max_fee, market.max_fee), max(raised.tip, market.tip))


def may_replace(old: Fees, new: Fees) -> bool:
    """Whether a replacement pays enough more that every node takes it."""
    return new.max_fee >= _bump(old.max_fee) and new.tip >= _bump(old.tip)


def _bump(wei: int) -> int:
    # Rounded up, and never the same number: a tip of 1 wei has to grow too.
    return max(wei + 1, -(-wei * (1000 + BUMP_PER_MILLE) // 1000))


# --- Keys ----------------------------------------------------------------------------------------------------------


def load_key(settings: Settings) -> SigningKey:
    """The signing key of this process: from ``AURA_CHAIN_KEY``, or from the file ``AURA_CHAIN_KEY_FILE``.

    In the sandbox a key is made once and kept in that file. Outside it, the key must be given, its file must be its
    owner's alone, and a published or guessable key is refused. Raises :class:`SettingsError`; no text of it has any
    part of the key.
    """
    sandbox = settings.mode == "sandbox"
    if settings.chain_key is not None:
        where, text = "AURA_CHAIN_KEY", settings.chain_key.get_secret_value()
    else:
        path = settings.chain_key_file or settings.home / "chain" / "key"
        where = str(path)
        if sandbox and not path.exists():
            _make_key(path)
        text = _read_key(path, sandbox=sandbox)
    try:
        key = bytes.fromhex(text.strip().removeprefix("0x"))
        signing = SigningKey(key)
    except ValueError:
        raise _unusable("The chain's signing key has a wrong form.", where, "a key is 64 hexadecimal digits") from None
    if not sandbox and (weakness := _weakness(key, signing.address)):
        raise _unusable("The chain's signing key is not safe.", where, weakness)
    return signing


def derived(key: SigningKey, name: str) -> SigningKey:
    """The key of one minter: each has nonces of its own, and only one secret needs to be kept."""
    return SigningKey(hmac.digest(key._key.secret, f"aura/minter/{name}".encode(), "sha256"))


def _weakness(key: bytes, address: str) -> str:
    if address in _PUBLISHED:
        return "it is the key of a development account that everyone knows"
    # 32 random bytes have 30 different ones; eight or less do not happen, but by hand they do.
    if int.from_bytes(key) < 2**192 or len(set(key)) <= 8 or key[:16] == key[16:]:
        return "it can be guessed: it is a small number or a pattern"
    return ""


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.touch(mode=0o600)
    temporary.write_text(secrets.token_hex(32) + "\n")
    try:
        # Two processes that start at once must end with one key: the first name wins.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _read_key(path: Path, *, sandbox: bool) -> str:
    try:
        mode = path.stat().st_mode
        if mode & 0o077 and not sandbox:
            raise _unusable(
                "The file of the chain's signing key can be read by others.",
                str(path),
                f"its mode is {mode & 0o777:o}",
                f"chmod 600 {path}",
            )
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise _unusable("The chain's signing key has a wrong form.", str(path), "the file is not text") from None
    except OSError as error:
        raise _unusable(
            "There is no signing key for the chain.", str(path), error.strerror or type(error).__name__
        ) from error


def _unusable(what: str, where: str, why: str, fix: str = "") -> SettingsError:
    fix = fix or "put a key made with `openssl rand -hex 32` into a file of mode 600: AURA_CHAIN_KEY_FILE=/path/to/it"
    return SettingsError(what, where=where, why=why, fix=fix)
