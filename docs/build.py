"""Writes the parts of the documentation that repeat what the code says: `python -m docs.build`.

Whole pages (`docs/reference/`) and blocks between `<!-- built: name -->` and `<!-- end -->` in other pages. A test
fails when a page is not what this writes. The example messages come from a run of the ledger itself, on memory instead
of Kafka, with fixed ids and times.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic_core import PydanticUndefined

import topics
from agents.ledger import Ledger
from agents.worker import NAMES
from aura_stream import journal
from aura_stream.cli import COMMANDS
from aura_stream.domain.assets import SCALES
from aura_stream.domain.commands import COMMAND_TYPES, Envelope, format_time
from aura_stream.domain.ids import record_key
from aura_stream.domain.reasons import CATEGORIES, REASONS, Reason
from aura_stream.domain.state import Rules
from aura_stream.engine.driver import Driver, LogRecord
from aura_stream.engine.topics import KEEP
from aura_stream.engine.unit import DEADLINES, STATE_KEY
from aura_stream.identity.permissions import ACTIONS, ROLES, SERVICE, Principal, Reach, reach
from aura_stream.ledger.verify import CHECKS
from aura_stream.mock_bank import faults
from aura_stream.mock_bank.contract import load_contract as load_bank_contract
from aura_stream.settings import Settings
from web.aliases.table import ALIASES
from web.contract import load_contract

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (
    "README.md",
    "docs/ARCHITECTURE.md",
    "docs/adr/README.md",
    "docs/guide/identity.md",
    "docs/guide/privacy.md",
    "docs/guide/kafka-door.md",
    "docs/guide/mock-bank.md",
    "docs/operating/runbook.md",
    "docs/reference/aliases.md",
    "docs/reference/errors.md",
    "docs/reference/settings.md",
)
WIDTH: Final = 116
_BLOCK = re.compile(r"<!-- built: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def build(page: str) -> str:
    """The text of a page with all of its blocks written anew."""

    def written(found: re.Match[str]) -> str:
        return f"<!-- built: {found[1]} -->\n\n{BLOCKS[found[1]]()}\n\n<!-- end -->"

    return _BLOCK.sub(written, (ROOT / page).read_text(encoding="utf-8"))


def main() -> int:
    """Writes what has changed and names it."""
    for page in PAGES:
        text = build(page)
        if text != (ROOT / page).read_text(encoding="utf-8"):
            (ROOT / page).write_text(text, encoding="utf-8")
            print(page)
    return 0


# --- tables ----------------------------------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [tuple(head)]
    lines.append(("---",) * len(lines[0]))
    lines += [tuple(row) for row in rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def errors() -> str:
    """The reasons that are raised, by HTTP status."""
    rows = sorted(((name, one) for name, one in REASONS.items() if not one.waits_for), key=_by_status)
    return table(
        ("reason", "status", "category", "again", "what it means", "what to do"),
        (
            (
                f"`{name}`",
                str(reason.status),
                reason.category,
                f"`{reason.retry}`",
                _escaped(reason.title),
                _escaped(reason.hint),
            )
            for name, reason in rows
        ),
    )


def errors_to_come() -> str:
    """The reasons that nothing raises yet, and the feature that will."""
    rows = sorted(((name, one) for name, one in REASONS.items() if one.waits_for), key=_by_status)
    return table(
        ("reason", "status", "category", "comes with"),
        ((f"`{name}`", str(reason.status), reason.category, reason.waits_for) for name, reason in rows),
    )


def categories() -> str:
    """The categories of reasons: their spelling in `error.type`, and LedgerBank's retry matrix."""
    rows = []
    for name, one in CATEGORIES.items():
        statuses = sorted({reason.status for reason in REASONS.values() if reason.category == name})
        again = (str(one.tries), str(one.base_ms), "yes" if one.has_breaker else "no")
        rows.append((f"`{name}`", ", ".join(map(str, statuses)), f"`{one.error_type}`", f"`{one.retry}`", *again))
    return table(("category", "status", "`error.type`", "again", "tries", "base (ms)", "breaker"), rows)


def _by_status(row: tuple[str, Reason]) -> tuple[int, str]:
    return row[1].status, row[0]


def aliases() -> str:
    """The paths of the five systems and the operation behind each."""
    operations = load_contract().operations
    rows = []
    for alias in ALIASES:
        target = operations[alias.operation]
        shape = f"`{alias.answer}`" if alias.answer else "as the operation"
        rows.append((alias.system, f"`{alias.route}`", f"`{target.method} {target.path}`", shape))
    return table(("system", "path", "operation", "answer"), rows)


def settings() -> str:
    """Every setting of the product."""
    return table(("variable", "default", "values", "meaning"), (_setting(name) for name in Settings.model_fields))


def settings_short() -> str:
    """The settings that a first set-up may need."""
    names = (
        "home",
        "mode",
        "kafka_bootstrap",
        "postgres_dsn",
        "postgres_write_dsn",
        "postgres_read_dsn",
        "kafka_port",
        "postgres_port",
        "api_host",
        "api_port",
        "api_key",
        "api_wait_s",
        "partitions",
        "replication_factor",
        "tenants",
        "log_level",
    )
    rows = (_setting(name) for name in names)
    return table(("variable", "default", "meaning"), ((name, default, text) for name, default, _, text in rows))


def _setting(name: str) -> tuple[str, str, str, str]:
    field = Settings.model_fields[name]
    default = "" if field.default in (None, PydanticUndefined, "") else field.default
    if isinstance(default, tuple):
        default = ",".join(default)
    schema = Settings.model_json_schema()["properties"][name]
    low, high = schema.get("minimum"), schema.get("maximum")
    values = ", ".join(f"`{value}`" for value in schema.get("enum", ())) or (
        f"{low} to {high}" if high is not None else ""
    )
    shown = f"`{default}`" if default != "" else "-"
    return f"`AURA_{name.upper()}`", shown, values or "-", _escaped(field.description or "")


def commands_of_the_shell() -> str:
    """The subcommands of `aura`."""
    return table(("command", "what it does"), ((f"`aura {name}`", text) for name, (_, text) in COMMANDS.items()))


def bank_routes() -> str:
    """The routes of the mock bank."""
    return table(
        ("route", "token", "what it does"),
        (
            (
                f"`{one.method} {one.path}`",
                (f"{one.caller}: {one.scope}" if one.scope != one.caller else one.caller).rstrip(": ") or "-",
                _escaped(one.summary),
            )
            for one in load_bank_contract().operations.values()
        ),
    )


def bank_faults() -> str:
    """What the mock bank can do wrong, and how often in which profile."""
    names = ("flaky", "hostile")
    rows = (
        (f"`{fault}`", text, *(f"{faults.PROFILES[name].get(fault, 0) / 100:g} %" for name in names))
        for fault, text in faults.ALL.items()
    )
    return table(("fault", "what happens", *names), rows)


def bank_magic() -> str:
    """Magic amounts of the mock bank."""
    rows = [(f"`.{cents:02d}`", "all", f"`{fault}`") for cents, fault in faults.MAGIC_ANY.items()]
    for (currency, cents), (kind, code) in faults.MAGIC_RETURN.items():
        rows.append((f"`.{cents:02d}`", currency, f"{kind} {code}"))
    return table(("cents", "currency", "fault, or what comes later"), sorted(rows))


def declared_topics() -> str:
    """The topics as they are declared."""
    rows = []
    for topic in topics.ALL:
        config = {name: value for name, value in topic.config.items() if KEEP.get(name) != value}
        kept = "compacted" if topic.config["cleanup.policy"] == "compact" else "without limit"
        schema = f"[`{topic.schema}`](../topics/schemas/{topic.schema})" if topic.schema else "-"
        special = ", ".join(f"`{name}={value}`" for name, value in config.items() if name != "cleanup.policy")
        rows.append((f"`{topic.name}`", _escaped(topic.key), schema, kept, special or "-"))
    return table(("topic", "key", "schema", "kept", "other settings"), rows)


def decisions() -> str:
    """The decisions by number, with their titles and states."""
    lines = []
    for page in sorted((ROOT / "docs/adr").glob("[0-9]*.md")):
        title, _, rest = page.read_text(encoding="utf-8").partition("\n")
        state = re.search(r"^Status: (.+?)\.?$", rest, re.MULTILINE)
        lines.append(f"- [{title.lstrip('# ')}]({page.name})" + (f" ({state[1]})" if state else ""))
    return "\n".join(lines)


def permissions() -> str:
    """Which role may do what, and how far."""
    words = {Reach.NONE: "-", Reach.OWN: "own", Reach.TENANT: "tenant", Reach.PLATFORM: "any tenant"}
    routes: dict[str, list[str]] = {action: [] for action in ACTIONS}
    for operation in load_contract().operations.values():
        if operation.permission in routes and not operation.alias_of:
            routes[operation.permission].append(f"`{operation.id}`")
    rows = []
    for action in ACTIONS:
        reaches = (words[reach(Principal(kind="user", tenant="", roles=(role,)), action)] for role in (*ROLES, SERVICE))
        rows.append((f"`{action}`", *reaches, ", ".join(routes[action]) or "(later)"))
    return table(("action", *ROLES, "tenant's API key", "operations"), rows)


def assets() -> str:
    """The assets and their scales."""
    return table(("asset", "decimal places"), ((f"`{asset}`", str(scale)) for asset, scale in SCALES.items()))


def checks() -> str:
    """What `aura ledger verify` checks."""
    rows = ((f"`{check.__name__}`", (check.__doc__ or "").strip().splitlines()[0]) for check in CHECKS)
    return table(("check", "what must hold"), rows)


def command_types() -> str:
    """Each command type with its data and an example, from the published schema."""
    schema = json.loads((ROOT / "topics/schemas/command.json").read_text(encoding="utf-8"))
    examples = {example["type"]: example for example in schema["examples"]}
    return "\n\n".join(_command_type(name, model, examples[name], schema) for name, model in COMMAND_TYPES.items())


def _command_type(name: str, model: type[Envelope], example: dict[str, Any], schema: dict[str, Any]) -> str:
    data = schema["$defs"][model.model_fields["data"].annotation.__name__]  # type: ignore[union-attr]  # a class
    required = data.get("required", ())
    rows = []
    for field, prop in data["properties"].items():
        meaning = prop.get("description") or next(
            (one["description"] for one in prop.get("anyOf", ()) if "description" in one), ""
        )
        rows.append((f"`{field}`", "yes" if field in required else "no", _escaped(meaning)))
    about = (model.__doc__ or "").strip()
    fields = table(("data", "required", "meaning"), rows)
    shown = pretty({"type": name, "data": example["data"]})
    return f"#### `{name}`\n\n{about}\n\n{fields}\n\n```json\n{shown}\n```"


def _escaped(text: str) -> str:
    """Angle brackets outside code would be taken for HTML: a word with one becomes code."""
    return re.sub(r"(?<![`\w])([\w:/]*<[a-z_]+>(?:[/:.-]?<[a-z_]+>|/[a-z]+)*)", r"`\1`", text)


# --- messages of a run -----------------------------------------------------------------------------------------------

_AT: Final = 1_795_168_800_000
_STEPS: Final[tuple[tuple[str, str, str, dict[str, str]], ...]] = (
    ("account.open", "alice", "open-alice", {"asset": "EUR"}),
    ("account.open", "bob", "open-bob", {"asset": "EUR"}),
    ("deposit.submit", "alice", "deposit-1", {"account_id": "alice:EUR", "amount": "100.00"}),
    ("deposit.confirm", "alice", "confirm-1", {"transaction_id": "?"}),
)
_TRANSFER: Final = {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "12.50"}

_CHANGELOG: Final = (
    "And in the changelog, what the tables hold now: the account (status, available, held, pending_in, open items, "
    "entries, opened, closed), the transaction, the shard's own state, and the transfer's deadline."
)
_ROWS: Final = (
    "**5. The rows in Postgres**: one of `ledger.transactions` (status `completed`), two of `ledger.journals`, "
    "and these of `ledger.entries`:"
)


class Example:
    """The life of one transfer from alice to bob, run on memory; every message it leaves."""

    def __init__(self) -> None:
        rules = Rules(tenants=("default", "demo"), mode="sandbox")
        self.driver = Driver(Ledger(rules), NAMES, partitions=8, rules=msgspec.json.encode(rules))
        self._count = 0
        self._at = _AT
        for type_, customer, key, data in _STEPS:
            deposit = self.messages(NAMES.journal)
            known = next(
                (line["id"] for unit in deposit for line in unit["lines"] if line["line"] == "transaction"), ""
            )
            self._send(type_, customer, key, {name: known if value == "?" else value for name, value in data.items()})
            self.driver.run()
        self.before = {name: self._counts(name) for name in (topics.TRANSACTION_EVENTS.name, *NAMES)}
        self.command = self._send("transfer.submit", "alice", "order-4711", _TRANSFER)
        self.driver.step(self.command.partition)
        self.stored = dict(self.driver.stores[self.command.partition].scan(b"", b"\xff"))
        self.driver.run()
        self.dead = self._send("transfer.submit", "alice", "order-4712", _TRANSFER | {"amount": "1.234"})
        self.driver.run()

    def _send(self, type_: str, customer: str, key: str, data: dict[str, str]) -> LogRecord:
        self._count += 1
        self._at += 1000
        message = {
            "id": f"018f2d3c-8a6e-7c3e-9a51-{self._count:012d}",
            "type": type_,
            "tenant": "default",
            "customer": customer,
            "idempotency_key": key,
            "issued_at": format_time(self._at),
            "data": data,
        }
        return self.driver.send(record_key("default", customer), json.dumps(message).encode(), self._at)

    def _counts(self, topic: str) -> list[int]:
        return [len(self.driver.topics[topic][partition]) for partition in range(self.driver.partitions)]

    def after(self, topic: str) -> list[LogRecord]:
        """What the transfer and the dead letter left in a topic."""
        log, before = self.driver.topics[topic], self.before[topic]
        return [record for partition in range(self.driver.partitions) for record in log[partition][before[partition] :]]

    def messages(self, topic: str) -> list[Any]:
        """All values of a topic, decoded."""
        return [json.loads(value) for value in self.driver.values(topic)]


def records() -> str:
    """The records that one transfer leaves, in the order in which they come to be."""
    run = Example()
    sender, receiver = run.command.partition, run.driver.partitioner(record_key("default", "bob"))
    journals = run.after(NAMES.journal)
    events = run.after(topics.TRANSACTION_EVENTS.name)
    signals = run.after(NAMES.signals)
    sent, ended = [record for record in journals if record.partition == sender][:2]
    received = next(record for record in journals if record.partition == receiver)
    event_sent, event_completed = [record for record in events if record.partition == sender][:2]
    event_received = next(record for record in events if record.partition == receiver)
    credit = next(record for record in signals if record.partition == receiver)
    answer = next(record for record in signals if record.partition == sender)
    return "\n\n".join(
        (
            f"**1. The command**, on partition {sender}, the one of key `default/alice`.",
            _shown(run.command),
            f"**2. The sender's unit of work**, one Kafka transaction of shard {sender}. In the journal:",
            _shown(sent),
            "For everyone who wants to know:",
            _shown(event_sent),
            f"For the shard of `default/bob`, which is {receiver}:",
            _shown(credit),
            _CHANGELOG,
            _changelog(run.stored),
            f"**3. The receiver's unit of work**, of shard {receiver}. In the journal:",
            _shown(received),
            "For the receiver:",
            _shown(event_received),
            "And the answer for the sender's shard:",
            _shown(answer),
            f"**4. The sender's second unit of work.** `also_journal` is {receiver} * 2^48 + 1, the receiver's half.",
            _shown(ended),
            _shown(event_completed),
            _ROWS,
            _entries([sent, received]),
        )
    )


def dead_letter() -> str:
    """The dead letter of a command with one decimal place too many, and the journal's line about it."""
    run = Example()
    letter = run.after(NAMES.dead_letters)[0]
    headers = table(("header", "value"), ((f"`{name}`", f"`{value.decode()}`") for name, value in letter.headers))
    line = json.loads(run.after(NAMES.journal)[-1].value or b"")["lines"][0]
    for record in run.after(NAMES.journal):
        line = next((one for one in json.loads(record.value or b"")["lines"] if one["line"] == "answer"), line)
    return (
        f"Key `{(letter.key or b'').decode()}`, value:\n\n```json\n{pretty(json.loads(letter.value or b''))}\n```\n\n"
        f"{headers}\n\nThe journal says so too:\n\n```json\n{pretty(line)}\n```"
    )


def _shown(record: LogRecord) -> str:
    key = (record.key or b"").decode()
    text = pretty(json.loads(record.value or b""))
    return f"`{record.topic}` partition {record.partition}, key `{key}`:\n\n```json\n{text}\n```"


def _changelog(stored: dict[bytes, bytes]) -> str:
    """What of the shard's state the unit wrote: the account, the transaction, its deadline, the shard's own state."""
    transactions = {key: value for key, value in stored.items() if key[:1] == b"t" and b'"transfer"' in value}
    lines = []
    for key, value in stored.items():
        kind = key[:1]
        if kind == b"t" and key in transactions:
            lines.append(f"t + {key[1:].hex()}\n    {value.decode()}")
        elif kind == b"a":
            lines.append(f"a + {key[1:].decode()}\n    {value.decode()}")
        elif key == STATE_KEY:
            lines.append(f"0xf0 + state\n    {value.decode()}")
        elif kind == DEADLINES and any(key.endswith(name[1:]) for name in transactions):
            due = int.from_bytes(key[1:9], "big")
            lines.append(f"0xf2 + {due} + t + {key[10:].hex()}\n    (empty)")
    return "```\n" + "\n".join(lines) + "\n```"


def _entries(journals: list[LogRecord]) -> str:
    rows = []
    for record in journals:
        unit = journal.DECODE(record.value or b"")
        for line in unit.lines:
            for booked in getattr(line, "journals", ()):
                public = journal.journal_id(unit.partition, booked.number)
                for leg, entry in enumerate(booked.entries):
                    values = (str(public), str(leg), entry.account_id, entry.layer, entry.amount, booked.asset)
                    rows.append((*values, str(unit.partition)))
    return table(("journal_id", "leg", "account_id", "layer", "amount", "asset", "partition"), rows)


def pretty(value: Any, indent: int = 0) -> str:
    """JSON that breaks a line only where it would grow too long."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict | list):
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {pretty(one, indent + 2)}" for name, one in value.items()]
        return "{\n" + _filled(parts, inner) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(inner + pretty(one, indent + 2) for one in value) + "\n" + " " * indent + "]"


def _filled(parts: list[str], inner: str) -> str:
    """Members of an object, several to a line while they fit."""
    lines = [inner]
    for number, part in enumerate(parts):
        text = part + ("," if number < len(parts) - 1 else "")
        empty = lines[-1] == inner
        if not empty and (len(lines[-1]) + 1 + len(text.splitlines()[0]) > WIDTH or "\n" in text):
            lines.append(inner)
            empty = True
        lines[-1] += text if empty else f" {text}"
        if "\n" in text and number < len(parts) - 1:
            lines.append(inner)
    return "\n".join(lines)


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "errors": errors,
    "errors_to_come": errors_to_come,
    "categories": categories,
    "aliases": aliases,
    "settings": settings,
    "settings_short": settings_short,
    "shell": commands_of_the_shell,
    "topics": declared_topics,
    "decisions": decisions,
    "bank_routes": bank_routes,
    "bank_faults": bank_faults,
    "bank_magic": bank_magic,
    "assets": assets,
    "permissions": permissions,
    "checks": checks,
    "command_types": command_types,
    "records": records,
    "dead_letter": dead_letter,
}


if __name__ == "__main__":
    sys.exit(main())
