"""What answers may show is frozen, and every HTTP test is watched for more (`shapes.py`)."""

from __future__ import annotations

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aura_stream.settings import load_settings
from tests.web.shapes import NOT_ALLOWED, SHAPES_FILE, allowed, answers, frozen, only_what_is_allowed
from web.answers import json_response
from web.app import HANDLERS, create_app

NOWHERE = {"kafka_bootstrap": "127.0.0.1:1", "postgres_dsn": "postgresql://nobody@127.0.0.1:1/none"}
SECRETS = ("password", "password_hash", "secret_hash", "private_sealed", "token_hash", "fingerprint", "jti")


def test_sec21_what_answers_may_show_is_what_was_agreed() -> None:
    agreed = orjson.loads(SHAPES_FILE.read_bytes())
    now = frozen()
    changed = {
        name: (agreed.get(name), now.get(name)) for name in agreed.keys() | now if agreed.get(name) != now.get(name)
    }
    assert changed == {}, "if this is meant: python -m tests.web.shapes"


def test_l87_no_answer_has_room_for_a_secret() -> None:
    for operation, allowed_members in frozen().items():
        for member in allowed_members:
            assert member.rpartition(".")[2] not in SECRETS, (operation, member)


def test_every_answer_is_a_schema_that_names_its_members() -> None:
    open_ones = {name for name, found in frozen().items() if any(member.endswith("*") for member in found)}
    # The contract, checks by name, events, whose data is what their type says, the figures of a kind of lane, and what
    # waits by its state.
    assert {name.partition(" ")[0] for name in open_ones} == {
        *("getContract", "aurix_get_swagger_spec"),
        *("getHealth", "getDetailedHealth", "getReadiness", "getLiveness"),
        *("listEvents", "getEvent"),
        *("listLanes", "getLane", "releaseLane", "cancelNonce"),
        "getReserves",
    }
    for operation, code, _ in answers():
        assert allowed(operation, int(code), "application/json") is not None


@pytest.mark.parametrize("extra", [{"password_hash": "x"}, {"status": 1}])
async def test_the_watch_sees_a_member_that_nobody_allowed(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, object]
) -> None:
    async def shows(call: object) -> web.Response:
        return json_response({"status": "ok"} | extra)

    monkeypatch.setitem(HANDLERS, "getLiveness", shows)
    app = create_app(load_settings(**NOWHERE))
    app.middlewares.insert(0, only_what_is_allowed)
    async with TestClient(TestServer(app)) as client, client.get("/health/live") as answer:
        assert answer.status == NOT_ALLOWED
