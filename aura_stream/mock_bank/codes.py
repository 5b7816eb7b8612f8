"""The codes by which banks refuse and return, as a bank must know them: meaning, and until when they may come.

What the receiver does about a code is the receiver's business and not here. Sources: Nacha Operating Rules, Appendix
Four (return and change codes) and ISO 20022 external code sets (status and return reasons).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class ReturnCode(NamedTuple):
    """Why an ACH entry comes back, and how many days after settlement it may."""

    reason: str
    days: int = 2
    calendar_days: bool = False


RETURNS: Final[dict[str, ReturnCode]] = {
    "R01": ReturnCode("Insufficient funds"),
    "R02": ReturnCode("Account closed"),
    "R03": ReturnCode("No account, or unable to locate it"),
    "R04": ReturnCode("Invalid account number"),
    "R05": ReturnCode("Unauthorized debit to a consumer account", 60, True),
    "R06": ReturnCode("Returned at the originator's bank's request", 60, True),
    "R07": ReturnCode("Authorization revoked by the customer", 60, True),
    "R08": ReturnCode("Payment stopped"),
    "R09": ReturnCode("Uncollected funds"),
    "R10": ReturnCode("Customer advises that the originator is not known or not authorized", 60, True),
    "R11": ReturnCode("Customer advises that the entry is not as authorized", 60, True),
    "R12": ReturnCode("Account sold to another bank"),
    "R13": ReturnCode("Invalid routing number"),
    "R14": ReturnCode("Representative payee deceased"),
    "R15": ReturnCode("Beneficiary or account holder deceased"),
    "R16": ReturnCode("Account frozen, or entry returned on instruction of OFAC"),
    "R17": ReturnCode("File record edit criteria, or questionable circumstances"),
    "R20": ReturnCode("Non-transaction account"),
    "R21": ReturnCode("Invalid company identification"),
    "R22": ReturnCode("Invalid individual identification number"),
    "R23": ReturnCode("Credit refused by the receiver"),
    "R24": ReturnCode("Duplicate entry"),
    "R29": ReturnCode("Corporate customer advises that the entry is not authorized"),
    "R31": ReturnCode("Permissible return, CCD and CTX only", 60, True),
    "R33": ReturnCode("Return of XCK entry", 60, True),
}

CHANGES: Final[dict[str, str]] = {
    "C01": "Incorrect account number",
    "C02": "Incorrect routing number",
    "C03": "Incorrect routing number and account number",
    "C05": "Incorrect transaction code",
    "C06": "Incorrect account number and transaction code",
}

ISO: Final[dict[str, str]] = {
    "AB05": "Time-out at the creditor's agent",
    "AB06": "Time-out of an instant payment",
    "AB08": "The creditor's agent is offline",
    "AC01": "Incorrect account number",
    "AC04": "Closed account",
    "AC06": "Blocked account",
    "AG01": "Transaction forbidden on this account",
    "AM04": "Insufficient funds",
    "AM05": "Duplication",
    "BE04": "Missing creditor's address",
    "CNOR": "The creditor's bank is not registered",
    "CUST": "Requested by the customer",
    "DUPL": "Duplicate payment",
    "ED05": "Settlement failed",
    "FOCR": "Following a cancellation request",
    "FRAD": "Fraudulent origin",
    "LEGL": "Legal decision",
    "MD07": "The customer is deceased",
    "MS02": "Refused by the customer, reason not given",
    "MS03": "Refused by the agent, reason not given",
    "NOAS": "No answer from the customer",
    "RR04": "Regulatory reason",
    "TECH": "Technical problem",
}
RECALL_REASONS: Final = ("DUPL", "TECH", "FRAD", "CUST", "AC01")


def meaning(code: str) -> str:
    """What a code says, in words; empty for an unknown one."""
    if code in RETURNS:
        return RETURNS[code].reason
    return CHANGES.get(code) or ISO.get(code, "")
