"""Who plays: two tenants with customers of the same names, their accounts, and how much they spend at a time."""

from __future__ import annotations

from typing import Final

TENANTS: Final = ("default", "demo")
PEOPLE: Final = ("alice", "bob", "carol", "dave", "erin", "frank")
SHOP: Final = "shop"
FROZEN: Final = "winter"
"""A customer whose account is frozen: money sent to it comes back."""
CLOSED: Final = "yesterday"
"""A customer whose account is closed."""

ACCOUNTS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(PEOPLE, ("EUR", "EUR:savings", "USD", "BTC")),
    "alice": ("EUR", "EUR:savings", "USD", "BTC", "JPY", "XAU"),
    "bob": ("EUR", "EUR:savings", "USD", "BTC", "JPY", "XAU"),
    SHOP: ("EUR", "EUR:savings", "USD", "BTC", "JPY", "XAU"),
}
"""Accounts of each customer that get money at the start, in each tenant."""
VAULT: Final = "EUR:vault"
"""A further, empty account of each of the people, to freeze and unfreeze."""

SPEND: Final[dict[str, tuple[int, int]]] = {
    "EUR": (100, 25_000),
    "USD": (100, 25_000),
    "BTC": (1_000, 2_000_000),
    "JPY": (100, 20_000),
    "XAU": (100_000, 20_000_000),
}
"""Least and most of one payment, in minor units."""
FUNDS: Final[dict[str, int]] = {
    "EUR": 5_000_000,
    "USD": 5_000_000,
    "BTC": 1_000_000_000,
    "JPY": 5_000_000,
    "XAU": 10_000_000_000,
}
"""What an account gets at the start, and again when it runs low, in minor units."""
TOO_MUCH: Final = "999999999999"
"""More than any account ever has, in major units."""


def asset_of(account: str) -> str:
    """The asset in an account id, or in one without its customer."""
    parts = account.split(":")
    return next(part for part in parts if part in SPEND)
