"""The shell's view: `aura send`, `aura tx`, `aura account`."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid

from aura_stream.embedded.processes import free_port
from tests.web.conftest import Api, Backend, environment


async def aura(backend: Backend, url: str, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aura_stream.cli",
        *arguments,
        env=environment("cli", backend.settings) | {"AURA_API_URL": url, "NO_COLOR": "1", "COLUMNS": "200"} | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    return process.returncode, out.decode(), err.decode()


async def test_s19_command_sent_from_the_shell_is_decided_and_shown(backend: Backend, api: Api, customer: str) -> None:
    url = str(api.client.make_url("")).rstrip("/")
    account_id = await api.account(customer, amount="50.00")
    data = json.dumps({"from_account_id": account_id, "to_account_id": f"{customer}:EUR:savings", "amount": "12.50"})
    key = str(uuid.uuid4())
    await api.post("/v1/accounts", {"customer": customer, "asset": "EUR", "name": "savings"})

    arguments = ("send", "transfer.submit", "--customer", customer, "--data", data, "--key", key)
    code, out, err = await aura(backend, url, *arguments, "--wait", "10", "--json")
    sent = json.loads(out)
    assert (code, sent["outcome"]) == (0, {"answer": "new", "status": "completed", "state": "completed"}), err
    code, out, _ = await aura(backend, url, *arguments, "--wait", "10", "--json")
    assert (code, json.loads(out)["outcome"]["answer"]) == (0, "repeat")

    code, out, _ = await aura(backend, url, "tx", "show", sent["transaction_id"])
    assert code == 0
    for expected in ("✔ completed", "transfer.completed", account_id, "12.50", "state history", "debit"):
        assert expected in out
    code, out, _ = await aura(backend, url, "tx", "watch", sent["transaction_id"], "--json")
    assert (code, json.loads(out)["status"]) == (0, "completed")
    code, out, _ = await aura(backend, url, "account", "show", account_id)
    assert code == 0
    assert "37.50 EUR" in out


async def test_s19_what_is_no_command_is_refused_before_it_is_sent(backend: Backend, api: Api) -> None:
    code, _, err = await aura(backend, "", "send", "transfer.submit", "-c", "alice", "-d", '{"amount": 5}')
    assert code == 2
    assert "missing_fields" in err
    assert "fix:" in err
    assert (await aura(backend, "", "send", "transfer.submit", "-c", "alice", "-d", "{"))[0] == 2


async def test_refused_command_and_missing_things_end_with_1(backend: Backend, api: Api, customer: str) -> None:
    url = str(api.client.make_url("")).rstrip("/")
    data = json.dumps({"account_id": f"{customer}:EUR", "amount": "5.00"})

    code, out, _ = await aura(backend, url, "send", "deposit.submit", "-c", customer, "-d", data, "--wait", "10")
    assert (code, "account_not_found" in out) == (1, True)
    code, _, err = await aura(backend, url, "tx", "show", str(uuid.uuid4()))
    assert (code, "No such transaction" in err) == (1, True)
    code, _, err = await aura(backend, url, "account", "show", f"{customer}:EUR")
    assert (code, "account_not_found" in err or "There is no account" in err) == (1, True)


async def test_away_services_end_with_3_and_say_what_to_do(backend: Backend) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    for arguments in (("tx", "show", str(uuid.uuid4())), ("account", "show", "alice:EUR")):
        code, _, err = await aura(backend, f"http://{nowhere}", *arguments)
        assert code == 3
        assert "does not answer" in err
        assert "aura up" in err
    opening = ("send", "account.open", "-c", "alice", "-d", '{"asset": "EUR"}')
    code, _, err = await aura(backend, "", *opening, AURA_KAFKA_BOOTSTRAP=nowhere)
    assert code == 3
    assert "not acknowledged" in err


async def test_a06_settlement_from_the_shell_says_what_it_waits_for(backend: Backend, api: Api, customer: str) -> None:
    url = str(api.client.make_url("")).rstrip("/")
    await api.account(customer)
    data = {"account_id": f"{customer}:EUR", "amount": "5.00", "rail": "sepa", "payer": {"name": "Review"}}
    arguments = ("send", "deposit.submit", "-c", customer, "-d", json.dumps(data), "--wait", "10", "--json")
    code, out, err = await aura(backend, url, *arguments)
    sent = json.loads(out)
    assert (code, sent["outcome"]["state"]) == (0, "requires_approval"), err

    code, out, _ = await aura(backend, url, "tx", "show", sent["transaction_id"])
    assert code == 0
    for expected in ("? requires_approval", "operator: The approval of a second person.", "then: expires", "bank-b"):
        assert expected in out, expected
    approve = {"transaction_id": sent["transaction_id"], "operator": "olga"}
    arguments = ("send", "transaction.approve", "-c", customer, "-d", json.dumps(approve), "--wait", "10", "--json")
    code, out, _ = await aura(backend, url, *arguments)
    assert (code, json.loads(out)["outcome"]["state"]) == (0, "awaiting_funds")

    pause = {"operator": "olga", "scope": {"account": f"{customer}:EUR"}}
    arguments = ("send", "pause.set", "-c", "ops", "-d", json.dumps(pause), "--wait", "10", "--json")
    code, out, err = await aura(backend, url, *arguments)
    shown = json.loads(out)
    assert (code, shown["outcome"]) == (0, {"answer": "new", "status": "set"}), err
    assert shown["pause_id"]
