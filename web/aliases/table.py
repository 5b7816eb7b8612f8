"""The one table of aliases: a system's method and path, the operation behind it, and how the shapes become each other.

A row has no behaviour of its own: the operation's permission, handler and idempotency hold. A feature that brings a
path of one of the five systems adds its row here and its shapes to `schemas.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

from web.aliases import shapes
from web.aliases.given import Give, System, Take, as_is, same


@dataclass(frozen=True, slots=True)
class Alias:
    """One row. Schemas are names of `schemas.yaml` or `openapi.yaml`; empty: those of the operation."""

    system: System
    route: str
    """Method and path, with the alias' own names of parameters."""
    operation: str
    rows: str
    """The rows of the requirements that it serves."""
    _: KW_ONLY
    path: Mapping[str, str] = field(default_factory=dict)
    """Own name of a parameter of the path -> the operation's."""
    has_ids_in_body: bool = False
    """Whether `take` finds the parameters of the operation's path in the body."""
    body: str = ""
    query: str = ""
    """An object whose properties are the parameters of the query."""
    numbers: frozenset[str] = frozenset()
    """Members of the body that may be JSON numbers; they are read exactly, as text."""
    answer: str = ""
    statuses: Mapping[int, int] = field(default_factory=dict)
    """Status of the operation -> the alias' own, where they differ."""
    take: Take = as_is
    give: Give = same
    is_bare: bool = False
    """LedgerBank only: without its envelope."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The operation's name of a member -> the alias' own, in what is said to be wrong."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Reason of the operation -> the alias' own."""

    @property
    def method(self) -> str:
        """The method."""
        return self.route.partition(" ")[0]

    @property
    def url(self) -> str:
        """The path."""
        return self.route.partition(" ")[2]

    @property
    def id(self) -> str:
        """The operationId, made of the system, the method and the path."""
        words = re.sub(r"[^A-Za-z0-9]+", "_", self.url).strip("_")
        return f"{self.system}_{self.method.lower()}_{words}"

    @property
    def has_envelope(self) -> bool:
        """Whether a success is `{data, success, timestamp}` (L107)."""
        return self.system == "ledgerbank" and not self.is_bare

    @property
    def has_list(self) -> bool:
        """Whether the shape brings `data` itself, with what stands beside it."""
        return self.answer.endswith("List")


_AMOUNT = frozenset({"amount"})
_PAYMENT = {"transaction_not_found": "payment_not_found"}
_USER_ID = {"id": "user_id"}
_PAYMENT_ID = {"id": "transaction_id"}


ALIASES: Final[tuple[Alias, ...]] = (
    # Project Aura; its deposits and its status endpoint are ours.
    Alias("aura", "POST /v1/admin/pauses", "setPause", "A01 A02 A06"),
    Alias("aura", "GET /v1/admin/pauses", "listPauses", "A01 A06"),
    Alias("aura", "GET /v1/admin/pauses/{pause_id}", "getPause", "A06"),
    Alias("aura", "DELETE /v1/admin/pauses/{pause_id}", "liftPause", "A02 A06", body="Nothing"),
    # What is minted and burnt, as stablecoin platforms tell it: an order from one asset to another.
    Alias(
        "aura",
        "GET /api/stablecoin/v1/orders",
        "listTransactions",
        "A16",
        query="StablecoinOrderQuery",
        answer="StablecoinOrders",
        take=shapes.take_orders,
        give=shapes.give_orders,
    ),
    Alias(
        "aura",
        "GET /api/stablecoin/v1/orders/{order_id}",
        "getTransaction",
        "A16",
        path={"order_id": "transaction_id"},
        answer="StablecoinOrder",
        give=shapes.give_order,
    ),
    # Aurix; UPOP owns the first two paths too, so the answers carry both shapes.
    Alias("aurix", "POST /auth/register", "register", "X01 U13"),
    Alias("aurix", "POST /auth/login", "login", "X03 X04 X05 U12", answer="AurixSession", give=shapes.give_session),
    Alias("aurix", "POST /auth/refresh", "refreshTokens", "X06", answer="AurixSession", give=shapes.give_session),
    Alias("aurix", "POST /auth/logout", "logout", "X07 X68"),
    Alias("aurix", "POST /auth/change-password", "changePassword", "X08 X68"),
    Alias("aurix", "GET /transactions", "listTransactions", "X19 X68", answer="AurixHistory", give=shapes.give_history),
    Alias("aurix", "GET /admin/tenants", "listTenants", "X42 X47", answer="AurixTenants", give=shapes.give_tenants),
    Alias(
        "aurix",
        "POST /admin/tenants/{tenant_id}/deactivate",
        "deactivateTenant",
        "X43 X47",
        answer="AurixTenant",
        give=shapes.give_tenant,
    ),
    Alias("aurix", "GET /swagger/spec", "getContract", "X50"),
    # LedgerBank.
    Alias("ledgerbank", "POST /api/auth/login", "login", "L01", answer="BankLogin", give=shapes.give_login),
    Alias("ledgerbank", "POST /api/auth/refresh", "refreshTokens", "L02", answer="BankLogin", give=shapes.give_login),
    Alias("ledgerbank", "POST /api/auth/logout", "logout", "L03"),
    Alias("ledgerbank", "GET /api/auth/me", "getMe", "L04", answer="BankUser", give=shapes.give_user),
    Alias(
        "ledgerbank",
        "GET /api/users",
        "listUsers",
        "L13 L14 L36",
        query="BankUserQuery",
        answer="BankUserList",
        take=shapes.take_users,
        give=shapes.give_users,
    ),
    Alias(
        "ledgerbank",
        "GET /api/users/keyset",
        "listUsers",
        "L15",
        query="BankKeysetQuery",
        answer="BankKeysetList",
        take=shapes.take_keyset,
        give=shapes.give_keyset,
    ),
    Alias("ledgerbank", "GET /api/users/stats", "countUsers", "L21"),
    Alias(
        "ledgerbank", "GET /api/users/{id}", "getUser", "L16", path=_USER_ID, answer="BankUser", give=shapes.give_user
    ),
    Alias(
        "ledgerbank",
        "POST /api/users",
        "register",
        "L17",
        body="BankRegistration",
        answer="BankNewUser",
        take=shapes.take_registration,
        give=shapes.give_registration,
    ),
    Alias(
        "ledgerbank",
        "POST /api/users/admin",
        "createUser",
        "L18",
        body="BankCreateUser",
        answer="BankUser",
        take=shapes.take_new_user,
        give=shapes.give_user,
        names={"roles": "role"},
    ),
    Alias(
        "ledgerbank",
        "PUT /api/users/{id}",
        "updateUser",
        "L19",
        path=_USER_ID,
        body="BankUpdateUser",
        answer="BankUser",
        give=shapes.give_user,
    ),
    Alias(
        "ledgerbank",
        "DELETE /api/users/{id}",
        "deleteUser",
        "L20",
        path=_USER_ID,
        answer="BankUser",
        give=shapes.give_user,
    ),
    Alias("ledgerbank", "GET /api/profile", "getMe", "L23", answer="BankUser", give=shapes.give_user),
    Alias("ledgerbank", "PUT /api/profile", "updateMe", "L24", answer="BankUser", give=shapes.give_user),
    Alias("ledgerbank", "PUT /api/profile/password", "changePassword", "L10 L11 L25", body="BankChangePassword"),
    Alias(
        "ledgerbank",
        "POST /api/payments",
        "submitDeposit",
        "L26 L27",
        body="BankCreatePayment",
        answer="BankPayment",
        take=shapes.take_payment,
        give=shapes.give_payment,
        names={"account_id": "user_bank_account_id", "from_account_id": "user_bank_account_id"},
    ),
    Alias(
        "ledgerbank",
        "GET /api/payments",
        "listTransactions",
        "L28 L36",
        query="BankPaymentQuery",
        answer="BankPaymentList",
        take=shapes.take_payments,
        give=shapes.give_payments,
    ),
    Alias(
        "ledgerbank",
        "GET /api/payments/{id}",
        "getTransaction",
        "L29 L35",
        path=_PAYMENT_ID,
        answer="BankPayment",
        give=shapes.give_payment,
        reasons=_PAYMENT,
    ),
    Alias(
        "ledgerbank",
        "GET /api/payments/{id}/status",
        "getTransaction",
        "L30",
        path=_PAYMENT_ID,
        answer="BankPaymentStatus",
        give=shapes.give_payment_status,
        reasons=_PAYMENT,
    ),
    Alias(
        "ledgerbank",
        "POST /api/payments/{id}/process",
        "confirmDeposit",
        "L31",
        path=_PAYMENT_ID,
        body="Nothing",
        answer="BankPayment",
        give=shapes.give_payment,
        reasons=_PAYMENT,
    ),
    Alias(
        "ledgerbank",
        "DELETE /api/payments/{id}",
        "cancelTransaction",
        "L32",
        path=_PAYMENT_ID,
        body="Nothing",
        answer="BankPayment",
        give=shapes.give_payment,
        reasons=_PAYMENT,
    ),
    Alias(
        "ledgerbank", "GET /api/health", "getHealth", "L37", answer="BankHealth", give=shapes.give_health, is_bare=True
    ),
    Alias(
        "ledgerbank",
        "GET /api/health/detailed",
        "getDetailedHealth",
        "L38",
        answer="BankDetailedHealth",
        give=shapes.give_detailed_health,
        is_bare=True,
    ),
    Alias(
        "ledgerbank",
        "GET /api/health/ready",
        "getReadiness",
        "L39",
        answer="BankPlainHealth",
        give=shapes.give_plain_health,
        is_bare=True,
    ),
    Alias(
        "ledgerbank",
        "GET /api/health/live",
        "getLiveness",
        "L40",
        answer="BankPlainHealth",
        give=shapes.give_plain_health,
        is_bare=True,
    ),
    # Settlement PoC.
    Alias(
        "settlement",
        "POST /wallet/deposit",
        "submitDeposit",
        "S01 S03 S05 S07 S10",
        body="PocDeposit",
        numbers=_AMOUNT,
        answer="PocDepositState",
        take=shapes.take_poc_deposit,
        give=shapes.give_poc_deposit,
        names={"account_id": "currency"},
    ),
    Alias(
        "settlement",
        "POST /wallet/deposit/confirm",
        "confirmDeposit",
        "S02 S04 S06",
        has_ids_in_body=True,
        body="PocConfirmation",
        answer="PocDepositState",
        take=shapes.take_poc_confirmation,
        give=shapes.give_poc_deposit,
    ),
    # UPOP.
    Alias(
        "upop",
        "POST /core/accounts",
        "openAccount",
        "U14",
        body="CoreAccount",
        answer="CoreAccountState",
        take=shapes.take_core_account,
        give=shapes.give_core_account,
        names={"asset": "currency"},
    ),
    Alias(
        "upop",
        "POST /core/transactions/transfer",
        "submitTransfer",
        "U15",
        body="CoreTransfer",
        numbers=_AMOUNT,
        answer="CoreTransferState",
        take=shapes.take_core_transfer,
        give=shapes.give_core_transfer,
    ),
)
