"""`openapi.yaml` as code: the operations, and a validator for each part of a request. The file is the truth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import yaml

from aura_stream.mock_bank.problems import Problem

CONTRACT_FILE: Final = Path(__file__).with_name("openapi.yaml")
_METHODS: Final = ("get", "post", "put", "delete")
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")


class Part:
    """The query or the body of an operation."""

    def __init__(self, where: str, schema: dict[str, Any], components: dict[str, Any]) -> None:
        self._where = where
        self._integers = {name for name, one in schema.get("properties", {}).items() if one.get("type") == "integer"}
        self._defaults = {
            name: one["default"] for name, one in schema.get("properties", {}).items() if "default" in one
        }
        self._validator = jsonschema_rs.Draft202012Validator(schema | {"components": components}, validate_formats=True)

    def check(self, value: Any) -> Any:
        """The value if it is right. Raises :class:`Problem` with all that is wrong."""
        errors = [
            f"{self._where}/{'/'.join(map(str, error.instance_path))}: {error.message}"[:300]
            for error in self._validator.iter_errors(value)
        ]
        if errors:
            raise Problem(400, "invalid_request", errors[0], errors=errors[:20])
        return value

    def check_text(self, values: Mapping[str, str]) -> dict[str, Any]:
        """What came as text, with integers read and defaults filled in."""
        read: dict[str, Any] = {
            name: int(value) if name in self._integers and _INTEGER.fullmatch(value) else value
            for name, value in values.items()
        }
        self.check(read)
        return self._defaults | read


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: how it is called, and who may (``payments``, ``user``, ``operator`` or nobody in particular)."""

    id: str
    method: str
    path: str
    caller: str
    scope: str
    summary: str
    query: Part
    body: Part | None
    media_type: str

    @property
    def is_the_banks(self) -> bool:
        """Whether a bank answers it, and so may misbehave."""
        return self.path.startswith("/{bank}/")


@dataclass(frozen=True, slots=True)
class Contract:
    """The document and its operations by id."""

    document: dict[str, Any]
    operations: dict[str, Operation]


@cache
def load_contract() -> Contract:
    """Reads the contract."""
    document = yaml.load(CONTRACT_FILE.read_bytes(), Loader=yaml.CSafeLoader)
    operations = {}
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = _operation(document, path, method, item[method])
                operations[operation.id] = operation
    return Contract(document, operations)


def _operation(document: dict[str, Any], path: str, method: str, spec: dict[str, Any]) -> Operation:
    components = document["components"]
    query: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for parameter in spec.get("parameters", ()):
        while "$ref" in parameter:
            parameter = components["parameters"][parameter["$ref"].rpartition("/")[2]]
        if parameter["in"] == "query":
            query["properties"][parameter["name"]] = parameter["schema"]
            if parameter.get("required"):
                query["required"].append(parameter["name"])
    if spec.get("x-open-query"):
        query["additionalProperties"] = True
    security: dict[str, list[str]] = spec.get("security", [{}])[0]
    caller = next(iter(security), "")
    bodies: dict[str, dict[str, Any]] = spec.get("requestBody", {}).get("content", {})
    media_type = next(iter(bodies), "")
    return Operation(
        id=spec["operationId"],
        method=method.upper(),
        path=path,
        caller=caller,
        scope="".join(security.get(caller, [])[:1]),
        summary=spec["summary"],
        query=Part("query", query, components),
        body=Part("body", bodies[media_type]["schema"], components) if bodies else None,
        media_type=media_type,
    )
