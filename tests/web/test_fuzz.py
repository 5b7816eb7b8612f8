"""The contract fuzzer against an API process on the real ledger: fixed seed, bounded in time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aura_stream.embedded import Process
from aura_stream.embedded.local import http_ok
from aura_stream.embedded.processes import free_port
from tests.web.conftest import Backend, environment
from web.contract import CONTRACT_FILE

KEY = "a-key-for-the-fuzzer-only"
HERE = Path(__file__).parent


@pytest.mark.timeout(300)
def test_a20_contract_holds_under_fuzzing(backend: Backend, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = environment("api", backend.settings) | {"AURA_API_PORT": str(port), "AURA_API_KEY": KEY}
    # No lane answers here, so that setting a pause waits for as long as it may.
    env |= {"AURA_API_WAIT_S": "0.3"}
    argv = [sys.executable, "-m", "aura_stream.cli", "api"]
    api = Process(
        "api-fuzz",
        argv,
        run_dir=tmp_path,
        log_dir=tmp_path,
        env=env,
        tied=True,
        ready=lambda: http_ok(f"{url}/health/ready"),
    )
    api.start()
    try:
        api.wait_ready(30)
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml"]
        options = ["--url", url, "--header", f"Authorization: Bearer {KEY}", "--phases", "examples,coverage,fuzzing"]
        fuzzer = subprocess.run(
            [str(one) for one in (*command, "run", CONTRACT_FILE, *options, "--warnings", "off")],
            capture_output=True,
            text=True,
            timeout=270,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": str(HERE / "fuzz_hooks.py")},
        )
    finally:
        api.stop()
    assert fuzzer.returncode == 0, fuzzer.stdout[-8000:] + fuzzer.stderr[-2000:] + api.log_tail(20)
    assert "Traceback" not in api.log_path.read_text()
