"""The contract fuzzer against an API process on the real ledger: fixed seed, bounded in time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.web.conftest import Backend, api_process
from web.contract import CONTRACT_FILE

KEY = "a-key-for-the-fuzzer-only"
HERE = Path(__file__).parent


@pytest.mark.timeout(360)
def test_a20_contract_holds_under_fuzzing(backend: Backend, tmp_path: Path) -> None:
    api, url = api_process(backend, tmp_path, AURA_API_KEY=KEY)
    api.start()
    try:
        api.wait_ready(30)
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml"]
        options = ["--url", url, "--header", f"Authorization: Bearer {KEY}", "--phases", "examples,coverage,fuzzing"]
        fuzzer = subprocess.run(
            [str(one) for one in (*command, "run", CONTRACT_FILE, *options, "--warnings", "off")],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": str(HERE / "fuzz_hooks.py")},
        )
    finally:
        api.stop()
    assert fuzzer.returncode == 0, fuzzer.stdout[-8000:] + fuzzer.stderr[-2000:] + api.log_tail(20)
    assert "Traceback" not in api.log_path.read_text()
