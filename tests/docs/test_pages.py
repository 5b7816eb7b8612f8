"""The documentation says what the code says: built parts are fresh, named tests exist, links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import topics
from agents.lane_metrics import GAUGES
from agents.worker import NAMES
from aura_stream.cli import COMMANDS
from aura_stream.domain.commands import COMMAND_TYPES
from aura_stream.domain.lanes.bank import Limits
from aura_stream.settings import Settings
from docs import build
from tests.docs.pages import ROOT, links, name_of, named_tests, pages
from web.contract import load_contract

_EVENT = re.compile(r'"((?:transfer|deposit|hold|account|command)\.[a-z_]+)"')


@pytest.mark.parametrize("page", build.PAGES)
def test_built_parts_are_fresh(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    assert build.build(page) == text, f"{page} is stale; run: python -m docs.build"


def test_every_built_part_is_used() -> None:
    texts = "".join((ROOT / page).read_text(encoding="utf-8") for page in build.PAGES)

    assert set(re.findall(r"<!-- built: (\w+) -->", texts)) == set(build.BLOCKS)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_named_test_exists(page: Path) -> None:
    for file, name in named_tests(page):
        source = ROOT / file
        assert source.exists(), f"{name_of(page)} names {file}, which is not there"
        assert re.search(rf"^(async def|def|class) {name}\b|^{name} =", source.read_text(encoding="utf-8"), re.M), (
            f"{name_of(page)} names {file}::{name}, which is not there"
        )


def test_every_guarantee_names_a_test() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("| promise |") : text.index("### What is not promised")]
    rows = [line for line in section.splitlines()[2:] if line.startswith("|")]

    assert len(rows) >= 10
    assert [row for row in rows if "tests/" not in row] == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [target for target in links(page) if not (page.parent / target).exists()]

    assert broken == []


def test_every_command_of_the_shell_and_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in pages():
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"[`/]aura ([a-z][a-z-]*)", text))
        assert named <= set(COMMANDS), f"{name_of(page)}: {sorted(named - set(COMMANDS))}"
        made = set(re.findall(r"`make ([a-z]+)", text))
        assert made <= targets, f"{name_of(page)}: {sorted(made - targets)}"


def test_every_named_setting_exists() -> None:
    known = {f"AURA_{name.upper()}" for name in Settings.model_fields} | {
        *("AURA_DEMO_SECONDS", "AURA_EMBEDDED"),
        *re.findall(r"AURA_[A-Z_]+", (ROOT / ".env.example").read_text(encoding="utf-8")),
    }
    for page in pages():
        named = set(re.findall(r"AURA_[A-Z_]+[A-Z]", page.read_text(encoding="utf-8")))
        # Any setting can be read from a file that `<name>_FILE` names.
        named = {name if name in known else name.removesuffix("_FILE") for name in named}
        assert named <= known, f"{name_of(page)}: {sorted(named - known)}"


def test_the_kafka_guide_names_every_event() -> None:
    sources = [*(ROOT / "aura_stream/domain").glob("*.py"), *(ROOT / "agents").glob("*.py")]
    events = {event for source in sources for event in _EVENT.findall(source.read_text(encoding="utf-8"))}
    events |= {"transfer.failed", "deposit.failed", "hold.failed"}
    guide = (ROOT / "docs/guide/kafka-door.md").read_text(encoding="utf-8")

    missing = [event for event in sorted(events - set(COMMAND_TYPES)) if f"`{event}`" not in guide]

    assert missing == []


def test_the_http_guide_names_every_route() -> None:
    pages = {
        is_alias: (ROOT / page).read_text(encoding="utf-8")
        for is_alias, page in ((False, "docs/guide/http.md"), (True, "docs/reference/aliases.md"))
    }

    missing = [
        f"{operation.method} {operation.path}"
        for operation in load_contract().operations.values()
        if f"`{operation.method} {operation.path}`" not in pages[bool(operation.alias_of)]
    ]

    assert missing == []


def test_the_sql_guide_names_every_table_view_and_function() -> None:
    migration = (ROOT / "aura_stream/sql/migrations/0001_ledger.sql").read_text(encoding="utf-8")
    public = set(re.findall(r"CREATE (?:TABLE|VIEW) ledger\.(\w+)", migration)) | {"balance_as_of", "normal_side"}
    guide = (ROOT / "docs/guide/sql.md").read_text(encoding="utf-8")

    assert [name for name in sorted(public) if f"`{name}" not in guide] == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_shown_json_is_json_and_a_message_follows_its_schema(page: Path) -> None:
    for block in re.findall(r"^```json\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        shown = json.loads(block)
        name = "transaction-event.json" if "version" in shown else "command.json" if "issued_at" in shown else ""
        if name and shown.get("data", {}).get("amount") != "1.234":
            schema = json.loads((ROOT / "topics/schemas" / name).read_text(encoding="utf-8"))
            assert list(jsonschema_rs.Draft202012Validator(schema).iter_errors(shown)) == []


def test_shown_messages_follow_the_schemas() -> None:
    run = build.Example()

    seen = 0
    for schema, values in _messages(run):
        validator = jsonschema_rs.Draft202012Validator(schema)
        for value in values:
            assert list(validator.iter_errors(value)) == []
            seen += 1

    assert seen > 15


def _messages(run: build.Example) -> Iterable[tuple[dict[str, Any], list[Any]]]:
    for topic in topics.ALL:
        if not topic.schema:
            continue
        schema = json.loads((ROOT / "topics/schemas" / topic.schema).read_text(encoding="utf-8"))
        values = run.messages(topic.name)
        if topic.name == NAMES.commands:
            # What the schema cannot know, the number of places of an asset, is the dead letter's fault.
            values = values[:-1]
        yield schema, values


@pytest.mark.row("A18", "A15", "A14")
def test_a18_the_notes_on_resilience_say_the_numbers_that_the_lanes_go_by() -> None:
    notes = (ROOT / "docs/guide/settlement.md").read_text(encoding="utf-8")
    tried_again = notes.partition("## What is tried again")[2].partition("##")[0]
    limits = Limits()

    assert (limits.tries, limits.backoff_ms, limits.failures_to_open, limits.open_ms) == (3, 1_000, 5, 30_000)
    for said in ("three tries, after 1 s, 2 s", "five failures in a row", "opens for 30 s"):
        assert said in tried_again, said
    assert (limits.inquire_every_ms, limits.inquiries) == (5_000, 10)
    assert "every 5 s, ten times" in tried_again
    assert (limits.longest_delay_ms, limits.window_ms) == (60_000, 24 * 60 * 60 * 1000)
    assert "longest delay (60 s)" in tried_again and "(24 h)" in tried_again
    named = set(re.findall(r"`(aura_lane_\w+)`", notes))
    assert named == {*GAUGES, "aura_lane_attempts_total", "aura_lane_notes_total"}


@pytest.mark.row("A18")
def test_a18_each_part_imports_what_the_architecture_says_and_no_other() -> None:
    """Of the parts that name what they may import; what stands in no package (settings, brokers) is anybody's."""
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([\w/]+?)/?` \| .*? \| (.*?) \|$", text.partition("## Topics")[0], re.MULTILINE)
    parts = {name: may for name, may in table if (ROOT / name).is_dir()}
    known = {name.rpartition("/")[2] for name in parts}
    strict = {name: set(re.findall(r"\w+", may)) & known for name, may in parts.items() if "all" not in may.split()}
    assert len(strict) > 10

    for name, may in strict.items():
        imported = set().union(*(_imports(path) for path in (ROOT / name).rglob("*.py")))
        mine = name.rpartition("/")[2]
        assert imported & known - {mine} <= may, name
        assert name == "aura_stream/mock_bank" or may - imported == set(), f"{name} does not import it"


def _imports(path: Path) -> set[str]:
    """The parts that a file imports from, by their last name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
        for name in names:
            first, _, rest = name.partition(".")
            found.add(rest.partition(".")[0] if first == "aura_stream" else first)
    return found
