"""Who asks for something: the ledger keeps maker and checker apart, here is made sure who they are.

On the topic a command names its operator; whoever may write there is trusted with that. Over HTTP the name is that of
the login. Only in a sandbox may the first operator's key, which is nobody's own, name somebody.
"""

from __future__ import annotations

from typing import Any, Final

from aura_stream.domain.commands import Command
from aura_stream.identity.permissions import Principal, Reach
from web.call import Call
from web.problems import Problem

NAMED: Final = frozenset(
    {"transaction.approve", "transaction.reject", "transaction.resolve", "pause.set", "pause.lift", "clock.advance"}
)
"""Commands that carry who asks for them, as `operator`."""


def name_of(principal: Principal) -> str:
    """How the ledger knows someone: by customer, so that nobody approves their own; else by user or key."""
    return principal.customer or principal.user_id or principal.key_id


def operator_of(call: Call) -> str:
    """The operator of a request. Raises :class:`Problem` when it names another one than its login."""
    return _checked(call, "operator", str(call.body.get("operator", "")))


def asked_by(call: Call) -> dict[str, str]:
    """`requested_by` of a submission: who may not approve it later. Raises :class:`Problem`.

    A person's own is known by its customer; a tenant's server may say for whom it asks.
    """
    named = str(call.body.get("requested_by", ""))
    if call.reach == Reach.OWN:
        _checked(call, "requested_by", named)
        return {}
    if named or call.principal.kind != "system":
        return {"requested_by": named} if named else {}
    return {"requested_by": name_of(call.principal)}


def check_names(call: Call, command: Command, furthest: Reach) -> None:
    """The same for a whole command, as it comes in a batch. Raises :class:`Problem`."""
    data: Any = command.data
    if command.type in NAMED:
        _checked(call, "operator", data.operator)
    if command.type == "pause.set":
        scope_of(call, {"tenant": data.scope.tenant} if data.scope.tenant else {}, furthest, is_whole=True)
    if furthest == Reach.OWN and getattr(data, "requested_by", None):
        _checked(call, "requested_by", data.requested_by)


def scope_of(call: Call, scope: dict[str, Any], furthest: Reach, *, is_whole: bool = False) -> dict[str, Any]:
    """The scope of a pause with what it means left unsaid: accounts and admins are of one tenant.

    Raises :class:`Problem` when it goes beyond the caller's tenant. `is_whole`: nothing is added to it.
    """
    is_of_tenant = furthest < Reach.PLATFORM or "account" in scope
    if is_of_tenant and not is_whole:
        scope = {"tenant": call.tenant} | scope
    if furthest < Reach.PLATFORM and scope.get("tenant") != call.tenant:
        raise Problem("insufficient_permissions", f"Only an operator pauses beyond the tenant {call.tenant}.")
    return scope


def _checked(call: Call, member: str, named: str) -> str:
    own = name_of(call.principal)
    if not named or named == own:
        return own
    if call.principal.kind == "system" and call.services.settings.mode == "sandbox":
        return named
    raise Problem("forbidden", f"{member} is who sends it: {own}. Leave it out.")
