"""Role x action in one table, and the one function that decides. Pure: the same question has the same answer.

Sources: the table of roles (L90, U25), scopes of API keys, "maker and checker are never the same".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, Literal, get_args

from aura_stream.domain.reasons import Refused

Role = Literal["user", "support", "admin", "operator", "auditor"]
ROLES: Final[tuple[str, ...]] = get_args(Role)
"""Roles of people, the least first; what someone's main role is called is the last of these that they have."""

SERVICE: Final = "service"
"""What a tenant's own API key acts as: its servers move any of its customers' money."""
SYSTEM: Final = "system"
"""The first operator (setting AURA_API_KEY), and everybody in a sandbox without that key."""


class Reach(IntEnum):
    """How far someone may go with an action."""

    NONE = 0
    OWN = 1
    """What belongs to their own customer or user."""
    TENANT = 2
    """Everything of their tenant."""
    PLATFORM = 3
    """Everything, of any tenant that the request names."""


_N, _O, _T, _P = Reach.NONE, Reach.OWN, Reach.TENANT, Reach.PLATFORM
_COLUMNS: Final = ("user", "support", "admin", "operator", "auditor", SERVICE, SYSTEM)
# fmt: off
_TABLE: Final[dict[str, tuple[Reach, ...]]] = {
    #                     user support admin operator auditor service system
    "accounts.open":      (_O, _O, _O, _O, _N, _T, _P),
    "accounts.close":     (_O, _O, _O, _O, _N, _T, _P),
    "accounts.freeze":    (_N, _N, _T, _P, _N, _T, _P),
    "money.read":         (_O, _T, _T, _P, _P, _T, _P),
    "money.create":       (_O, _O, _O, _O, _N, _T, _P),
    "money.process":      (_O, _O, _O, _P, _N, _T, _P),
    "money.cancel":       (_O, _T, _T, _P, _N, _T, _P),
    "profile.read":       (_O, _O, _O, _O, _O, _N, _N),
    "profile.write":      (_O, _O, _O, _O, _O, _N, _N),
    "users.read":         (_N, _N, _T, _P, _P, _N, _P),
    "users.manage":       (_N, _N, _T, _P, _N, _N, _P),
    "api_keys.manage":    (_O, _O, _T, _P, _N, _N, _P),
    "tenants.read":       (_N, _N, _N, _P, _P, _N, _P),
    "tenants.manage":     (_N, _N, _N, _P, _N, _N, _P),
    "signing_keys.manage": (_N, _N, _N, _P, _N, _N, _P),
    "prices.set":         (_N, _N, _T, _P, _N, _N, _P),
    "pauses.read":        (_N, _T, _T, _P, _P, _N, _P),
    "operations.make":    (_N, _N, _T, _P, _N, _N, _P),
    "operations.check":   (_N, _N, _N, _P, _N, _N, _P),
    "operations.read":    (_N, _N, _T, _P, _P, _N, _P),
    "privacy.export":     (_O, _O, _T, _P, _O, _N, _P),
    "privacy.erase":      (_O, _O, _T, _P, _O, _N, _P),
    "reconciliation.read": (_N, _N, _N, _P, _P, _N, _P),
    "reconciliation.act": (_N, _N, _N, _P, _N, _N, _P),
    "lanes.read":         (_N, _N, _N, _P, _P, _N, _P),
    "lanes.release":      (_N, _N, _N, _P, _N, _N, _P),
    "clock.read":         (_O, _T, _T, _P, _P, _N, _P),
    "clock.move":         (_N, _N, _N, _P, _N, _N, _P),
    "mailbox.read":       (_N, _N, _N, _P, _N, _N, _P),
    "audit.read":         (_N, _N, _T, _P, _P, _N, _P),
    "events.read":        (_O, _T, _T, _P, _P, _T, _P),
    "webhooks.manage":    (_O, _N, _T, _P, _N, _T, _P),
}
# fmt: on

_REACH: Final = {(role, action): row[at] for action, row in _TABLE.items() for at, role in enumerate(_COLUMNS)}
ACTIONS: Final = tuple(_TABLE)
PUBLIC: Final = "public"
"""The permission of a route that asks for no login."""
SCOPES: Final = tuple(action for action, row in _TABLE.items() if row[_COLUMNS.index(SERVICE)] > _N)
"""Actions that an API key can be made for: money and what happened to it, never people and keys."""

COMMAND_ACTIONS: Final = {
    "account.open": "accounts.open",
    "account.close": "accounts.close",
    "account.freeze": "accounts.freeze",
    "account.unfreeze": "accounts.freeze",
    "deposit.submit": "money.create",
    "deposit.confirm": "money.process",
    "deposit.reject": "money.process",
    "transfer.submit": "money.create",
    "hold.place": "money.create",
    "hold.capture": "money.process",
    "hold.release": "money.process",
    "transaction.cancel": "money.cancel",
    "withdrawal.submit": "money.create",
    "deposit.retry": "money.create",
    "withdrawal.retry": "money.create",
    "withdrawal.remint": "money.create",
    "transaction.approve": "operations.check",
    "transaction.reject": "operations.check",
    "transaction.resolve": "operations.make",
    "pause.set": "operations.make",
    "pause.lift": "operations.check",
    "tenant.open": "tenants.manage",
    "clock.advance": "clock.move",
}
"""What sending a command of a type is, as an action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks. Made from a verified token or key only; `tenant` is never what a client says.

    A principal whose tenant is empty belongs to the platform, and its requests name the tenant.
    """

    kind: Literal["user", "api_key", "system"]
    tenant: str
    roles: tuple[str, ...]
    user_id: str = ""
    customer: str = ""
    """Whom the ledger knows; empty: has no accounts."""
    session_id: str = ""
    key_id: str = ""
    scopes: frozenset[str] | None = None
    """Actions that an API key is limited to; None: no limit."""

    @property
    def actor(self) -> str:
        """How the audit log and stored answers name it."""
        return f"{self.kind}:{self.user_id if self.kind == 'user' else self.key_id}"


FIRST_OPERATOR: Final = Principal(kind="system", tenant="", roles=(SYSTEM,), key_id="AURA_API_KEY")
OPEN_SANDBOX: Final = Principal(kind="system", tenant="", roles=(SYSTEM,), key_id="sandbox")


def reach(principal: Principal, action: str) -> Reach:
    """How far `principal` may go with `action`: the furthest of its roles, nothing beyond its scopes."""
    if principal.scopes is not None and action not in principal.scopes:
        return Reach.NONE
    return _furthest(principal.roles, action)


@lru_cache(maxsize=1 << 12)
def _furthest(roles: tuple[str, ...], action: str) -> Reach:
    return max([_REACH[role, action] for role in roles], default=Reach.NONE)


def may(principal: Principal, action: str, *, tenant: str, customer: str = "") -> bool:
    """Whether `principal` may do `action` to what belongs to `customer` of `tenant`."""
    match reach(principal, action):
        case Reach.PLATFORM:
            return True
        case Reach.TENANT:
            return tenant == principal.tenant
        case Reach.OWN:
            return tenant == principal.tenant and bool(customer) and customer == principal.customer
        case _:
            return False


def check_grant(principal: Principal, roles: tuple[str, ...]) -> None:
    """Raises :class:`Refused` unless `principal` may give someone these roles: nobody makes their own superior."""
    furthest = reach(principal, "users.manage")
    allowed = set(ROLES) if furthest == Reach.PLATFORM else {"user", "support", "admin"} if furthest else set()
    if beyond := sorted(set(roles) - allowed):
        raise Refused("insufficient_permissions", f"only an operator makes someone {', '.join(beyond)}")


def check_checker(maker: str, checker: Principal, action: str = "operations.check") -> None:
    """Raises :class:`Refused` unless `checker` may approve what `maker` (an actor) asked for: two different persons."""
    if reach(checker, action) == Reach.NONE:
        raise Refused("insufficient_permissions", f"{action} is not among what {', '.join(checker.roles)} may do")
    if checker.actor == maker:
        raise Refused("maker_is_checker", "who asked for it cannot approve it")


def main_role(roles: tuple[str, ...]) -> str:
    """The one role that stands for several where only one can be shown."""
    return max(roles, key=ROLES.index)
