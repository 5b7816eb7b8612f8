"""The public door: what a command looks like and how its bytes become one.

One decoder serves the Kafka door and HTTP, so that both accept and refuse the same. The JSON Schemas in
`topics/schemas/` are generated from these models.

Nearly all commands are transfers, so these have a short way: a decoder in one pass with the same bounds and patterns.
What it does not take goes the long way through the models, which say what is wrong.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache, reduce
from hashlib import blake2b
from operator import or_
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, TypeAdapter, ValidationError

from aura_stream.domain import ids
from aura_stream.domain.assets import AMOUNT_PATTERN, SCALES
from aura_stream.domain.reasons import Invalid
from aura_stream.domain.strict_json import refuse_twice

_DATE_TIME: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
ADVANCE_MAX_S: Final = 366 * 86_400
"""How far one command moves the clock at most."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
# With a zone a time can lie outside the years 1 to 9999, which nobody downstream could store.
_FIRST: Final = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST: Final = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MILLISECOND


UuidText = Annotated[
    str,
    StringConstraints(pattern=ids.UUID_PATTERN),
    Field(description="A UUID, new for every command", examples=["018f2d3c-8a6e-7c3e-9a51-3f1c2b7e9d10"]),
]
Tenant = Annotated[
    str,
    StringConstraints(pattern=ids.TENANT_PATTERN),
    Field(description="The tenant; unknown ones are refused", examples=["default"]),
]
Customer = Annotated[
    str,
    StringConstraints(pattern=ids.CUSTOMER_PATTERN),
    Field(description="Owner of what the command is about, unique in its tenant", examples=["alice"]),
]
Owner = Annotated[
    str,
    StringConstraints(pattern=ids.OWNER_PATTERN),
    Field(
        description="Whose transaction it is; ~bank:<bank> where it is nobody's: money that nobody has announced",
        examples=["alice", "~bank:bank-b"],
    ),
]
IdempotencyKey = Annotated[
    str,
    StringConstraints(pattern=ids.IDEMPOTENCY_KEY_PATTERN),
    Field(description="The same key with the same content is the same command", examples=["order-4711"]),
]
AccountName = Annotated[
    str,
    StringConstraints(pattern=ids.ACCOUNT_NAME_PATTERN),
    Field(description="A name, where a customer has several accounts in one asset", examples=["savings"]),
]
DateTimeText = Annotated[
    str,
    StringConstraints(pattern=_DATE_TIME),
    Field(description="Date and time of RFC 3339, with a zone", examples=["2026-11-20T10:00:00Z"]),
]
# Assets, account ids, amounts and transaction ids have parsers of their own, which say what is wrong. Here is only a
# bound; their patterns stand in the schema for those who write commands.
AssetText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=16),
    Field(description="An asset of the asset table", examples=["EUR"], json_schema_extra={"enum": list(SCALES)}),
]
AccountIdText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256),
    Field(
        description="<customer>:<asset> or <customer>:<asset>:<name>",
        examples=["alice:EUR"],
        json_schema_extra={"pattern": ids.ACCOUNT_ID_PATTERN},
    ),
]
AmountText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64),
    Field(
        description="Major units, above zero, with no more places than the asset has",
        examples=["12.50"],
        json_schema_extra={"pattern": AMOUNT_PATTERN},
    ),
]
TransactionIdText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=64),
    Field(
        description="Id of a transaction of the customer",
        examples=["84c9fc99-878f-52e2-8f57-bcf9dcd0d8b7"],
        json_schema_extra={"pattern": ids.UUID_PATTERN},
    ),
]


RailText = Annotated[
    Literal["ach", "sepa", "sepa_instant"],
    Field(description="How the fiat moves: ach (USD), sepa or sepa_instant (EUR)", examples=["sepa"]),
]
OperatorText = Annotated[
    str,
    StringConstraints(pattern=ids.CUSTOMER_PATTERN),
    Field(description="Who asks for it on our side", examples=["olga"]),
]
NoteText = Annotated[
    str,
    StringConstraints(pattern=r"^[ -~]{0,200}$"),
    Field(description="Why, for other people", examples=["bank-a answers no inquiries"]),
]
MintToText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256),
    Field(
        description="The customer's account in the rail's token, or an address of the chain",
        examples=["alice:AUSD", "0x52908400098527886E0F7030069857D2E4169EE7"],
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OpenAccount(_Strict):
    """Data of `account.open`."""

    asset: AssetText
    name: AccountName | None = None


class OnAccount(_Strict):
    """Data of `account.freeze`, `account.unfreeze` and `account.close`."""

    account_id: AccountIdText


class Party(_Strict):
    """Who is on the other side at the bank."""

    name: Annotated[
        str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,70}$"), Field(description="Name of the account's holder")
    ]
    account: Annotated[
        str,
        StringConstraints(pattern=r"^([A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}|[0-9]{9}/[A-Za-z0-9-]{1,17})$"),
        Field(
            description="IBAN, or for ach <routing number>/<account number>",
            examples=["DE89370400440532013000", "021000021/123456789"],
        ),
    ]


class Payer(_Strict):
    """Who pays in: for ach the account that is debited, else at most the name."""

    name: Annotated[
        str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,70}$"), Field(description="Name of the account's holder")
    ]
    account: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9]{9}/[A-Za-z0-9-]{1,17}$"),
        Field(description="<routing number>/<account number>", examples=["021000021/123456789"]),
    ] = None


class SubmitDeposit(_Strict):
    """Data of `deposit.submit`. Without `rail` somebody confirms by hand that the money came (sandbox only).

    With a rail the fiat comes through a bank; `mint_to` turns it into tokens.
    """

    account_id: AccountIdText
    amount: AmountText
    effective_at: DateTimeText | None = None
    rail: Annotated[
        Literal["manual", "ach", "sepa", "sepa_instant"] | None,
        Field(
            description="manual (default, sandbox only), ach (USD, we collect), sepa, sepa_instant (EUR, a payer sends)"
        ),
    ] = None
    mint_to: MintToText | None = None
    payer: Payer | None = None
    requested_by: OperatorText | None = None


class SubmitWithdrawal(_Strict):
    """Data of `withdrawal.submit`: whole cents of a token account, which are burnt, or of a fiat account."""

    account_id: AccountIdText
    amount: AmountText
    rail: RailText
    beneficiary: Party
    requested_by: OperatorText | None = None


class RetryWithdrawal(_Strict):
    """Data of `withdrawal.retry`: pays out what came back, without a burn."""

    transaction_id: TransactionIdText
    beneficiary: Party
    rail: RailText | None = None


class Approve(_Strict):
    """Data of `transaction.approve` and `transaction.reject`."""

    transaction_id: TransactionIdText
    operator: OperatorText


class Resolve(_Strict):
    """Data of `transaction.resolve`."""

    transaction_id: TransactionIdText
    operator: OperatorText
    outcome: Annotated[
        Literal[
            "inquire",
            "settled",
            "rejected",
            "match",
            "refund",
            "mint_again",
            "burn_again",
            "sent_back",
            "write_off",
            "enable_account",
        ],
        Field(description="The way out; write_off needs a note, and a second person who approves it"),
    ]
    note: NoteText | None = None
    account_id: Annotated[
        AccountIdText | None, Field(description="With match, of money that nobody announced: whose it is")
    ] = None
    deposit_id: Annotated[
        TransactionIdText | None, Field(description="With account_id: the deposit of its owner that waits for it")
    ] = None


class PauseScope(_Strict):
    """What a pause is about: every field that is given must agree; none holds everything."""

    tenant: Tenant | None = None
    type: Annotated[
        Literal["deposit", "withdrawal", "transfer", "hold"] | None, Field(description="Type of transaction")
    ] = None
    rail: RailText | None = None
    bank: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$"), Field(description="A bank")] | None = None
    chain: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$"), Field(description="A chain")] | None = None
    asset: AssetText | None = None
    account: AccountIdText | None = None


class SetPause(_Strict):
    """Data of `pause.set`."""

    operator: OperatorText
    scope: PauseScope
    note: NoteText | None = None


class LiftPause(_Strict):
    """Data of `pause.lift`."""

    operator: OperatorText
    pause_id: Annotated[str, StringConstraints(pattern=ids.UUID_PATTERN), Field(description="Id of the pause")]


class OpenTenant(_Strict):
    """Data of `tenant.open`."""

    operator: OperatorText
    tenant_id: Tenant


class AdvanceClock(_Strict):
    """Data of `clock.advance`."""

    operator: OperatorText
    advance_s: Annotated[
        int,
        Field(ge=1, le=ADVANCE_MAX_S, description="How far to go forward, in seconds", examples=[86_400]),
    ]


class SubmitTransfer(_Strict):
    """Data of `transfer.submit`."""

    from_account_id: AccountIdText
    to_account_id: AccountIdText
    amount: AmountText
    effective_at: DateTimeText | None = None


class PlaceHold(_Strict):
    """Data of `hold.place`: money of `account_id` is set aside for `to_account_id` until `expires_at`."""

    account_id: AccountIdText
    amount: AmountText
    to_account_id: AccountIdText
    expires_at: DateTimeText
    effective_at: DateTimeText | None = None


class OnTransaction(_Strict):
    """Data of `deposit.reject`, `hold.release` and `transaction.cancel`."""

    transaction_id: TransactionIdText


class ConfirmDeposit(OnTransaction):
    """Data of `deposit.confirm`."""

    effective_at: DateTimeText | None = None


class CaptureHold(OnTransaction):
    """Data of `hold.capture`: `amount` or, without it, all; what is not captured is released."""

    amount: AmountText | None = None
    effective_at: DateTimeText | None = None


class Envelope(_Strict):
    """What every command carries. `issued_at` is the sender's word and decides nothing: the broker's time does."""

    MOVES_NO_MONEY: ClassVar[bool] = False
    id: UuidText
    tenant: Tenant
    customer: Customer
    idempotency_key: IdempotencyKey
    issued_at: DateTimeText


class AccountOpen(Envelope):
    """Opens an account of the customer in one asset."""

    MOVES_NO_MONEY = True
    type: Literal["account.open"]
    data: OpenAccount


class AccountFreeze(Envelope):
    """Refuses new debits and incoming transfers of the account."""

    MOVES_NO_MONEY = True
    type: Literal["account.freeze"]
    data: OnAccount


class AccountUnfreeze(Envelope):
    """Lifts a freeze."""

    MOVES_NO_MONEY = True
    type: Literal["account.unfreeze"]
    data: OnAccount


class AccountClose(Envelope):
    """Closes an empty account for good."""

    MOVES_NO_MONEY = True
    type: Literal["account.close"]
    data: OnAccount


class DepositSubmit(Envelope):
    """Announces money from outside; nothing is available before it is confirmed."""

    type: Literal["deposit.submit"]
    data: SubmitDeposit


class DepositConfirm(Envelope):
    """The money of a deposit has come."""

    type: Literal["deposit.confirm"]
    data: ConfirmDeposit


class DepositReject(Envelope):
    """The money of a deposit will not come."""

    type: Literal["deposit.reject"]
    data: OnTransaction


class DepositRetry(Envelope):
    """Collects again what came back for want of money: a new transaction, twice at most."""

    type: Literal["deposit.retry"]
    data: OnTransaction


class WithdrawalSubmit(Envelope):
    """Burns tokens and pays their fiat out through a bank."""

    type: Literal["withdrawal.submit"]
    data: SubmitWithdrawal


class WithdrawalRetry(Envelope):
    """Pays out to another beneficiary what came back of a payout: a new transaction."""

    type: Literal["withdrawal.retry"]
    data: RetryWithdrawal


class WithdrawalRemint(Envelope):
    """Turns what came back of a payout into tokens again: a new transaction."""

    type: Literal["withdrawal.remint"]
    data: OnTransaction


class TransferSubmit(Envelope):
    """Moves money from an account of the customer to any account of the tenant."""

    type: Literal["transfer.submit"]
    data: SubmitTransfer


class HoldPlace(Envelope):
    """Sets money aside."""

    type: Literal["hold.place"]
    data: PlaceHold


class HoldCapture(Envelope):
    """Moves held money to its target, once."""

    type: Literal["hold.capture"]
    data: CaptureHold


class HoldRelease(Envelope):
    """Gives held money back."""

    type: Literal["hold.release"]
    data: OnTransaction


class TransactionCancel(Envelope):
    """Cancels an unconfirmed deposit or a hold, or what no bank and no chain can have yet."""

    type: Literal["transaction.cancel"]
    data: OnTransaction


class OfOperator(Envelope):
    """What an operator decides about a transaction, a customer's or nobody's."""

    customer: Owner


class TransactionApprove(OfOperator):
    """A second person lets a transaction begin, or what it has in suspense be written off."""

    type: Literal["transaction.approve"]
    data: Approve


class TransactionReject(OfOperator):
    """A second person does not let a transaction begin, or what it has in suspense be written off."""

    type: Literal["transaction.reject"]
    data: Approve


class TransactionResolve(OfOperator):
    """An operator's way out of `requires_attention`, or of suspense."""

    type: Literal["transaction.resolve"]
    data: Resolve


class PauseSet(Envelope):
    """Starts nothing in a scope until the pause is lifted. It acts everywhere, whatever the envelope's customer."""

    MOVES_NO_MONEY = True
    type: Literal["pause.set"]
    data: SetPause


class PauseLift(Envelope):
    """Lifts a pause; what it parked goes on."""

    MOVES_NO_MONEY = True
    type: Literal["pause.lift"]
    data: LiftPause


class TenantOpen(Envelope):
    """Makes every partition take commands of a new tenant. The envelope's own tenant is one that is known.

    Its answer has status `opening`; sent again with another key, `open` as soon as every partition knows.
    """

    MOVES_NO_MONEY = True
    type: Literal["tenant.open"]
    data: OpenTenant


class ClockAdvance(Envelope):
    """Moves the time of every partition and lane forward, whatever the envelope's customer; in the sandbox only.

    Its key is kept for ever: the day after which others are forgotten may be the day that it moves.
    """

    MOVES_NO_MONEY = True
    type: Literal["clock.advance"]
    data: AdvanceClock


class TransferData(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """:class:`SubmitTransfer` the short way. In the order of the fields' names, which is that of the fingerprint."""

    amount: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    effective_at: str | None = None
    from_account_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    to_account_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Transfer(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """:class:`TransferSubmit` the short way: what :func:`parse_command` makes of every transfer."""

    id: str
    type: Literal["transfer.submit"]
    tenant: str
    customer: str
    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    issued_at: str
    data: TransferData


_short_way: Final = msgspec.json.Decoder(Transfer).decode
_encode: Final = msgspec.json.Encoder().encode

Other = (
    AccountOpen
    | AccountFreeze
    | AccountUnfreeze
    | AccountClose
    | DepositSubmit
    | DepositConfirm
    | DepositReject
    | HoldPlace
    | HoldCapture
    | HoldRelease
    | TransactionCancel
    | DepositRetry
    | WithdrawalSubmit
    | WithdrawalRetry
    | WithdrawalRemint
    | TransactionApprove
    | TransactionReject
    | TransactionResolve
    | PauseSet
    | PauseLift
    | TenantOpen
    | ClockAdvance
)
Command = Transfer | Other
COMMAND_TYPES: Final[dict[str, type[Envelope]]] = {
    "account.open": AccountOpen,
    "account.freeze": AccountFreeze,
    "account.unfreeze": AccountUnfreeze,
    "account.close": AccountClose,
    "deposit.submit": DepositSubmit,
    "deposit.confirm": DepositConfirm,
    "deposit.reject": DepositReject,
    "transfer.submit": TransferSubmit,
    "hold.place": HoldPlace,
    "hold.capture": HoldCapture,
    "hold.release": HoldRelease,
    "transaction.cancel": TransactionCancel,
    "deposit.retry": DepositRetry,
    "withdrawal.submit": WithdrawalSubmit,
    "withdrawal.retry": WithdrawalRetry,
    "withdrawal.remint": WithdrawalRemint,
    "transaction.approve": TransactionApprove,
    "transaction.reject": TransactionReject,
    "transaction.resolve": TransactionResolve,
    "pause.set": PauseSet,
    "pause.lift": PauseLift,
    "tenant.open": TenantOpen,
    "clock.advance": ClockAdvance,
}
_every: Any = reduce(or_, COMMAND_TYPES.values())
ADAPTER: Final[TypeAdapter[TransferSubmit | Other]] = TypeAdapter(Annotated[_every, Discriminator("type")])


def parse_command(value: bytes | None) -> Command:
    """The command in a record's value. Raises :class:`Invalid` with reason, detail and pointer."""
    if (transfer := read_transfer(value)) is not None:
        return transfer
    try:
        command = ADAPTER.validate_json(value or b"")
    except ValidationError as error:
        raise as_invalid(error) from None
    if value and value.count(b'"') != _QUOTES[command.type]:
        # More than the plain form of it: an optional field, an escape, an object in the data, or a name twice.
        try:
            refuse_twice(value)
        except ValueError as error:
            raise Invalid("invalid_json", str(error)) from None
    if isinstance(command, TransferSubmit):  # in a rare form: its type or another text escaped
        return Transfer(**command.__dict__ | {"data": TransferData(**command.data.__dict__)})
    return command


def read_transfer(value: bytes | None) -> Transfer | None:
    """The transfer in a record's value, the short way; None if it is none or needs a closer look."""
    if value is None or b'"transfer.submit"' not in value:
        return None
    try:
        transfer = _short_way(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    quotes = _QUOTES[transfer.type] + (0 if transfer.data.effective_at is None else 4)
    return transfer if value.count(b'"') == quotes and _is_well_formed(transfer) else None


def _least_quotes(data: Any) -> int:
    """Two around each name and each text: seven names and six texts around the data, and what the data must have."""
    must = [field.annotation for field in data.model_fields.values() if field.is_required()]
    no_texts = sum(isinstance(one, type) and issubclass(one, BaseModel | int) for one in must)
    return 26 + 4 * len(must) - 2 * no_texts


_QUOTES: Final = {name: _least_quotes(model.model_fields["data"].annotation) for name, model in COMMAND_TYPES.items()}
"""The quotes of a command's JSON at least, by its type. Whatever is added adds quotes, so with just as many no name is
there twice: one `count` for nearly all commands."""


def _is_well_formed(transfer: Transfer) -> bool:
    """Whether the texts of a transfer have the forms that the models demand."""
    key, effective_at = transfer.idempotency_key, transfer.data.effective_at
    return (
        transfer.id.encode().translate(_HEX_DIGITS) == _UUID_SHAPE
        and _is_time(transfer.issued_at.encode().translate(_DIGITS))
        and _is_customer(transfer.customer)
        and _is_tenant(transfer.tenant)
        and key.isascii()
        and key.isprintable()
        and (effective_at is None or _is_time(effective_at.encode().translate(_DIGITS)))
    )


# Names come again, so do the shapes of times (a digit is as good as another): those are matched once.
_HEX_DIGITS: Final = bytes.maketrans(b"123456789ABCDEFabcdef", b"0" * 21)
_DIGITS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_UUID_SHAPE: Final = b"00000000-0000-0000-0000-000000000000"
_date_time: Final = re.compile(_DATE_TIME.encode())
_customer: Final = re.compile(ids.CUSTOMER_PATTERN)
_tenant: Final = re.compile(ids.TENANT_PATTERN)


@lru_cache(maxsize=1 << 8)
def _is_time(shape: bytes) -> bool:
    return _date_time.fullmatch(shape) is not None


@lru_cache(maxsize=1 << 14)
def _is_customer(text: str) -> bool:
    return _customer.fullmatch(text) is not None


@lru_cache(maxsize=1 << 8)
def _is_tenant(text: str) -> bool:
    return _tenant.fullmatch(text) is not None


_WRONG: Final = {
    "string_type": "is not a string",
    "string_too_short": "is too short",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "does not have the right form",
    "literal_error": "is none of those that are known here",
    "model_type": "is not an object",
    "dict_type": "is not an object",
}
"""What pydantic finds wrong, in our words. They are recorded, and must be the same when they are computed again: by a
later version, which knows more names, with another pydantic, on another Python (N34)."""


def as_invalid(error: ValidationError) -> Invalid:
    """The first of pydantic's errors as one of our reasons, with a pointer to the place."""
    first = error.errors(include_url=False, include_context=False)[0]
    # A discriminated union puts the tag in front of the location; the sender knows no such level.
    location = [str(part) for part in first["loc"] if part not in COMMAND_TYPES]
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in location)
    kind, field = first["type"], location[-1] if location else ""
    if kind == "json_invalid":
        return Invalid("invalid_json", "not JSON in UTF-8")
    if kind.startswith("union_tag"):
        shown = ascii(first["input"].get("type"))[:80] if isinstance(first["input"], dict) else "nothing"
        missing = kind == "union_tag_not_found"
        return Invalid(
            "missing_fields" if missing else "invalid_type",
            "type is missing" if missing else f"{shown} is not a command type",
            "/type",
        )
    if kind == "missing":
        return Invalid("missing_fields", f"{field} is missing", pointer)
    if kind == "extra_forbidden":
        return Invalid("unknown_field", f"{field[:80]} is not known here", pointer)
    reason = {
        "id": "invalid_uuid_format",
        "issued_at": "invalid_datetime_format",
        "effective_at": "invalid_datetime_format",
        "expires_at": "invalid_datetime_format",
        "amount": "invalid_amount_format",
        "idempotency_key": "idempotency_key_invalid",
        "account_id": "invalid_account_id",
        "from_account_id": "invalid_account_id",
        "to_account_id": "invalid_account_id",
    }.get(field, "invalid_field")
    return Invalid(reason, f"{field or 'the message'} {_WRONG.get(kind, 'is not what the schema says')}", pointer)


def _fields(model: BaseModel) -> dict[str, Any]:
    return {key: value for key, value in model.__dict__.items() if value is not None}


def parse_time(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time. Raises :class:`Invalid` ``invalid_datetime_format``."""
    try:
        parsed = datetime.fromisoformat(text.upper())
        milliseconds = (parsed - _EPOCH) // _MILLISECOND if parsed.tzinfo else _LAST + 1
    except ValueError:
        milliseconds = _LAST + 1
    if not _FIRST <= milliseconds <= _LAST:
        raise Invalid("invalid_datetime_format", f"{text[:64]!a} is no time with a zone in the years 1 to 9999")
    return milliseconds


@lru_cache(maxsize=1 << 10)
def format_time(milliseconds: int) -> str:
    """RFC 3339 with milliseconds, in UTC: ``2026-11-20T10:00:00.000Z``."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_to_seconds(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=1 << 8)
def _to_seconds(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")[:-6]


def fingerprint(command: Command) -> str:
    """A hash of what the command asks for, without its id and time of issue: the same content, the same hash.

    `12.5` and `12.50` are the same content, so amounts go in without trailing zeros.
    """
    if isinstance(command, Transfer):
        data = command.data
        if data.amount[-1] in "0.":
            data = msgspec.structs.replace(data, amount=_plain(data.amount))
        packed = _encode(("transfer.submit", data))
    else:
        content: dict[str, Any] = {key: value for key, value in command.data.__dict__.items() if value is not None}
        amount = content.get("amount")
        if amount is not None:
            content["amount"] = _plain(amount)
        packed = orjson.dumps([command.type, content], option=orjson.OPT_SORT_KEYS, default=_fields)
    return blake2b(packed, digest_size=16).hexdigest()


def _plain(amount: str) -> str:
    return amount.rstrip("0").rstrip(".") if "." in amount else amount
