"""``aura routes``: every route of the HTTP API, as the contract has it."""

from __future__ import annotations

from typing import Annotated

import typer

from aura_stream.cli import emit
from aura_stream.cli.db import JsonOption
from aura_stream.cli.tables import console, table


def routes(
    word: Annotated[str, typer.Argument(help="Only routes with this in their path, operation or permission.")] = "",
    json: JsonOption = False,
) -> None:
    """List the routes: method, path, operation, the permission that each asks for. Aliases name what they stand for."""
    from web.contract import load_contract

    found = [
        {
            "method": one.method,
            "path": one.path,
            "operation": one.id,
            "permission": one.permission,
            "alias_of": one.alias_of or None,
        }
        for one in sorted(load_contract().operations.values(), key=lambda one: (one.path, one.method))
        if word in one.path or word in one.id or word in one.permission
    ]
    if json:
        emit(found)
        return
    shown = table("routes", "method", "path", "operation", "permission", whole=("path",))
    for one in found:
        operation = f"= {one['alias_of']}" if one["alias_of"] else str(one["operation"])
        shown.add_row(one["method"], one["path"], operation, one["permission"])
    console().print(shown)
