"""The contract fuzzer as a person: the aliases, and what the first operator has no use for, without a server error."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.identity.conftest import Node, staff
from tests.web.test_fuzz import (
    EXAMPLES,
    LONGEST_S,
    backend,  # noqa: F401 - a ledger of its own
)
from web.contract import load_contract

WEB = Path(__file__).parent.parent / "web"
# These end the login of the fuzzer itself; the first operator's fuzzing has them.
TAGS = (
    "auth",
    "users",
    "tenants",
    *(f"alias: {system}" for system in ("Aurix", "LedgerBank", "Settlement PoC", "UPOP")),
)
LEAVE_OUT = (
    *("logout", "changePassword", "endMySession", "rotateSigningKey", "revokeSigningKey"),
    *("aurix_post_auth_logout", "aurix_post_auth_change_password"),
    *("ledgerbank_post_api_auth_logout", "ledgerbank_put_api_profile_password"),
)


@pytest.mark.timeout(LONGEST_S + 60)
async def test_sec58_contract_holds_for_a_person_under_fuzzing(node: Node, tmp_path: Path) -> None:
    who = await staff(node, "user", "admin")
    contract = tmp_path / "openapi.json"
    contract.write_bytes(load_contract().json)
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", WEB / "schemathesis.toml"]
    options = ["--url", str(node.client.make_url("/")).rstrip("/"), "--header", f"Authorization: Bearer {who.access}"]
    for tag in TAGS:
        options += ["--include-tag", tag]
    options += [part for one in LEAVE_OUT for part in ("--exclude-operation-id", one)]
    options += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--warnings", "off"]
    fuzzer = await asyncio.to_thread(
        subprocess.run,
        [str(one) for one in (*command, "run", contract, *options)],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": str(WEB / "fuzz_hooks.py")},
    )
    assert fuzzer.returncode == 0, fuzzer.stdout[-8000:] + fuzzer.stderr[-2000:]
