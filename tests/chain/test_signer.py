"""Signing: the same bytes always, those that another library makes, fees that replace, keys that stay secret."""

from __future__ import annotations

import logging
import pickle
import secrets
import stat
import threading
import traceback
from pathlib import Path

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from aura_stream import SettingsError
from aura_stream.chain.signer import (
    GWEI,
    Fees,
    SigningKey,
    Transaction,
    bumped,
    cancellation,
    contract_address,
    load_key,
    may_replace,
    sender_of,
    sign,
)
from aura_stream.settings import Settings

KEYS = st.integers(1, 2**256 - 2**130).map(lambda number: number.to_bytes(32))
WEI = st.integers(0, 2**100)
ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: SigningKey(b"\1" * 12 + raw).address)
FEES = st.tuples(WEI, WEI).map(lambda pair: Fees(max(pair), min(pair)))
TRANSACTIONS = st.builds(
    Transaction,
    chain_id=st.integers(1, 2**40),
    nonce=st.integers(0, 2**63),
    to=st.none() | ADDRESSES,
    data=st.binary(max_size=200),
    gas=st.integers(21_000, 30_000_000),
    fees=FEES,
    value=WEI,
)


@settings(max_examples=150, deadline=None)
@given(TRANSACTIONS, KEYS)
def test_n32_signing_is_repeatable_and_agrees_with_another_library(transaction: Transaction, key: bytes) -> None:
    signed = sign(transaction, SigningKey(key))
    assert sign(transaction, SigningKey(key)) == signed
    other = Account.from_key(key).sign_transaction(
        {
            "type": 2,
            "chainId": transaction.chain_id,
            "nonce": transaction.nonce,
            "value": transaction.value,
            "data": transaction.data,
            "gas": transaction.gas,
            "maxFeePerGas": transaction.fees.max_fee,
            "maxPriorityFeePerGas": transaction.fees.tip,
            **({"to": transaction.to} if transaction.to else {}),
        }
    )
    assert signed.raw == bytes(other.raw_transaction)
    assert signed.tx_hash == "0x" + bytes(other.hash).hex()
    assert sender_of(signed.raw) == SigningKey(key).address == Account.from_key(key).address


@pytest.mark.parametrize("raw", [b"", b"\2", b"\2\xc0", b"\1\xc0", b"\2\xc3\1\2\3", b"\xf8" * 100])
def test_sec34_bytes_that_nobody_signed_have_no_sender(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a"):
        sender_of(raw)


def test_a_contracts_address_is_known_before_it_exists() -> None:
    # From EIP-161's often quoted example: the first contracts of one account.
    sender = "0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"
    assert contract_address(sender, 0) == "0xcd234A471b72ba2F1Ccf0A70FCABA648a5eeCD8d"
    assert contract_address(sender, 1) == "0x343c43A37D37dfF08AE8C4A11544c718AbB4fCF8"


@given(FEES, st.none() | FEES)
def test_n32_a_bump_pays_an_eighth_more_of_both_and_no_less_than_the_market(fees: Fees, market: Fees | None) -> None:
    new = bumped(fees, market)
    assert may_replace(fees, new)
    assert 8 * new.max_fee >= 9 * fees.max_fee
    assert 8 * new.tip >= 9 * fees.tip
    assert new.tip > fees.tip
    assert not may_replace(new, fees)
    assert market is None or (new.max_fee >= market.max_fee and new.tip >= market.tip)


def test_n32_less_than_an_eighth_more_does_not_replace() -> None:
    old = Fees(80 * GWEI, 8 * GWEI)
    assert may_replace(old, Fees(90 * GWEI, 9 * GWEI))
    assert not may_replace(old, Fees(90 * GWEI - 1, 9 * GWEI))
    assert not may_replace(old, Fees(90 * GWEI, 9 * GWEI - 1))


def test_a_cancellation_keeps_the_nonce_and_moves_nothing() -> None:
    key = SigningKey(secrets.token_bytes(32))
    transaction = Transaction(1, 7, "0x" + "1" * 40, b"data", 90_000, Fees(8, 8), value=3)
    cancel = cancellation(transaction, key.address, bumped(transaction.fees))
    assert (cancel.nonce, cancel.to, cancel.data, cancel.value) == (7, key.address, b"", 0)
    assert sign(cancel, key).tx_hash != sign(transaction, key).tx_hash


@pytest.mark.parametrize("fees", [(-1, -1), (1, 2), (2**256, 0)])
def test_impossible_fees_are_refused(fees: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="fee"):
        Fees(*fees)


# --- Keys ---

CANARY = "c0ffee" + secrets.token_hex(29)


OTHERS = {"api_key": SecretStr(bytes(range(16)).hex()), "identity_secret": SecretStr(bytes(range(32)).hex())}
"""What else live mode asks for."""


def given_key(text: str, mode: str = "sandbox", **more: object) -> Settings:
    return Settings(mode=mode, chain_key=SecretStr(text), **OTHERS, **more)  # type: ignore[arg-type]


def test_sec43_a_key_shows_in_no_text(caplog: pytest.LogCaptureFixture) -> None:
    configuration = given_key(CANARY)
    key = load_key(configuration)
    logging.getLogger("test").warning("%s %r %s", key, key, configuration)
    shown = [str(key), repr(key), repr(configuration), configuration.model_dump_json(), caplog.text, str(dir(key))]
    with pytest.raises(TypeError) as pickled:
        pickle.dumps(key)
    with pytest.raises(SettingsError) as wrong:
        load_key(given_key(CANARY[:-1] + "x"))
    shown += ["".join(traceback.format_exception(error.value)) for error in (pickled, wrong)]
    assert not [text for text in shown if CANARY[:20] in text.lower()]


def test_sec44_the_keys_of_every_development_node_are_refused_outside_the_sandbox() -> None:
    Account.enable_unaudited_hdwallet_features()
    for number in range(10):
        account = Account.from_mnemonic("test " * 11 + "junk", account_path=f"m/44'/60'/0'/0/{number}")
        with pytest.raises(SettingsError, match="not safe") as caught:
            load_key(given_key(account.key.hex(), "live"))
        assert "everyone knows" in caught.value.why


@pytest.mark.parametrize("weak", [f"{1:064x}", f"{2**190:064x}", "0x" + "ab" * 32, "0123456789abcdef" * 4])
def test_sec44_a_guessable_key_is_refused_outside_the_sandbox(weak: str) -> None:
    with pytest.raises(SettingsError, match="not safe") as caught:
        load_key(given_key(weak, "live"))
    assert caught.value.where == "AURA_CHAIN_KEY"
    assert "openssl rand" in caught.value.fix
    load_key(given_key(weak))  # play money may have it


def test_sec44_random_keys_are_not_taken_for_weak_ones() -> None:
    for _ in range(300):
        load_key(given_key(secrets.token_hex(32), "live"))


@pytest.mark.parametrize("bad", ["", "12", "x" * 64, "0" * 64, "f" * 64, f"{1:063x}"])
def test_sec44_what_is_no_key_is_refused_everywhere(bad: str) -> None:
    with pytest.raises(SettingsError, match="wrong form"):
        load_key(given_key(bad))


def from_file(path: Path, mode: str = "live") -> Settings:
    return Settings(mode=mode, chain_key_file=path, **OTHERS)  # type: ignore[arg-type]


def test_sec44_in_live_mode_the_key_file_must_be_there_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(SettingsError, match="no signing key"):
        load_key(from_file(path))
    assert not path.exists()
    path.write_text(CANARY + "\n")
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="read by others") as caught:
        load_key(from_file(path))
    assert caught.value.fix == f"chmod 600 {path}"
    path.chmod(0o600)
    assert load_key(from_file(path)).address == SigningKey(bytes.fromhex(CANARY)).address


def test_the_sandbox_makes_one_key_even_when_many_begin_at_once(tmp_path: Path) -> None:
    path = tmp_path / "chain" / "key"
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_key(from_file(path, "sandbox")).address)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
