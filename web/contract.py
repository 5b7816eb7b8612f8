"""The contract as code: `openapi.yaml` read once, its operations, and a compiled validator for each part of a request.

The file is the truth: a handler without an operation, or an operation without a handler, stops the start. The paths of
the table of aliases are added when it is read; they are checked against the operations behind them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import yaml

from aura_stream.domain.ids import parse_account_id
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.identity.permissions import ACTIONS, PUBLIC
from web.aliases.document import WORDS, add_aliases, resolved
from web.problems import FieldError, Problem

CONTRACT_FILE = Path(__file__).with_name("openapi.yaml")
SETTLEMENT = frozenset({
    *("accounts", "deposits", "withdrawals", "transactions", "operations", "reconciliation", "lanes", "events"),
    *("auth", "users", "tenants", "system", f"alias: {WORDS['aura']}"),
})  # fmt: skip
"""Tags of what the profile `settlement` serves: fiat into stablecoins and back, and who may ask for it."""
METHODS = ("get", "post", "put", "patch", "delete", "head", "options")

_OF_THE_DOOR = {"408": "RequestTimeout", "429": "TooManyRequests"}
_REFERENCE = re.compile(rb'"#/components/(\w+)/([^"/]+)')
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_FIELD_CODES = {
    "amount": "invalid_amount_format",
    "asset": "unsupported_asset",
    "effective_at": "invalid_datetime_format",
    "expires_at": "invalid_datetime_format",
    "known_at": "invalid_datetime_format",
    "transaction_id": "invalid_uuid_format",
    "pause_id": "invalid_uuid_format",
    "idempotency-key": "idempotency_key_invalid",
    "email": "invalid_email_format",
    "password": "invalid_password_format",
    "new_password": "invalid_password_format",
    "full_name": "invalid_name_format",
    "roles": "invalid_role",
    "user_id": "invalid_uuid_format",
    "session_id": "invalid_uuid_format",
    "request_id": "invalid_uuid_format",
    "endpoint_id": "invalid_uuid_format",
    "delivery_id": "invalid_uuid_format",
    "currency": "invalid_currency_format",
    "direction": "invalid_direction",
    "payment_type": "invalid_payment_type",
    "role": "invalid_role",
    "status": "invalid_status",
    "from": "invalid_datetime_format",
    "to": "invalid_datetime_format",
    "min": "invalid_amount_format",
    "max": "invalid_amount_format",
}
_ACCOUNT_FIELDS = frozenset({"account_id", "from_account_id", "to_account_id", "user_bank_account_id"})


class ContractMismatch(Exception):
    """Contract and code differ. The message names the operations on either side."""


class Part:
    """One part of a request (body, query, path or header) and its compiled validator."""

    def __init__(self, where: str, schema: dict[str, Any], components: dict[str, Any]) -> None:
        self.where = where
        self.names = tuple(schema.get("properties", ()))
        self._integers = {name for name, one in schema.get("properties", {}).items() if one.get("type") == "integer"}
        self._validator = jsonschema_rs.Draft202012Validator(schema | {"components": _named_in(schema, components)})
        self._may_be_empty = self._validator.is_valid({})

    def check(self, value: Any) -> None:
        """Raises :class:`Problem` with one of `errors` per thing that is wrong; its code is the first one's."""
        if self._validator.is_valid(value):
            return
        errors = list(self._errors(value))
        # What is missing explains more than what is malformed beside it.
        raise Problem(errors[0]["code"], errors[0]["detail"], errors=errors)

    def check_text(self, values: Mapping[str, str]) -> dict[str, Any]:
        """Checks what came as text (query, path, headers) and returns it with integers read."""
        if not values and self._may_be_empty:
            return {}
        typed: dict[str, Any] = dict(values)
        for name in self._integers:
            if _INTEGER.fullmatch(typed.get(name, "")):
                typed[name] = int(typed[name])
        self.check(typed)
        return typed

    def _errors(self, value: Any) -> Iterator[FieldError]:
        for error in self._validator.iter_errors(value):
            kind = error.kind
            path = [str(step) for step in error.instance_path]
            if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
                name = str(kind.property)
                code = "idempotency_key_missing" if name == "idempotency-key" else "missing_fields"
                yield self._error([*path, name], code, f"{name} is missing")
            elif isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
                for name in sorted(kind.unexpected):
                    yield self._error([*path, name], "unknown_field", f"{name[:80]} is not known here")
            else:
                named = [step for step in path if not step.isdigit()]  # an item's field is its list's
                yield self._error(path, *_code_of(named[-1] if named else "", error.instance, error.message))

    def _error(self, path: list[str], code: str, detail: str) -> FieldError:
        if self.where == "body":
            pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)
        else:
            pointer = "/".join(path)
        return FieldError(in_=self.where, pointer=pointer, code=code, detail=detail[:300])


def _named_in(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """The components that a schema refers to, also by others: to compile all of them for each part takes a second."""
    found: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        for kind, name in _REFERENCE.findall(orjson.dumps(waiting.pop())):
            kind, name = kind.decode(), name.decode()
            if name not in found.setdefault(kind, {}):
                found[kind][name] = components[kind][name]
                waiting.append(components[kind][name])
    return found


def _code_of(field: str, value: Any, message: str) -> tuple[str, str]:
    """The reason for a value of the wrong form: the same that the decoder of the Kafka door gives."""
    if field in _ACCOUNT_FIELDS:
        if isinstance(value, str):
            try:
                parse_account_id(value)
            except Invalid as invalid:
                return invalid.reason, invalid.detail
            except Refused as refused:
                return refused.reason, refused.detail
        return "invalid_account_id", message
    return _FIELD_CODES.get(field, "invalid_field"), f"{field}: {message}" if field else message


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the contract with the validators of its parts."""

    id: str
    method: str
    path: str
    permission: str
    """An action of the table of permissions, or "public"."""
    is_public: bool
    query: Part
    path_part: Part
    header: Part
    body: Part | None
    body_is_required: bool
    media_type: str
    alias_of: str = ""
    """The operation behind an alias; empty: this is no alias."""

    @property
    def is_of_the_ledger(self) -> bool:
        """Whether it is about money: the ledger has to know the tenant."""
        return self.permission.startswith(("accounts.", "money."))


@dataclass(frozen=True, slots=True)
class Contract:
    """The whole contract: its document, the document's bytes as JSON, and the operations by id."""

    document: dict[str, Any]
    json: bytes
    operations: dict[str, Operation]

    def compare(self, handlers: Iterable[str]) -> None:
        """Raises :class:`ContractMismatch` unless there is one handler per operation and no other.

        An alias has none: it is served by the handler of the operation behind it.
        """
        have = set(handlers)
        without_handler = sorted({one.id for one in self.operations.values() if not one.alias_of} - have)
        without_operation = sorted(have - self.operations.keys())
        if without_handler or without_operation:
            raise ContractMismatch(
                f"{CONTRACT_FILE.name} and the handlers differ: "
                f"operations without a handler: {without_handler or 'none'}; "
                f"handlers without an operation: {without_operation or 'none'}"
            )


def load_contract(profile: str = "all") -> Contract:
    """The contract, or what a profile serves of it; read and compiled once per process."""
    return _loaded(profile)  # a cache of its own takes the default and its name for two


@cache
def _loaded(profile: str) -> Contract:
    document: dict[str, Any] = yaml.load(CONTRACT_FILE.read_bytes(), Loader=yaml.CSafeLoader)
    add_aliases(document)
    if profile == "settlement":
        _keep(document, lambda tag: tag in SETTLEMENT)
    operations = {}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                # What the door itself may answer on any route stands once in the file.
                for status, response in _OF_THE_DOOR.items():
                    item[method]["responses"].setdefault(status, {"$ref": f"#/components/responses/{response}"})
                operation = _operation(document, path, method, item)
                if operation.id in operations:
                    raise ContractMismatch(f"operationId {operation.id} stands twice in {CONTRACT_FILE.name}")
                operations[operation.id] = operation
    return Contract(document, orjson.dumps(document), operations)


def _keep(document: dict[str, Any], is_kept: Callable[[str], bool]) -> None:
    """Takes out all operations with a tag that is not kept, and paths without any."""
    document["tags"] = [tag for tag in document["tags"] if is_kept(tag["name"])]
    paths = {}
    for path, item in document["paths"].items():
        kept = {name: one for name, one in item.items() if name not in METHODS or all(map(is_kept, one["tags"]))}
        if kept.keys() & set(METHODS):
            paths[path] = kept
    document["paths"] = paths


def _operation(document: dict[str, Any], path: str, method: str, item: dict[str, Any]) -> Operation:
    definition = item[method]
    components = document["components"]
    permission, is_public = definition.get("x-permission"), definition.get("security") == []
    if permission not in ACTIONS and permission != PUBLIC:
        raise ContractMismatch(
            f"{method.upper()} {path} must declare x-permission: {PUBLIC} or an action; it has {permission}"
        )
    if (permission == PUBLIC) != is_public:
        raise ContractMismatch(f"{method.upper()} {path}: x-permission: {PUBLIC} and security: [] go together")
    parameters = [resolved(document, one) for one in (*item.get("parameters", ()), *definition.get("parameters", ()))]
    body = definition.get("requestBody")
    media_type, body_schema = "", None
    if body:
        media_type, content = next(iter(body["content"].items()))
        body_schema = content["schema"] if media_type == "application/json" and not definition.get("x-raw") else None
    return Operation(
        id=definition["operationId"],
        method=method.upper(),
        path=path,
        permission=permission,
        is_public=is_public,
        query=_part("query", parameters, components),
        path_part=_part("path", parameters, components),
        header=_part("header", parameters, components),
        body=Part("body", body_schema, components) if body_schema is not None else None,
        body_is_required=bool(body and body.get("required")),
        media_type=media_type,
        alias_of=definition.get("x-alias-of", ""),
    )


def _part(where: str, parameters: list[dict[str, Any]], components: dict[str, Any]) -> Part:
    mine = [one for one in parameters if one["in"] == where]
    # Header names have no case; other headers than ours are none of our business, other query parameters are.
    rename = str.lower if where == "header" else str
    schema = {
        "type": "object",
        "properties": {rename(one["name"]): one["schema"] for one in mine},
        "required": [rename(one["name"]) for one in mine if one.get("required")],
        "additionalProperties": where == "header",
    }
    return Part(where, schema, components)
