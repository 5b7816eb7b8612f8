"""What an answer may show: the members that the contract names for its operation and status, and no other.

Every HTTP test runs with the middleware below, so that a member that nobody allowed fails whichever test meets it. The
list itself is frozen in `shapes.json`: a change of what is shown is a change that somebody has to see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
from aiohttp import web

from web.app import OPERATIONS
from web.contract import METHODS, load_contract

SHAPES_FILE = Path(__file__).with_name("shapes.json")
NOT_ALLOWED = 599
_JSON = ("application/json", "application/problem+json")


@web.middleware
async def only_what_is_allowed(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answers 599 in place of an answer that shows what the contract does not name."""
    response = await handler(request)
    if not isinstance(response, web.Response) or response.content_type not in _JSON:
        return response
    operation = request.app[OPERATIONS].get(request.match_info.handler, "")
    validator = allowed(operation, response.status, response.content_type)
    if validator is None:
        return web.Response(status=NOT_ALLOWED, text=f"{operation} has no {response.status} {response.content_type}")
    faults = [error.message for error in validator.iter_errors(orjson.loads(response.body or b""))]  # type: ignore[arg-type]  # bytes
    if faults:
        return web.Response(status=NOT_ALLOWED, text=f"{operation} {response.status}: {faults}")
    return response


@cache
def allowed(operation: str, status: int, content_type: str) -> jsonschema_rs.Draft202012Validator | None:
    """The validator of an operation's answer, without room for other members. None: there is no such answer."""
    document = load_contract().document
    schemas = _strict(document["components"]["schemas"], is_schema=False)
    schema: Any = {"$ref": "#/components/schemas/Problem"}
    if content_type == "application/json":
        for name, code, found in answers():
            if (name, code) == (operation, str(status)):
                schema = _strict(found)
                break
        else:
            return None
    return jsonschema_rs.Draft202012Validator({**schema, "components": {"schemas": schemas}})


def answers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Operation, status and schema of every JSON answer of the contract that is no problem."""
    document = load_contract().document
    for item in document["paths"].values():
        for method in set(METHODS) & set(item):
            for code, response in item[method]["responses"].items():
                content = _resolved(response).get("content", {})
                if "application/json" in content:
                    yield item[method]["operationId"], code, content["application/json"]["schema"]


def members(schema: dict[str, Any], place: str = "", depth: int = 0) -> Iterator[str]:
    """The members that a schema allows, as paths: `items[].id`."""
    found = _resolved(schema)
    if depth > 8:
        return
    if "items" in found:
        yield from members(found["items"], place + "[]", depth + 1)
    for name, part in found.get("properties", {}).items():
        yield f"{place}.{name}".lstrip(".")
        yield from members(part, f"{place}.{name}".lstrip("."), depth + 1)
    if found.get("type") == "object" and "properties" not in found:
        yield f"{place}.*".lstrip(".")


def _strict(schema: Any, *, is_schema: bool = True) -> Any:
    """The schema with `additionalProperties: false` wherever it lists members and does not say otherwise."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(part, is_schema=not is_schema or name != "properties") for name, part in schema.items()}
    if is_schema and isinstance(schema.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    return made


def _resolved(value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = load_contract().document
    for step in str(value["$ref"]).removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def frozen() -> dict[str, list[str]]:
    """What the contract allows now, as it is written to the file."""
    return {
        f"{name} {code}": sorted(set(members(schema)))
        for name, code, schema in sorted(answers(), key=lambda one: one[:2])
    }


if __name__ == "__main__":
    SHAPES_FILE.write_bytes(orjson.dumps(frozen(), option=orjson.OPT_INDENT_2) + b"\n")
