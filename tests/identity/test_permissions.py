"""Role x action: the whole table, and what the functions around it refuse. Pure."""

from __future__ import annotations

import pytest

from aura_stream.domain.commands import COMMAND_TYPES
from aura_stream.domain.reasons import Refused
from aura_stream.identity.permissions import (
    ACTIONS,
    COMMAND_ACTIONS,
    FIRST_OPERATOR,
    ROLES,
    SCOPES,
    SERVICE,
    Principal,
    Reach,
    check_checker,
    check_grant,
    main_role,
    may,
    reach,
)
from web.contract import load_contract

N, O, T, P = Reach.NONE, Reach.OWN, Reach.TENANT, Reach.PLATFORM  # noqa: E741 - letters of the table

# What each role may do, as the requirements say it: user, support, admin, operator, auditor.
EXPECTED = {
    "accounts.open": (O, O, O, O, N),
    "accounts.close": (O, O, O, O, N),
    "accounts.freeze": (N, N, T, P, N),
    "money.read": (O, T, T, P, P),
    "money.create": (O, O, O, O, N),
    "money.process": (O, O, O, P, N),
    "money.cancel": (O, T, T, P, N),
    "profile.read": (O, O, O, O, O),
    "profile.write": (O, O, O, O, O),
    "users.read": (N, N, T, P, P),
    "users.manage": (N, N, T, P, N),
    "api_keys.manage": (O, O, T, P, N),
    "tenants.read": (N, N, N, P, P),
    "tenants.manage": (N, N, N, P, N),
    "signing_keys.manage": (N, N, N, P, N),
    "prices.set": (N, N, T, P, N),
    "pauses.read": (N, T, T, P, P),
    "operations.make": (N, N, T, P, N),
    "operations.check": (N, N, N, P, N),
    "operations.read": (N, N, T, P, P),
    "privacy.export": (O, O, T, P, O),
    "privacy.erase": (O, O, T, P, O),
    "reconciliation.read": (N, N, N, P, P),
    "reconciliation.act": (N, N, N, P, N),
    "lanes.read": (N, N, N, P, P),
    "lanes.release": (N, N, N, P, N),
    "clock.read": (O, T, T, P, P),
    "clock.move": (N, N, N, P, N),
    "mailbox.read": (N, N, N, P, N),
    "audit.read": (N, N, T, P, P),
    "events.read": (O, T, T, P, P),
    "webhooks.manage": (O, N, T, P, N),
}


def someone(*roles: str, customer: str = "c1", scopes: frozenset[str] | None = None, user_id: str = "u1") -> Principal:
    return Principal(kind="user", tenant="demo", roles=roles, user_id=user_id, customer=customer, scopes=scopes)


def test_l90_u25_the_table_says_what_the_requirements_say() -> None:
    assert set(EXPECTED) == set(ACTIONS)
    for action, row in EXPECTED.items():
        for role, expected in zip(ROLES, row, strict=True):
            assert reach(someone(role), action) == expected, (role, action)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_l90_own_tenant_and_platform_mean_what_they_say(role: str, action: str) -> None:
    who, far = someone(role), EXPECTED[action][ROLES.index(role)]
    assert may(who, action, tenant="demo", customer="c1") == (far >= O)
    assert may(who, action, tenant="demo", customer="c2") == (far >= T)
    assert may(who, action, tenant="other", customer="c1") == (far >= P)
    assert not may(someone(role, customer=""), action, tenant="demo", customer="") or far >= T


def test_l90_several_roles_reach_as_far_as_the_furthest_and_scopes_only_narrow() -> None:
    for action in ACTIONS:
        assert reach(someone("user", "auditor"), action) == max(EXPECTED[action][0], EXPECTED[action][4])
        assert reach(someone("admin", scopes=frozenset({"money.read"})), action) == (T if action == "money.read" else N)
        assert reach(someone(), action) == N


def test_l90_every_command_is_an_action_and_every_scope_can_be_used() -> None:
    assert set(COMMAND_ACTIONS) == set(COMMAND_TYPES)
    assert set(COMMAND_ACTIONS.values()) <= set(ACTIONS)
    assert load_contract().document["components"]["schemas"]["Scope"]["enum"] == list(SCOPES)
    assert load_contract().document["components"]["schemas"]["Role"]["enum"] == list(ROLES)
    for scope in SCOPES:
        assert max(reach(someone("user"), scope), reach(someone(SERVICE), scope)) > N


def test_l18_nobody_makes_their_own_superior() -> None:
    check_grant(FIRST_OPERATOR, ROLES)
    check_grant(someone("operator"), ROLES)
    check_grant(someone("admin"), ("user", "support", "admin"))
    for who, roles in (
        ("admin", ("operator",)),
        ("admin", ("user", "auditor")),
        ("support", ("user",)),
        ("user", ("user",)),
    ):
        with pytest.raises(Refused, match="insufficient_permissions"):
            check_grant(someone(who), roles)


def test_sec26_maker_and_checker_are_never_the_same() -> None:
    maker, checker = someone("operator", user_id="u1"), someone("operator", user_id="u2")
    check_checker(maker.actor, checker)
    with pytest.raises(Refused, match="maker_is_checker"):
        check_checker(maker.actor, maker)
    with pytest.raises(Refused, match="insufficient_permissions"):
        check_checker(maker.actor, someone("admin", user_id="u2"))


def test_main_role_is_the_one_that_is_shown() -> None:
    assert main_role(("user",)) == "user"
    assert main_role(("admin", "user")) == "admin"
