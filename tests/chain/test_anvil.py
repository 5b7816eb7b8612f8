"""The embedded chain: only the pinned program, nobody rich, and a chain that outlives its node."""

from __future__ import annotations

import io
import json
import platform
import socket
import stat
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from aura_stream import SetupError
from aura_stream.embedded.anvil import CHAIN_ID, AnvilServer, chain_id_at, ensure_anvil
from aura_stream.embedded.processes import wait_until


def ask(server: AnvilServer, method: str, *params: object) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(server.rpc_url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["result"]


def test_a19_the_chain_outlives_its_node_with_all_its_history(tmp_path: Path) -> None:
    giver, taker = "0x" + "1" * 40, "0x" + "2" * 40
    with AnvilServer(tmp_path, block_time_s=None, tied=True) as server:
        ask(server, "anvil_setBalance", giver, hex(10**18))
        ask(server, "anvil_mine", "0x3")
        ask(server, "anvil_impersonateAccount", giver)
        ask(server, "eth_sendTransaction", {"from": giver, "to": taker, "value": "0x7"})
        ask(server, "anvil_mine", "0x2")
        blocks = [ask(server, "eth_getBlockByNumber", hex(number), False)["hash"] for number in range(6)]
        first, port = server.pid, server.port
        server.restart()
        assert (server.pid != first, server.port) == (True, port)
        assert [ask(server, "eth_getBlockByNumber", hex(number), False)["hash"] for number in range(6)] == blocks
        assert [ask(server, "eth_getBalance", taker, at) for at in ("0x3", "0x4", "latest")] == ["0x0", "0x7", "0x7"]
    assert chain_id_at(server.rpc_url) is None


def test_n32_a_killed_node_comes_back_with_what_it_had_written_down(tmp_path: Path) -> None:
    with AnvilServer(tmp_path, block_time_s=None, save_every_s=1, tied=True) as server:
        ask(server, "anvil_mine", "0x3")
        before = ask(server, "eth_getBlockByNumber", "0x3", False)["hash"]
        assert wait_until(lambda: height_of(server.state_path) == 3, 30)
        server.kill()
        server.start()
        assert ask(server, "eth_getBlockByNumber", "0x3", False)["hash"] == before


def test_a_chain_that_was_not_written_to_its_end_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with AnvilServer(tmp_path, block_time_s=None, tied=True) as server:
        ask(server, "anvil_mine", "0x3")
    text = server.state_path.read_text()
    server.state_path.write_text(text[: len(text) // 2])
    with pytest.raises(SetupError, match="damaged") as caught:
        server.start()
    assert str(server.state_path) in caught.value.fix


def height_of(path: Path) -> int | None:
    """The head that the file holds; None while there is none, or while it is being written."""
    try:
        return int(json.loads(path.read_text())["best_block_number"])
    except (FileNotFoundError, ValueError):
        return None


def test_blocks_come_by_themselves_and_no_development_account_is_worth_anything(tmp_path: Path) -> None:
    with AnvilServer(tmp_path, block_time_s=0.2, tied=True) as server:
        assert chain_id_at(server.rpc_url) == CHAIN_ID
        assert wait_until(lambda: int(ask(server, "eth_blockNumber"), 16) >= 3, 30)
        assert ask(server, "eth_accounts") == []
        assert ask(server, "eth_getBalance", "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "latest") == "0x0"


def test_a_port_in_use_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SetupError, match="in use") as caught:
            AnvilServer(tmp_path, other.getsockname()[1], tied=True).start()
    assert "AURA_CHAIN_PORT" in caught.value.fix


def test_a_changed_program_is_not_run(tmp_path: Path) -> None:
    program = tmp_path / "anvil"
    program.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(SetupError, match="not the one that was pinned") as caught:
        ensure_anvil(program)
    assert caught.value.fix.startswith(f"rm {program}")


def npm_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an npm of our own before the real one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_another_archive_than_the_pinned_one_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/bin/anvil")
        archive.addfile(member, io.BytesIO())
    (tmp_path / "evil.tgz").write_bytes(evil.getvalue())
    npm_that(tmp_path, monkeypatch, f'for last; do :; done; cp {tmp_path}/evil.tgz "$last/evil.tgz"; echo evil.tgz')
    with pytest.raises(SetupError, match="not the one that was pinned") as caught:
        ensure_anvil(tmp_path / "cache" / "anvil")
    assert "sha512-" in caught.value.why
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "why"), [("echo the registry is away >&2; exit 1", "registry is away"), ("echo x.tgz", "no archive")]
)
def test_a_failed_download_says_what_npm_said_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    npm_that(tmp_path, monkeypatch, script)
    with pytest.raises(SetupError, match="could not be downloaded") as caught:
        ensure_anvil(tmp_path / "cache" / "anvil")
    assert why in caught.value.why
    assert "AURA_CHAIN_RPC_URL" in caught.value.fix
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_npm_and_without_a_package_index_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SetupError, match="npm could not be downloaded") as caught:
        ensure_anvil(tmp_path / "cache" / "anvil")
    assert "install npm" in caught.value.fix
    assert "AURA_CHAIN_RPC_URL" in caught.value.fix


def test_a_machine_without_a_program_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "sparc64")
    with pytest.raises(SetupError, match="no local chain") as caught:
        ensure_anvil(tmp_path / "anvil")
    assert "sparc64" in caught.value.where
