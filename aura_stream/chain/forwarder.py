"""The addresses by which tokens come back, and the contract behind them: `forwarder.vy`. Pure.

Each account has an address of its own. Nobody has a key of it: whatever lies there can only be swept to the custody
address, by the minter's own key. So it needs no money for gas and has no nonces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from eth_abi.abi import encode
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

_ARTEFACT: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("forwarder.json").read_text(encoding="utf-8"))
_BYTECODE: Final = bytes.fromhex(_ARTEFACT["bytecode"][2:])
_SWEEP: Final = keccak(text="sweep(bytes32,uint256)")[:4]
# EIP-1167, as Vyper's `create_minimal_proxy_to` writes it.
_PROXY: Final = bytes.fromhex("602d3d8160093d39f3363d3d373d3d3d363d73"), bytes.fromhex("5af43d82803e903d91602b57fd5bf3")


def creation(token: str) -> bytes:
    """Call data that puts the contract on the chain; its sender is the custody address for good."""
    return _BYTECODE + encode(["address"], [token])


def salt(tenant: str, account: str) -> bytes:
    """What an account's address is derived from. Neither name can contain the stroke between them."""
    return keccak(text=f"{tenant}/{account}")


def address(forwarder: str, of: bytes) -> str:
    """The address of a salt, by CREATE2: known before anything is there."""
    code = keccak(_PROXY[0] + to_canonical_address(forwarder) + _PROXY[1])
    return to_checksum_address(keccak(b"\xff" + to_canonical_address(forwarder) + of + code)[12:])


def sweep(of: bytes, amount: int) -> bytes:
    """Call data that moves `amount` units from the address of a salt to the custody address."""
    return _SWEEP + encode(["bytes32", "uint256"], [of, amount])
