"""Forms of users and payments: pure functions between one shape and another, without a server."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from aura_stream.identity.permissions import Principal, Reach
from web.aliases import shapes
from web.aliases.given import Given
from web.identity.views import user_of_row
from web.problems import Problem

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def _given(**body: Any) -> Given:
    ada = Principal(kind="user", tenant="default", roles=("user",), user_id="u", customer="ada")
    return Given(principal=ada, reach=Reach.OWN, tenant="default", path={}, query={}, body=body)


@pytest.mark.parametrize("status", ["ACTIVE", "SUSPENDED", "DELETED"])
@pytest.mark.parametrize("role", ["user", "support", "admin"])
@pytest.mark.parametrize("verified_at", [None, NOW])
def test_l22_role_status_and_flags_of_a_user_agree(status: str, role: str, verified_at: datetime | None) -> None:
    row = {"user_id": uuid.uuid4(), "tenant_id": "default", "customer_id": "ada", "email": "a@example.com"}
    row |= {"full_name": "Ada", "roles": [role], "status": status, "verified_at": verified_at}
    shown = user_of_row(row | {"created_at": NOW, "updated_at": NOW})
    assert (shown["role"], shown["status"], shown["verified"]) == (role, status, verified_at is not None)
    flags = {"ACTIVE": shown["active"], "SUSPENDED": shown["suspended"], "DELETED": shown["deleted"]}
    assert {name for name, is_set in flags.items() if is_set} == {status}
    of_bank = shapes.give_user(shown, _given())
    assert {name: of_bank[name] for name in ("active", "verified", "suspended", "deleted")} == {
        name: shown[name] for name in ("active", "verified", "suspended", "deleted")
    }


def test_l91_l17_user_attrs_of_a_registration_lose_the_role_and_nothing_else() -> None:
    body = {"email": "a@example.com", "full_name": "Ada", "password": "p" * 8, "password_confirmation": "p" * 8}
    assert shapes.take_registration(_given(**body, role="admin")).body == body


def test_l91_l18_admin_user_attrs_have_one_role_and_a_confirmed_password() -> None:
    body = {"email": "a@example.com", "full_name": "Ada", "password": "p" * 15, "role": "support"}
    taken = shapes.take_new_user(_given(**body, password_confirmation="p" * 15)).body
    assert taken == {"email": "a@example.com", "full_name": "Ada", "password": "p" * 15, "roles": ["support"]}
    with pytest.raises(Problem) as problem:
        shapes.take_new_user(_given(**body, password_confirmation="q" * 15))
    assert problem.value.code == "invalid_password_format"


def test_l91_l26_payment_attrs_become_a_deposit_or_a_transfer() -> None:
    common = {"user_bank_account_id": "ada:EUR", "amount": "100.50"}
    money_in = shapes.take_payment(_given(**common, direction="CREDIT", payment_type="DEPOSIT"))
    assert (money_in.operation, money_in.body) == ("", {"account_id": "ada:EUR", "amount": "100.50"})
    debit = {**common, "direction": "DEBIT", "payment_type": "TRANSFER"}
    money_out = shapes.take_payment(_given(**debit, to_account_id="bob:EUR"))
    assert money_out.operation == "submitTransfer"
    assert money_out.body == {"from_account_id": "ada:EUR", "to_account_id": "bob:EUR", "amount": "100.50"}
    with pytest.raises(Problem) as missing:
        shapes.take_payment(_given(**debit))
    assert missing.value.code == "missing_fields"


@pytest.mark.parametrize(("direction", "kind"), [("CREDIT", "TRANSFER"), ("CREDIT", "PAYMENT"), ("DEBIT", "DEPOSIT")])
def test_l27_l91_a_type_that_does_not_go_with_the_direction_is_refused(direction: str, kind: str) -> None:
    body = {"user_bank_account_id": "ada:EUR", "to_account_id": "bob:EUR", "amount": "1.00"}
    with pytest.raises(Problem) as problem:
        shapes.take_payment(_given(**body, direction=direction, payment_type=kind))
    assert problem.value.code == "invalid_payment_type"
