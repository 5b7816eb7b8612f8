"""Names that travel: tenant, customer, account id, Kafka key, derived transaction id."""

from __future__ import annotations

import re
import uuid
from functools import lru_cache
from hashlib import blake2b, sha1
from typing import Final, NamedTuple

from aura_stream.domain.assets import SCALES
from aura_stream.domain.reasons import Invalid, Refused

NAMESPACE: Final = uuid.UUID("6f0f7f6e-8f5b-5d0c-9a57-0c1f6a3f5a10")
"""The published namespace of transaction ids: uuid5(NAMESPACE, "tenant/customer/key"). It never changes."""

TENANT_PATTERN: Final = r"^[a-z0-9_-]{1,64}$"
CUSTOMER_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
OWNER_PATTERN: Final = r"^([A-Za-z0-9_-]{1,64}|~bank:[a-z0-9_-]{1,64})$"
"""Of what an operator decides about: a customer's, or what came to a bank and is nobody's."""
IDEMPOTENCY_KEY_PATTERN: Final = r"^[ -~]{1,255}$"
ACCOUNT_ID_PATTERN: Final = r"^[A-Za-z0-9_@/-]{1,129}:[A-Z0-9]{1,16}(:[A-Za-z0-9_-]{1,64})?$"
UUID_PATTERN: Final = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"
ACCOUNT_NAME_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
_customer = re.compile(CUSTOMER_PATTERN)
_account = re.compile(ACCOUNT_ID_PATTERN)
_uuid = re.compile(UUID_PATTERN)
_namespaced = sha1(NAMESPACE.bytes, usedforsecurity=False)


class AccountId(NamedTuple):
    """The parts of an account id `<customer>:<asset>[:<name>]`."""

    customer: str
    asset: str
    name: str


@lru_cache(maxsize=1 << 14)
def parse_account_id(text: str) -> AccountId:
    """The parts of a customer's account id.

    Raises :class:`Invalid` when it is no account id or its asset is unknown, :class:`Refused` ``cross_tenant`` when it
    names a tenant (a ``/``), ``account_not_found`` when it is a house account (``@``): no customer may use one.
    """
    if not _account.fullmatch(text):
        raise Invalid("invalid_account_id", f"{text[:80]!a} is not <customer>:<asset> or <customer>:<asset>:<name>")
    customer, asset, *name = text.split(":")
    if asset not in SCALES:
        raise Invalid("unsupported_asset", f"{asset!a} is not an asset")
    if "/" in customer:
        raise Refused("cross_tenant", f"{text} names another tenant")
    if not _customer.fullmatch(customer):
        raise Refused("account_not_found", f"{text} is not a customer's account")
    return AccountId(customer, asset, name[0] if name else "")


@lru_cache(maxsize=1 << 14)
def record_key(tenant: str, customer: str) -> bytes:
    """The Kafka key of everything that belongs to a customer; the customer is the actor, the key is its address.

    What is nobody's lives where its bank's lane has told of it.
    """
    return f"{tenant}/{customer}".encode() if customer[:1] != "~" else customer.encode()


def derived_id(tenant: str, customer: str, idempotency_key: str) -> bytes:
    """The 16 bytes of uuid5(NAMESPACE, "tenant/customer/key"): a repeated command meets the record it repeats.

    The same as ``uuid.uuid5`` (RFC 9562, section 5.5), without its object: this runs once per command.
    """
    hashed = _namespaced.copy()
    hashed.update(f"{tenant}/{customer}/{idempotency_key}".encode())
    digest = bytearray(hashed.digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)


def id_text(raw: bytes) -> str:
    """The usual text of the 16 bytes of a UUID."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def id_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID's usual text. Raises :class:`Invalid` ``invalid_uuid_format``."""
    if not _uuid.fullmatch(text):
        raise Invalid("invalid_uuid_format", f"{text[:64]!a} is not a UUID")
    return bytes.fromhex(text.replace("-", ""))


def bank_reference(transaction_id: str, step: str) -> str:
    """Our reference of a step towards a bank: 32 hex characters, which fit EndToEndId (Max35Text of ISO 20022).

    Derived, so that whoever asks again asks with the same one. NACHA has room for 15: those are allotted by the lane.
    """
    return blake2b(f"{transaction_id}/{step}".encode(), digest_size=16).hexdigest()


def chain_reference(transaction_id: str, step: str) -> str:
    """Our one-time reference of a mint or burn: 32 bytes as 64 hex characters, the contract's `bytes32`."""
    return blake2b(f"{transaction_id}/{step}".encode(), digest_size=32).hexdigest()


def bank_lane_key(bank: str) -> bytes:
    """The record key of a bank's lane. No tenant's name begins with `~`, so no customer's key is ever one."""
    return f"~bank:{bank}".encode()


def chain_lane_key(chain: str, token: str) -> bytes:
    """The record key of the minter lane of a chain and token: one signing key, one source of nonces."""
    return f"~chain:{chain}:{token}".encode()
