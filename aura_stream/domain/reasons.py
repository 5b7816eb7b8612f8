"""The catalogue of reasons: why something was refused, what category that is, and what to do about it.

One table from a reason to its category, HTTP status and hint, and one from a category to LedgerBank's spelling and
retry matrix (L42, L51). Names are LedgerBank's 46 where it has one (L43 to L50); a reason outside the catalogue cannot
be raised. A reason that nothing raises yet says in `waits_for` which feature will.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Retry = Literal["never", "same_key", "new_key"]
"""What becomes of the same request sent again.

`never`: the same answer, until the request or what it meets is changed. `same_key`: it may succeed; send it with the
same idempotency key, after Retry-After seconds where the answer has them. `new_key`: the refusal is an outcome that
belongs to its key, so that the same key gets it again; a new attempt needs a new key.
"""


class Category(NamedTuple):
    """What reasons have in common. `tries` and `base_ms` are for who calls others (LedgerBank's matrix): 0 is never."""

    error_type: str
    retry: Retry
    tries: int = 0
    base_ms: int = 0
    has_breaker: bool = False


CATEGORIES: Final[dict[str, Category]] = {
    "validation": Category("validation_error", "never"),
    "not_found": Category("not_found", "never"),
    "authentication": Category("authentication_error", "never"),
    "authorization": Category("authorization_error", "never"),
    "conflict": Category("conflict", "never"),
    "business_rule": Category("unprocessable_entity", "new_key"),
    "external_dependency": Category("external_dependency_error", "same_key", 3, 1000, has_breaker=True),
    "system": Category("system_error", "same_key", 2, 500, has_breaker=True),
    "rate_limited": Category("rate_limited", "same_key"),
}


class Reason(NamedTuple):
    """One row of the catalogue. `status` is the HTTP status; `hint` says what the sender can do."""

    category: str
    status: int
    title: str
    hint: str
    waits_for: str = ""
    own_retry: Retry | None = None
    field: str = ""
    """The field that it is always about."""

    @property
    def error_type(self) -> str:
        """The category in LedgerBank's spelling."""
        return CATEGORIES[self.category].error_type

    @property
    def retry(self) -> Retry:
        """What becomes of the same request sent again: the reason's own rule, or its category's."""
        return self.own_retry or CATEGORIES[self.category].retry


_V, _B, _N, _C = "validation", "business_rule", "not_found", "conflict"
_A, _Z, _X, _S, _R = "authentication", "authorization", "external_dependency", "system", "rate_limited"
# Features that come later.
_BANKS, _EXCHANGE, _GOLD = "bank connections", "the exchange", "gold and quotes"
_POLICIES, _CHAIN, _PAYOUT, _PAUSES = "policies", "the chain", "withdrawals", "pauses by rail"

REASONS: Final[dict[str, Reason]] = {
    # What cannot be understood: a dead letter at the Kafka door, 400 over HTTP; burns no idempotency key.
    "invalid_json": Reason(_V, 400, "Not valid JSON", "Send one JSON object in UTF-8."),
    "missing_fields": Reason(_V, 400, "A required field is missing", "Add the field; see the schema of the message."),
    "unknown_field": Reason(_V, 400, "A field is not known here", "Remove the field; see the schema of the message."),
    "invalid_field": Reason(
        _V, 400, "A field has the wrong type or form", "Correct the field; see the schema of the message."
    ),
    "invalid_type": Reason(_V, 400, "Unknown command type", "Use one of the command types of the schema."),
    "invalid_uuid_format": Reason(_V, 400, "Not a UUID", "Send a UUID, as in 018f2d3c-8a6e-7c3e-9a51-3f1c2b7e9d10."),
    "invalid_datetime_format": Reason(
        _V, 400, "Not a date and time of RFC 3339", "Send 2026-11-20T10:00:00Z, with a zone."
    ),
    "effective_at_in_future": Reason(
        _V, 400, "effective_at lies in the future", "Leave it out, or give a time that has passed."
    ),
    "invalid_amount_format": Reason(
        _V, 400, "Not an amount of this asset", "Send a decimal string with no more places than the asset has."
    ),
    "unsupported_asset": Reason(_V, 400, "Unknown asset", "Use an asset of the asset table."),
    "invalid_account_id": Reason(_V, 400, "Not an account id", "Use <customer>:<asset> or <customer>:<asset>:<name>."),
    "idempotency_key_missing": Reason(
        _V, 400, "No idempotency key", "Send the header Idempotency-Key with a new UUID for each new request."
    ),
    "idempotency_key_invalid": Reason(_V, 400, "Idempotency key not usable", "Send a UUID."),
    "tenant_not_found": Reason(_N, 404, "Unknown tenant", "Use a tenant that exists, or make it (POST /v1/tenants)."),
    "wrong_key": Reason(
        _V,
        400,
        "Record key is not <tenant>/<customer>",
        "Set the Kafka key to the UTF-8 bytes of <tenant>/<customer> of the command.",
    ),
    "wrong_partition": Reason(
        _V,
        400,
        "Record is on the wrong partition",
        "Use the murmur2 partitioner (librdkafka: partitioner=murmur2_random).",
    ),
    "message_too_large": Reason(_V, 413, "Message too large", "Keep a command below 1 MiB."),
    "internal_error": Reason(
        _S,
        500,
        "The command could not be handled",
        "Nothing was booked; the operator has it among the dead letters.",
    ),
    # What is understood and refused: a failed transaction or a refused command.
    "account_not_found": Reason(_N, 404, "No such account", "Open the account first, or check its id."),
    "transaction_not_found": Reason(_N, 404, "No such transaction", "Check the id and the customer that owns it."),
    "account_already_exists": Reason(_C, 409, "The account exists already", "Use it, or give the new one a name."),
    "account_inactive": Reason(_B, 422, "The account is closed", "Use an open account."),
    "account_frozen": Reason(_B, 422, "The account is frozen", "Ask for it to be unfrozen."),
    "account_in_use": Reason(
        _C, 409, "The account still has money or open transactions", "Empty it and wait until nothing is open."
    ),
    "insufficient_funds": Reason(_B, 422, "Insufficient funds for this transaction", "Lower the amount, or add funds."),
    "negative_amount": Reason(_B, 422, "The amount must be above zero", "Send an amount above zero."),
    "amount_exceeds_limit": Reason(_B, 422, "The amount is above what is allowed", "Lower the amount."),
    "currency_mismatch": Reason(_B, 422, "The accounts have different assets", "Use accounts of one asset."),
    "self_transfer": Reason(_B, 422, "Source and target are the same account", "Use two accounts."),
    "cross_tenant": Reason(_B, 422, "The account belongs to another tenant", "Transfers stay inside one tenant."),
    "expires_at_in_past": Reason(_B, 422, "expires_at has passed", "Give a time in the future."),
    "invalid_state_transition": Reason(
        _C, 409, "The transaction's state does not allow this", "Read its present state."
    ),
    "already_processed": Reason(_C, 409, "This was done already", "Nothing to do; read its present state."),
    "idempotency_key_reused": Reason(
        _B, 422, "The idempotency key belongs to another request", "Use a new key for a new request."
    ),
    "idempotency_in_progress": Reason(
        _C,
        409,
        "The first request with this key is not answered yet",
        "Try again a little later with the same key.",
        own_retry="same_key",
    ),
    "forbidden": Reason(_Z, 403, "Not allowed", "Ask an operator."),
    "rejected": Reason(_B, 422, "The deposit was rejected", "Ask the payer; a new deposit needs a new key."),
    "expired": Reason(_B, 422, "The deadline has passed", "Start again with a new key."),
    # Identity.
    "invalid_email_format": Reason(_V, 400, "Not an e-mail address", "Send an address as in ada@example.com."),
    "invalid_password_format": Reason(
        _V, 400, "The password cannot be used", "Use 8 to 128 characters; 15 or more for other roles than user."
    ),
    "invalid_name_format": Reason(_V, 400, "Not a name", "Send 1 to 200 characters, no control characters."),
    "invalid_role": Reason(_V, 400, "Unknown role", "Use user, support, admin, operator or auditor."),
    "invalid_status": Reason(_V, 400, "Unknown status", "Use a status of the contract."),
    "tenant_mismatch": Reason(
        _V, 400, "The request names another tenant", "Leave Aura-Tenant out: the tenant is that of your login or key."
    ),
    "invalid_credentials": Reason(_A, 401, "E-mail address or password wrong", "Check both."),
    "invalid_password": Reason(_A, 401, "The current password is wrong", "Send the current password."),
    "invalid_token": Reason(_A, 401, "No valid token", "Log in, then send Authorization: Bearer <access token>."),
    "token_expired": Reason(_A, 401, "The token has expired", "Refresh, or log in again."),
    "token_revoked": Reason(_A, 401, "The login has ended", "Log in again."),
    "invalid_token_type": Reason(
        _A, 401, "The wrong kind of token", "Access tokens for requests, refresh tokens to refresh."
    ),
    "insufficient_permissions": Reason(_Z, 403, "Your role does not allow this", "Ask someone who has the role."),
    "maker_is_checker": Reason(_Z, 403, "Maker and checker are the same", "Someone else has to approve it."),
    "tenant_inactive": Reason(_Z, 403, "The tenant is deactivated", "Ask an operator."),
    "account_suspended": Reason(_B, 422, "The user is suspended", "Ask an admin of the tenant.", own_retry="never"),
    "email_not_verified": Reason(_Z, 403, "The e-mail address is not verified", "Use the token of the mail first."),
    "user_not_found": Reason(_N, 404, "No such user", "Check the id."),
    "session_not_found": Reason(_N, 404, "No such session", "List the sessions; it may have ended."),
    "token_not_found": Reason(_N, 404, "No such verification token", "Ask for another mail."),
    "api_key_not_found": Reason(_N, 404, "No such API key", "List the keys; it may be revoked."),
    "erasure_request_not_found": Reason(_N, 404, "No such erasure request", "List the requests."),
    "idempotency_key_not_found": Reason(_N, 404, "No such idempotency key", "Check the key and the tenant."),
    "dead_letter_not_found": Reason(_N, 404, "No such dead letter", "List the dead letters; old ones are dropped."),
    "signing_key_not_found": Reason(_N, 404, "No such signing key", "See /.well-known/jwks.json."),
    "lane_not_found": Reason(_N, 404, "No such lane", "List the lanes."),
    "break_not_found": Reason(_N, 404, "No such break", "List the breaks."),
    "report_not_found": Reason(_N, 404, "Nothing was reconciled yet", "Run `aura reconcile`."),
    "event_not_found": Reason(_N, 404, "No such event", "Check the id; begin anew without it."),
    "webhook_endpoint_not_found": Reason(_N, 404, "No such webhook endpoint", "List the endpoints."),
    "webhook_delivery_not_found": Reason(_N, 404, "No such delivery", "List the deliveries; old ones are removed."),
    "webhook_url_refused": Reason(
        _B, 422, "Webhooks do not go to this address", "Use https:// and a public host, port 443 or 8443."
    ),
    "too_many_endpoints": Reason(_B, 422, "There are too many webhook endpoints", "Delete one that is not used."),
    "replay_too_large": Reason(_B, 422, "Too many events for one replay", "Ask for a shorter time or fewer types."),
    "email_already_exists": Reason(_C, 409, "Email already exists", "Log in, or use another address.", field="email"),
    "tenant_already_exists": Reason(_C, 409, "The tenant exists already", "Use it, or choose another id."),
    "tenant_selection_required": Reason(
        _C, 409, "Multiple tenants found. Please select one.", "Log in again with tenant_code."
    ),
    "revocation_unconfirmed": Reason(
        _X,
        503,
        "Revoked, but not every API process has confirmed it",
        "One that does not answer stops by itself within 5 s; repeat after Retry-After seconds to be sure.",
    ),
    # Banks, chain, approvals, pauses.
    "sandbox_only": Reason(_Z, 403, "The sandbox only does this", "In live mode time goes by itself."),
    "clock_too_far": Reason(_B, 422, "The clock is too far ahead already", "Start anew: `make reset`."),
    "paused": Reason(_X, 503, "New work of this kind is paused", "Try again later with the same key."),
    "screening_blocked": Reason(_B, 422, "The other side is not allowed", "Ask an operator."),
    "bank_account_disabled": Reason(
        _B, 422, "The bank account cannot be used again", "Name another one, or ask an operator."
    ),
    "amount_below_fee": Reason(_B, 422, "The fee would take it all", "Raise the amount."),
    "four_eyes": Reason(_Z, 403, "Another person must do this", "Ask a second operator."),
    "denied": Reason(_B, 422, "A second person did not approve", "Ask the operator; a new request needs a new key."),
    "retry_not_allowed": Reason(_B, 422, "It may not be tried again", "Read the code that came back."),
    "pause_not_found": Reason(_N, 404, "No such pause", "Read the pauses that stand."),
    "unknown_outcome": Reason(
        _X, 503, "The bank has not said what became of it", "Wait: it is asked, never sent again."
    ),
    "no_answer": Reason(_X, 503, "No answer in time", "An operator looks at it."),
    "bank_rejected": Reason(_B, 422, "The bank did not process it", "Read the code; a new request needs a new key."),
    "bank_returned": Reason(_B, 422, "The bank took it back", "Read the code; a new request needs a new key."),
    "unknown_code": Reason(_X, 503, "The bank's code needs a person", "An operator looks at it."),
    "books_disagree": Reason(_X, 503, "The bank's books are not ours", "Reconciliation has a break of it."),
    "amount_mismatch": Reason(_X, 503, "Another amount has moved", "An operator looks at it; nothing is lost."),
    "currency_mismatch_at_bank": Reason(
        _X, 503, "Another currency has moved", "An operator looks at it; nothing is lost."
    ),
    "unmatched": Reason(_X, 503, "Nobody has announced this money", "An operator looks at it; nothing is lost."),
    "chain_stuck": Reason(_X, 503, "The chain does not take it in", "An operator looks at it."),
    "chain_failed": Reason(_X, 503, "The chain has refused it for good", "An operator looks at it."),
    "mint_lost": Reason(_X, 503, "The mint was lost with its block", "Read the transaction."),
    "refunded": Reason(_B, 422, "The money was given back", "It is in the account."),
    # What HTTP adds.
    "route_not_found": Reason(_N, 404, "No such route", "See /openapi.json for the routes."),
    "method_not_allowed": Reason(_V, 405, "The route does not have this method", "See the Allow header."),
    "unsupported_media_type": Reason(
        _V, 415, "Content type not supported", "Send application/json (batch: application/x-ndjson)."
    ),
    "invalid_http": Reason(
        _V, 400, "Not a request of HTTP/1.1", "Send at most 128 headers of 8 KiB each, and a body of one length."
    ),
    "request_timeout": Reason(
        _V,
        408,
        "The request did not arrive in time",
        "Send it again, with the same key, without pauses.",
        own_retry="same_key",
    ),
    "rate_limited": Reason(_R, 429, "Too many requests", "Try again after Retry-After seconds with the same key."),
    "api_key_invalid": Reason(_A, 401, "API key wrong, expired or revoked", "Send Authorization: Bearer <key>."),
    "service_unavailable": Reason(
        _X,
        503,
        "A service that is needed is away",
        "Try again after Retry-After seconds with the same key.",
    ),
    "ledger_behind": Reason(_X, 503, "The ledger database is behind", "Try again after Retry-After seconds."),
    # LedgerBank's that nothing raises yet, and those of features to come.
    "invalid_direction": Reason(_V, 400, "Unknown direction", "Use CREDIT (money in) or DEBIT (money out)."),
    "invalid_payment_type": Reason(_V, 400, "Unknown payment type", "Use TRANSFER, PAYMENT, DEPOSIT or WITHDRAWAL."),
    "invalid_currency_format": Reason(_V, 400, "Not a currency", "Use an asset of the asset table."),
    "invalid_account_type": Reason(
        _V, 400, "Unknown account type", "Use CHECKING, SAVINGS, CREDIT or INVESTMENT.", waits_for=_BANKS
    ),
    "payment_not_found": Reason(_N, 404, "No such payment", "Check the id."),
    "bank_not_found": Reason(_N, 404, "No such bank", "List the banks.", waits_for=_BANKS),
    "order_not_found": Reason(_N, 404, "No such order", "Check the id.", waits_for=_EXCHANGE),
    "mfa_required": Reason(_A, 401, "A second factor is needed", "Send it.", waits_for="a second factor at login"),
    "signature_invalid": Reason(
        _A, 401, "The signature is wrong", "Sign the bytes as they are sent, and send them within 5 minutes."
    ),
    "unauthorized_access": Reason(
        _Z, 403, "Not yours", "Use what belongs to you.", waits_for="linked bank accounts (else it answers as missing)"
    ),
    "consent_expired": Reason(_Z, 403, "The bank's consent has expired", "Consent again.", waits_for=_BANKS),
    "duplicate_transaction": Reason(_C, 409, "The transaction exists already", "Use it.", waits_for=_BANKS),
    "version_conflict": Reason(
        _C, 409, "It was changed in between", "Read it again, then change it.", waits_for="versioned resources"
    ),
    "daily_limit_exceeded": Reason(_B, 422, "The day's limit is reached", "Try again tomorrow (UTC), with a new key."),
    "negative_balance": Reason(_B, 422, "The balance would be negative", "Lower the amount.", waits_for=_BANKS),
    "velocity_exceeded": Reason(_B, 422, "Too many in a short time", "Try again tomorrow (UTC), with a new key."),
    "rail_required": Reason(
        _B, 422, "Nobody can confirm it by hand here", "Name a rail: ach, sepa or sepa_instant; then use a new key."
    ),
    "quote_expired": Reason(_B, 422, "The quote has expired", "Ask for another quote.", waits_for=_GOLD),
    "price_unavailable": Reason(_B, 422, "There is no fresh price", "Try again later.", waits_for=_GOLD),
    "beneficiary_not_whitelisted": Reason(
        _B, 422, "The beneficiary is not on the list", "Have it approved.", waits_for=_PAYOUT
    ),
    "policy_denied": Reason(_B, 422, "Denied by a policy", "Ask an admin.", waits_for=_POLICIES),
    "reserve_insufficient": Reason(_B, 422, "The reserve does not cover it", "Wait until the operator has funded it."),
    "timeout": Reason(_X, 503, "Another system did not answer in time", "Try again later.", waits_for=_BANKS),
    "bank_api_error": Reason(_X, 503, "The bank's API fails", "Try again later.", waits_for=_BANKS),
    "payment_provider_error": Reason(_X, 503, "The payment provider fails", "Try again later.", waits_for=_BANKS),
    "circuit_open": Reason(_X, 503, "The other system is given a rest", "Try again later.", waits_for=_BANKS),
    "rail_paused": Reason(_X, 503, "The rail is paused", "Try again later.", waits_for=_PAUSES),
    "chain_unavailable": Reason(_X, 503, "The chain does not answer", "Try again later.", waits_for=_CHAIN),
    "internal_server_error": Reason(
        _S, 500, "Our fault", "The request id finds it in the logs; repeat with the same key."
    ),
    "database_error": Reason(
        _S, 500, "The database failed", "Try again with the same key.", waits_for="LedgerBank's job table"
    ),
    "configuration_error": Reason(
        _S, 500, "Wrongly set up", "Tell the operator.", waits_for="connectors that are set up while running"
    ),
}


class Invalid(Exception):
    """A message that cannot be understood. It becomes a dead letter (Kafka) or a 400 (HTTP) and burns no key.

    `reason` is a name of :data:`REASONS`, `detail` says what is wrong, `pointer` where (RFC 6901, "" = the whole).
    """

    def __init__(self, reason: str, detail: str, pointer: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}" + (f" (at {pointer})" if pointer else ""))
        self.reason, self.detail, self.pointer = reason, detail, pointer


class Refused(Exception):
    """A command that is understood and refused by a rule of business; `reason` is a name of :data:`REASONS`.

    `available` is what there was where it is too little, in major units.
    """

    def __init__(self, reason: str, detail: str = "", *, available: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.available = reason, detail, available
        self.context = ""  # in which service it came up, for the log
