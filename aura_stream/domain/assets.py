"""The one table of assets, and amounts: decimal strings outside, integer minor units inside.

Assets are append-only and a scale never changes: every entry ever written is read by it.
Fiat scales follow ISO 4217; BTC and XAU have 8 places, ETH 18, AUSD and AEUR (our tokens) 6.
"""

from __future__ import annotations

import re
from typing import Final

from aura_stream.domain.reasons import Invalid

SCALES: Final[dict[str, int]] = {
    "EUR": 2,
    "USD": 2,
    "GBP": 2,
    "JPY": 0,
    "BTC": 8,
    "XAU": 8,
    "ETH": 18,
    "AUSD": 6,
    "AEUR": 6,
}

AMOUNT_PATTERN: Final = r"^-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,18})?$"
_amount = re.compile(AMOUNT_PATTERN)


def check_amount(text: str) -> None:
    """Raises :class:`Invalid` ``invalid_amount_format`` unless the text has the form of an amount of some asset."""
    if not _amount.fullmatch(text):
        raise Invalid("invalid_amount_format", f"{text[:40]!a} is not a decimal string like 12.50")


def parse_amount(text: str, asset: str) -> int:
    """Minor units of a decimal string in major units, exact to the asset's scale: ``("12.5", "EUR")`` is 1250.

    A sign is read, since a negative amount has a refusal of its own (``negative_amount``, a rule of business).
    Raises :class:`Invalid` with ``invalid_amount_format`` or ``unsupported_asset``.
    """
    scale = SCALES.get(asset)
    if scale is None:
        raise Invalid("unsupported_asset", f"{asset!a} is not an asset")
    check_amount(text)
    whole, _, fraction = text.partition(".")
    if len(fraction) > scale:
        raise Invalid("invalid_amount_format", f"{text} has {len(fraction)} decimal places; {asset} has {scale}")
    return int(whole + fraction.ljust(scale, "0"))


def format_amount(minor: int, asset: str) -> str:
    """The decimal string of minor units, with all places of the asset: ``(1250, "EUR")`` is ``"12.50"``."""
    scale = SCALES[asset]
    if scale == 0:
        return str(minor)
    if minor < 0:
        return "-" + format_amount(-minor, asset)
    digits = str(minor)
    if len(digits) <= scale:
        digits = digits.rjust(scale + 1, "0")
    return f"{digits[:-scale]}.{digits[-scale:]}"
