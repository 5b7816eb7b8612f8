"""Why banks reject, return or correct payments, and what we do about it: one row per code.

`NACHA` rows are the return reasons (R), the dishonoured and contested ones included, and the notifications of change
(C) of the Nacha Operating Rules, Appendix Four and Five. `ISO` rows are of ISO 20022's External Code Sets
(ExternalStatusReason1Code in pacs.002, ExternalReturnReason1Code in pacs.004, ExternalCancellationReason1Code in
camt.056) as far as the EPC's SCT and SCT Inst rulebooks use them. A code that has no row needs a person.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# What follows for the payment is decided by the machines (before settlement it fails, after completion it is clawed
# back); these say what follows beside that.
FAIL: Final = "fail"  # nothing more
RETRY: Final = "retry"  # a new child transaction may try again, twice at most
DISABLE: Final = "disable"  # the bank account is not to be used again; the customer names another one
AUTHORISE: Final = "authorise"  # only with a new authorisation of the payer
FREEZE: Final = "freeze"  # the customer's accounts are frozen, an operator has a case
COMPLIANCE: Final = "compliance"  # a compliance case; nothing is retried
BREAK: Final = "break"  # the two books disagree: reconciliation
INQUIRE: Final = "inquire"  # no definite answer: the outcome is unknown, ask with the same reference
CORRECT: Final = "correct"  # the payment stands, stored details are wrong
ATTENTION: Final = "requires_attention"  # a person decides
ACTIONS: Final = frozenset({FAIL, RETRY, DISABLE, AUTHORISE, FREEZE, COMPLIANCE, BREAK, INQUIRE, CORRECT, ATTENTION})
BARS: Final = (DISABLE, FREEZE)
"""Actions after which the customer must name another bank account."""
CASES: Final = (FREEZE, COMPLIANCE)
"""Actions that somebody must look at, however well all is booked."""

RETRIES_MAX: Final = 2
"""How often a debit that was returned for want of money may be tried again (Nacha, Subsection 2.12.4)."""

_TWO_DAYS: Final = 2
_SIXTY_DAYS: Final = 60


class Code(NamedTuple):
    """One row. `days` is how long the other bank may take: banking days up to 5, calendar days above; 0 = not said."""

    source: str  # NACHA | ISO | AURA
    meaning: str
    action: str
    days: int = 0


def _nacha(meaning: str, action: str, days: int = _TWO_DAYS) -> Code:
    return Code("NACHA", meaning, action, days)


def _iso(meaning: str, action: str, days: int = 0) -> Code:
    return Code("ISO", meaning, action, days)


CODES: Final[dict[str, Code]] = {
    # Returns by the receiving bank.
    "R01": _nacha("Insufficient funds", RETRY),
    "R02": _nacha("Account closed", DISABLE),
    "R03": _nacha("No account, or unable to locate the account", DISABLE),
    "R04": _nacha("Invalid account number structure", DISABLE),
    "R05": _nacha("Unauthorised debit to a consumer account with a corporate code", FREEZE, _SIXTY_DAYS),
    "R06": _nacha("Returned at the originating bank's request", ATTENTION, 0),
    "R07": _nacha("Authorisation revoked by the customer", FREEZE, _SIXTY_DAYS),
    "R08": _nacha("Payment stopped", AUTHORISE),
    "R09": _nacha("Uncollected funds", RETRY),
    "R10": _nacha("Originator not known to the receiver, or not authorised to debit", FREEZE, _SIXTY_DAYS),
    "R11": _nacha("Entry not in accordance with the terms of the authorisation", FREEZE, _SIXTY_DAYS),
    "R12": _nacha("Account sold to another bank", DISABLE),
    "R13": _nacha("Invalid routing number", DISABLE),
    "R14": _nacha("Representative payee deceased or unable to continue", DISABLE),
    "R15": _nacha("Beneficiary or account holder deceased", DISABLE),
    "R16": _nacha("Account frozen, or returned on OFAC's instruction", COMPLIANCE),
    "R17": _nacha("File record edit criteria, or initiated under questionable circumstances", COMPLIANCE),
    "R18": _nacha("Improper effective entry date", ATTENTION),
    "R19": _nacha("Amount field error", ATTENTION),
    "R20": _nacha("Not a transaction account", DISABLE),
    "R21": _nacha("Invalid company identification", ATTENTION),
    "R22": _nacha("Invalid individual identification number", ATTENTION),
    "R23": _nacha("Credit entry refused by the receiver", COMPLIANCE),
    "R24": _nacha("Duplicate entry", BREAK),
    "R25": _nacha("Addenda error", ATTENTION),
    "R26": _nacha("Mandatory field error", ATTENTION),
    "R27": _nacha("Trace number error", ATTENTION),
    "R28": _nacha("Routing number check digit error", DISABLE),
    "R29": _nacha("Corporate customer advises not authorised", FREEZE),
    "R30": _nacha("Receiving bank not participant in the check truncation programme", ATTENTION),
    "R31": _nacha("Permissible return entry (CCD and CTX)", ATTENTION, 0),
    "R32": _nacha("Receiving bank cannot settle", FAIL),
    "R33": _nacha("Return of an XCK entry", ATTENTION, _SIXTY_DAYS),
    "R34": _nacha("Receiving bank's participation is limited", FAIL, 0),
    "R35": _nacha("Return of an improper debit entry", ATTENTION),
    "R36": _nacha("Return of an improper credit entry", ATTENTION),
    "R37": _nacha("Source document presented for payment", ATTENTION, _SIXTY_DAYS),
    "R38": _nacha("Stop payment on the source document", ATTENTION, _SIXTY_DAYS),
    "R39": _nacha("Improper source document, or source document presented for payment", ATTENTION),
    "R40": _nacha("Return of an enrolment entry by a federal agency", ATTENTION, 0),
    "R41": _nacha("Invalid transaction code (enrolment)", ATTENTION, 0),
    "R42": _nacha("Routing number or check digit error (enrolment)", ATTENTION, 0),
    "R43": _nacha("Invalid account number (enrolment)", ATTENTION, 0),
    "R44": _nacha("Invalid individual identification number (enrolment)", ATTENTION, 0),
    "R45": _nacha("Invalid individual or company name (enrolment)", ATTENTION, 0),
    "R46": _nacha("Invalid representative payee indicator (enrolment)", ATTENTION, 0),
    "R47": _nacha("Duplicate enrolment", ATTENTION, 0),
    "R50": _nacha("State law affecting acceptance of a represented check", ATTENTION),
    "R51": _nacha("Item of a represented check ineligible, or the entry improper", ATTENTION, _SIXTY_DAYS),
    "R52": _nacha("Stop payment on the item of a represented check", ATTENTION, _SIXTY_DAYS),
    "R53": _nacha("Item and represented check entry both presented", ATTENTION, _SIXTY_DAYS),
    # Dishonoured returns: between the banks about an earlier return. What they change of ours a person must see.
    "R61": _nacha("Misrouted return", ATTENTION, 5),
    "R62": _nacha("Return of an erroneous or reversing debit", ATTENTION, 5),
    "R63": _nacha("Incorrect dollar amount (of a return)", BREAK, 5),
    "R64": _nacha("Incorrect individual identification (of a return)", ATTENTION, 5),
    "R65": _nacha("Incorrect transaction code (of a return)", ATTENTION, 5),
    "R66": _nacha("Incorrect company identification (of a return)", ATTENTION, 5),
    "R67": _nacha("Duplicate return", BREAK, 5),
    "R68": _nacha("Untimely return", ATTENTION, 5),
    "R69": _nacha("Field error in a return", ATTENTION, 5),
    "R70": _nacha("Permissible return not accepted, or return not requested", ATTENTION, 5),
    # Contested dishonoured returns.
    "R71": _nacha("Misrouted dishonoured return", ATTENTION),
    "R72": _nacha("Untimely dishonoured return", ATTENTION),
    "R73": _nacha("Timely original return", ATTENTION),
    "R74": _nacha("Corrected return", ATTENTION),
    "R75": _nacha("Return not a duplicate", ATTENTION),
    "R76": _nacha("No errors found", ATTENTION),
    "R77": _nacha("Non-acceptance of an R62 dishonoured return", ATTENTION),
    # International entries, by the gateway.
    "R80": _nacha("Coding error of an international entry", ATTENTION, 0),
    "R81": _nacha("Not a participant in international entries", FAIL, 0),
    "R82": _nacha("Invalid identification of the foreign receiving bank", DISABLE, 0),
    "R83": _nacha("Foreign receiving bank unable to settle", FAIL, 0),
    "R84": _nacha("Entry not processed by the gateway", ATTENTION, 0),
    "R85": _nacha("Outbound international payment coded as a domestic one", COMPLIANCE, 0),
    # Notifications of change.
    "C01": _nacha("Incorrect account number", CORRECT),
    "C02": _nacha("Incorrect routing number", CORRECT),
    "C03": _nacha("Incorrect routing and account number", CORRECT),
    "C04": _nacha("Incorrect individual or company name", CORRECT),
    "C05": _nacha("Incorrect transaction code", CORRECT),
    "C06": _nacha("Incorrect account number and transaction code", CORRECT),
    "C07": _nacha("Incorrect routing number, account number and transaction code", CORRECT),
    "C08": _nacha("Incorrect identification of the foreign receiving bank", CORRECT),
    "C09": _nacha("Incorrect individual identification number", CORRECT),
    "C10": _nacha("Incorrect company name", CORRECT),
    "C11": _nacha("Incorrect company identification", CORRECT),
    "C12": _nacha("Incorrect company name and identification", CORRECT),
    "C13": _nacha("Addenda format error", CORRECT),
    "C14": _nacha("Incorrect entry class of an outbound international payment", CORRECT),
    # Rejects and returns of credit transfers.
    "AB01": _iso("Clearing process aborted by time-out", INQUIRE),
    "AB02": _iso("Clearing process aborted by a fatal error", INQUIRE),
    "AB03": _iso("Settlement aborted by time-out", INQUIRE),
    "AB04": _iso("Settlement aborted by a fatal error", INQUIRE),
    "AB05": _iso("Time-out at the creditor's bank", INQUIRE),
    "AB06": _iso("Time-out at the instructed bank", INQUIRE),
    "AB07": _iso("Agent of the message is offline", INQUIRE),
    "AB08": _iso("Creditor's bank is offline", FAIL),
    "AB09": _iso("Error at the creditor's bank", FAIL),
    "AB10": _iso("Error at the instructed bank", FAIL),
    "AB11": _iso("Time-out at the debtor's bank", INQUIRE),
    "AC01": _iso("Incorrect account identifier", DISABLE),
    "AC02": _iso("Invalid debtor account number", DISABLE),
    "AC03": _iso("Invalid creditor account number", DISABLE),
    "AC04": _iso("Account closed", DISABLE),
    "AC06": _iso("Account blocked", COMPLIANCE),
    "AC13": _iso("Debtor account is a consumer account", FAIL),
    "AC14": _iso("Invalid creditor account type", DISABLE),
    "AG01": _iso("Transaction forbidden on this type of account", COMPLIANCE),
    "AG02": _iso("Invalid bank operation code", FAIL),
    "AG09": _iso("Payment not received", INQUIRE),
    "AG10": _iso("Agent suspended", FAIL),
    "AG11": _iso("Creditor's bank suspended", FAIL),
    "AGNT": _iso("Incorrect agent", FAIL),
    "AM01": _iso("Amount is zero", FAIL),
    "AM02": _iso("Amount above what is allowed", FAIL),
    "AM03": _iso("Currency not processed", FAIL),
    "AM04": _iso("Insufficient funds", FAIL),
    "AM05": _iso("Duplication", BREAK),
    "AM06": _iso("Amount below the minimum", FAIL),
    "AM07": _iso("Amount blocked", COMPLIANCE),
    "AM09": _iso("Wrong amount", BREAK),
    "AM10": _iso("Invalid control sum", FAIL),
    "AM23": _iso("Amount exceeds the settlement limit", FAIL),
    "ARDT": _iso("Already returned", BREAK),
    "BE01": _iso("Name and account do not agree", DISABLE),
    "BE04": _iso("Creditor's address missing or wrong", DISABLE),
    "BE05": _iso("Initiating party not recognised", FAIL),
    "BE06": _iso("End customer unknown", DISABLE),
    "BE07": _iso("Debtor's address missing or wrong", FAIL),
    "CNOR": _iso("Creditor's bank not registered", DISABLE),
    "CURR": _iso("Incorrect currency", BREAK),
    "CUST": _iso("Requested by the customer", FAIL, 10),
    "CUTA": _iso("Cancellation after an investigation", ATTENTION),
    "DNOR": _iso("Debtor's bank not registered", FAIL),
    "DS02": _iso("Order cancelled", FAIL),
    "DT01": _iso("Invalid date", FAIL),
    "DUPL": _iso("Duplicate payment", BREAK, 10),
    "ED05": _iso("Settlement failed", FAIL),
    "ERIN": _iso("Extended remittance information not supported", FAIL),
    "FF01": _iso("Invalid file format", ATTENTION),
    "FOCR": _iso("Return following a cancellation request", FAIL),
    "FR01": _iso("Fraud", COMPLIANCE),
    "FRAD": _iso("Fraudulent origin", COMPLIANCE, 396),
    "LEGL": _iso("Legal decision", COMPLIANCE),
    "MD01": _iso("No mandate", FREEZE),
    "MD02": _iso("Mandate data missing or wrong", AUTHORISE),
    "MD06": _iso("Refund requested by the end customer", FREEZE),
    "MD07": _iso("End customer deceased", DISABLE),
    "MS02": _iso("Reason not specified by the customer", FAIL),
    "MS03": _iso("Reason not specified by the agent", FAIL),
    "NARR": _iso("Reason given as text", ATTENTION),
    "NOAS": _iso("No answer from the customer", FAIL),
    "NOCM": _iso("Customer account not compliant", COMPLIANCE),
    "NOOR": _iso("Original transaction never received", INQUIRE),
    "RC01": _iso("Incorrect bank identifier", DISABLE),
    "RC03": _iso("Invalid debtor bank identifier", FAIL),
    "RC04": _iso("Invalid creditor bank identifier", DISABLE),
    "RC07": _iso("Incorrect creditor BIC", DISABLE),
    "RF01": _iso("Transaction reference not unique", BREAK),
    "RR01": _iso("Debtor's account or identification missing", COMPLIANCE),
    "RR02": _iso("Debtor's name or address missing", COMPLIANCE),
    "RR03": _iso("Creditor's name or address missing", COMPLIANCE),
    "RR04": _iso("Regulatory reason", COMPLIANCE),
    "SL01": _iso("Specific service offered by the debtor's bank", FAIL),
    "SL02": _iso("Specific service offered by the creditor's bank", FAIL),
    "SL11": _iso("Creditor not on the debtor's whitelist", FAIL),
    "SL12": _iso("Creditor on the debtor's blacklist", COMPLIANCE),
    "SVNR": _iso("Service not rendered", ATTENTION),
    "TECH": _iso("Technical problem", FAIL, 10),
    "TM01": _iso("Received after the cut-off time", FAIL),
    "TS01": _iso("Message not acknowledged in time", INQUIRE),
    "UPAY": _iso("Undue payment", FAIL),
    # Our own: the lane has tried as often as allowed, and each time it was certain that nothing was processed.
    "NOTP": Code("AURA", "The bank could not be reached and has not taken it", FAIL),
}

_UNKNOWN: Final = Code("", "A code without a row", ATTENTION)


def code_of(code: str) -> Code:
    """The row of a code. A code without one needs a person, whatever it means."""
    return CODES.get(code, _UNKNOWN)
