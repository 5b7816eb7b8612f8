"""The contract fuzzer against an API process on the real ledger: fixed seed, bounded in time.

AURA_FUZZ_EXAMPLES sets how much is made up per operation, beside what is made from the contract's every rule: `make
fuzz` runs far more than the suite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_stream.embedded import PostgresServer
from tests.web.conftest import Backend, api_process, running
from web.contract import CONTRACT_FILE

EXAMPLES = int(os.environ.get("AURA_FUZZ_EXAMPLES", "5"))
LONGEST_S = 300 + 20 * EXAMPLES
KEY = "a-key-for-the-fuzzer-only"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def backend(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A ledger of its own: the fuzzer leaves it full of nonsense."""
    with running(postgres, tmp_path_factory.mktemp("fuzz")) as found:
        yield found


@pytest.mark.timeout(LONGEST_S + 60)
def test_a20_contract_holds_under_fuzzing(backend: Backend, tmp_path: Path) -> None:
    # No lane answers here, so that setting a pause waits for as long as it may.
    banks = tmp_path / "banks.json"
    bank = {
        "url": "http://127.0.0.1:1",
        "client_id": "none",
        "client_secret": "none",
        "webhook_secret": "whsec_bm9uZQ==",
    }
    banks.write_text(json.dumps({"banks": {"bank-a": bank}}))
    more = {"AURA_API_KEY": KEY, "AURA_API_WAIT_S": "0.3", "AURA_BANKS_FILE": str(banks)}
    api, url = api_process(backend, tmp_path, **more)
    api.start()
    try:
        api.wait_ready(30)
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml"]
        options = ["--url", url, "--header", f"Authorization: Bearer {KEY}", "--phases", "examples,coverage,fuzzing"]
        options += ["--max-examples", str(EXAMPLES), "--warnings", "off"]
        fuzzer = subprocess.run(
            [str(one) for one in (*command, "run", CONTRACT_FILE, *options)],
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": str(HERE / "fuzz_hooks.py")},
        )
    finally:
        api.stop()
    assert fuzzer.returncode == 0, fuzzer.stdout[-8000:] + fuzzer.stderr[-2000:] + api.log_tail(20)
    assert "Traceback" not in api.log_path.read_text()
