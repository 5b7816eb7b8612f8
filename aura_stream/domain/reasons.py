"""The catalogue of reasons: why something was refused, what category that is, and what to do about it.

Names are LedgerBank's where it has one; a reason outside the catalogue cannot be raised.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Reason(NamedTuple):
    """One row of the catalogue. `status` is the HTTP status; `hint` says what the sender can do."""

    category: str
    status: int
    title: str
    hint: str


_V, _B, _N, _C = "validation", "business_rule", "not_found", "conflict"
_A, _Z, _X = "authentication", "authorization", "external_dependency"

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
    "tenant_not_found": Reason(_N, 404, "Unknown tenant", "Use a tenant that exists (setting AURA_TENANTS)."),
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
        "system",
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
        _C, 409, "The first request with this key is not answered yet", "Try again a little later with the same key."
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
    "account_suspended": Reason(_Z, 403, "The user is suspended", "Ask an admin of the tenant."),
    "email_not_verified": Reason(_Z, 403, "The e-mail address is not verified", "Use the token of the mail first."),
    "user_not_found": Reason(_N, 404, "No such user", "Check the id."),
    "session_not_found": Reason(_N, 404, "No such session", "List the sessions; it may have ended."),
    "token_not_found": Reason(_N, 404, "No such verification token", "Ask for another mail."),
    "api_key_not_found": Reason(_N, 404, "No such API key", "List the keys; it may be revoked."),
    "erasure_request_not_found": Reason(_N, 404, "No such erasure request", "List the requests."),
    "idempotency_key_not_found": Reason(_N, 404, "No such idempotency key", "Check the key and the tenant."),
    "dead_letter_not_found": Reason(_N, 404, "No such dead letter", "List the dead letters; old ones are dropped."),
    "signing_key_not_found": Reason(_N, 404, "No such signing key", "See /.well-known/jwks.json."),
    "email_already_exists": Reason(_C, 409, "The e-mail address has a user", "Log in, or use another address."),
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
    # What HTTP adds.
    "route_not_found": Reason(_N, 404, "No such route", "See /openapi.json for the routes."),
    "method_not_allowed": Reason(_V, 405, "The route does not have this method", "See the Allow header."),
    "unsupported_media_type": Reason(
        _V, 415, "Content type not supported", "Send application/json (batch: application/x-ndjson)."
    ),
    "api_key_invalid": Reason(_A, 401, "API key wrong, expired or revoked", "Send Authorization: Bearer <key>."),
    "service_unavailable": Reason(
        _X,
        503,
        "A service that is needed is away",
        "Try again after Retry-After seconds with the same key.",
    ),
    "ledger_behind": Reason(_X, 503, "The ledger database is behind", "Try again after Retry-After seconds."),
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
    """A command that is understood and refused by a rule of business; `reason` is a name of :data:`REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail
