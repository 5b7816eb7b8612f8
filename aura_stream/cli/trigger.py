"""``aura trigger``: makes a part of the outside world do something now. Sandbox only."""

from __future__ import annotations

import typer

from aura_stream.cli import trigger_chain

app = typer.Typer(no_args_is_help=True)
app.add_typer(trigger_chain.app, name="chain", help="Make the local chain misbehave.")
