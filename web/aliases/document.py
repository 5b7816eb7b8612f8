"""The section of the contract that is made from the table of aliases: their paths, as OpenAPI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from web.aliases.given import Json
from web.aliases.table import ALIASES, Alias

SCHEMAS_FILE = Path(__file__).with_name("schemas.yaml")
_METHODS = ("get", "post", "put", "patch", "delete")
_TIME = "2026-11-20T10:00:00.000Z"
WORDS = {
    "aura": "Project Aura",
    "aurix": "Aurix",
    "ledgerbank": "LedgerBank",
    "settlement": "Settlement PoC",
    "upop": "UPOP",
}


class AliasMismatch(Exception):
    """A row of the table does not fit the contract. The message names the row."""


def add_aliases(document: Json) -> None:
    """Adds to a contract the schemas and paths of all aliases, and a tag per system.

    Raises :class:`AliasMismatch` for a row whose operation, path or schema does not fit.
    """
    schemas = document["components"]["schemas"]
    for name, schema in yaml.load(SCHEMAS_FILE.read_bytes(), Loader=yaml.CSafeLoader).items():
        if name in schemas:
            raise AliasMismatch(f"the schema {name} stands in both {SCHEMAS_FILE.name} and the contract")
        schemas[name] = schema
    operations = {
        item[method]["operationId"]: (path, item, method)
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    }
    for alias in ALIASES:
        if alias.operation not in operations:
            raise AliasMismatch(f"{alias.route}: there is no operation {alias.operation}")
        item = document["paths"].setdefault(alias.url, {})
        if alias.method.lower() in item:
            raise AliasMismatch(f"{alias.route} stands twice in the contract")
        item[alias.method.lower()] = _operation(document, alias, *operations[alias.operation])
    document["tags"] += [
        {"name": f"alias: {word}", "description": f"The paths and shapes of {word}, served by the operations above."}
        for word in WORDS.values()
    ]


def _operation(document: Json, alias: Alias, path: str, item: Json, method: str) -> Json:
    original = item[method]
    parameters = [resolved(document, one) for one in (*item.get("parameters", ()), *original.get("parameters", ()))]
    made: Json = {
        "operationId": alias.id,
        "x-alias-of": alias.operation,
        "x-permission": original["x-permission"],
        "tags": [f"alias: {WORDS[alias.system]}"],
        "summary": f"{original['summary']} ({WORDS[alias.system]})",
        "description": f"The same as `{method.upper()} {path}`, in the shape of {WORDS[alias.system]}.",
        "parameters": _parameters(document, alias, parameters),
        "responses": {
            _status(alias, code): _response(document, alias, code, one) for code, one in original["responses"].items()
        },
    }
    if "security" in original:
        made["security"] = original["security"]
    if alias.body:
        schema = document["components"]["schemas"][alias.body]
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{alias.body}"}}}
        made["requestBody"] = {"required": bool(schema.get("required")), "content": content}
    elif "requestBody" in original:
        made["requestBody"] = original["requestBody"]
    return made


def _parameters(document: Json, alias: Alias, parameters: list[Json]) -> list[Json]:
    made = []
    own_names = {ours: own for own, ours in alias.path.items()}
    for one in parameters:
        if one["in"] == "path" and not alias.has_ids_in_body:
            made.append(one | {"name": own_names.get(one["name"], one["name"])})
        elif one["in"] == "header":
            # Four of the systems show no key in a header; one that is sent counts all the same. Aura asks for it (A02).
            is_free = one["name"] == "Idempotency-Key" and alias.system != "aura"
            made.append(one | {"required": False} if is_free else one)
        elif one["in"] == "query" and not alias.query:
            made.append(one)
    if alias.query:
        properties = document["components"]["schemas"][alias.query]["properties"]
        made += [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]
    named = {f"{{{one['name']}}}" for one in made if one["in"] == "path"}
    if named != {part for part in alias.url.split("/") if part.startswith("{")}:
        raise AliasMismatch(f"{alias.route}: its parameters are not those of {alias.operation}")
    return made


def _status(alias: Alias, code: str) -> str:
    return str(alias.statuses.get(int(code), code))


def _response(document: Json, alias: Alias, code: str, response: Json) -> Json:
    found = resolved(document, response)
    if "application/json" not in found.get("content", {}):
        return response
    content = dict(found["content"]["application/json"])
    schema = content["schema"]
    if alias.answer and code != "202":
        schema = {"$ref": f"#/components/schemas/{alias.answer}"}
    if alias.has_envelope:
        is_list = alias.has_list and code != "202"
        schema = _enveloped(resolved(document, schema) if is_list else {"properties": {"data": schema}})
        if "example" in content:
            content["example"] = {"data": content["example"], "success": True, "timestamp": _TIME}
    if alias.answer and code != "202":
        content.pop("example", None)
    return found | {"content": {"application/json": content | {"schema": schema}}}


def _enveloped(schema: Json) -> Json:
    """The members of `schema` with those of the envelope beside them."""
    own: Json = {"success": {"const": True}, "timestamp": {"type": "string", "format": "date-time"}}
    members = schema["properties"] | own
    made: Json = {"type": "object", "required": list(members), "properties": members}
    return made | ({"example": schema["example"]} if "example" in schema else {})


def resolved(document: Json, value: Json) -> Json:
    """What a local `$ref` points to; anything else as it is."""
    reference = value.get("$ref")
    if reference is None:
        return value
    found: Any = document
    for step in str(reference).removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)
