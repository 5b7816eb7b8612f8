"""OAuth 2: client credentials for the client's own business, authorization code for account data of the bank's users.

Sources: RFC 6749, RFC 7636 (PKCE, S256 only), RFC 9700 (refresh tokens are used once; a second use ends the family). A
consent to account data is AwaitingAuthorisation, Authorised, Rejected, Revoked or Expired; it lasts 90 days. Tokens are
kept as hashes. Times are virtual.
"""

from __future__ import annotations

import hashlib
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any, Final

from aura_stream.mock_bank.bank import Bank, iso_time
from aura_stream.mock_bank.calendars import DAY_MS
from aura_stream.mock_bank.problems import Problem

ACCESS_MS: Final = 3_600_000
CODE_MS: Final = 60_000
CONSENT_MS: Final = 90 * DAY_MS
REFRESH_MS: Final = 90 * DAY_MS
PERMISSIONS: Final = ("accounts", "balances", "transactions")


class OAuthError(Exception):
    """An error of the token endpoint: ``error`` is one of RFC 6749, section 5.2."""

    def __init__(self, error: str, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.status = status


def client_id(bank: Bank) -> str:
    """The one client's name at this bank."""
    return f"client-{bank.name}"


def client_secret(bank: Bank) -> str:
    """The one client's secret at this bank."""
    return bank.derived("client secret")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _issue(bank: Bank, kind: str, scope: str, at: int, lasts: int, consent: str = "", **values: str) -> str:
    n = bank.store.value("SELECT coalesce(max(n), 0) + 1 FROM tokens")
    token = f"{kind}_{bank.derived('token', kind, n)}"
    bank.store.run(
        "INSERT INTO tokens (n, hash, kind, scope, consent_id, expires_ms, redirect_uri, challenge)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        *(n, _hash(token), kind, scope, consent, at + lasts),
        *(values.get("redirect_uri", ""), values.get("challenge", "")),
    )
    return token


def _find(bank: Bank, kind: str, token: str) -> sqlite3.Row | None:
    return bank.store.row("SELECT * FROM tokens WHERE hash = ? AND kind = ?", _hash(token), kind)


def grant(bank: Bank, form: Mapping[str, str], at: int) -> dict[str, Any]:
    """The token endpoint. Raises :class:`OAuthError`."""
    right_id = compare_digest(form.get("client_id", "").encode(), client_id(bank).encode())
    right_secret = compare_digest(form.get("client_secret", "").encode(), client_secret(bank).encode())
    if not (right_id and right_secret):
        raise OAuthError("invalid_client", "Unknown client or wrong secret.", 401)
    kind = form.get("grant_type", "")
    # An error that ends a family of tokens is a change of state too, so it is raised only after the commit.
    with bank.store.transaction():
        result = _GRANTS.get(kind, _unsupported)(bank, form, at)
    if isinstance(result, OAuthError):
        raise result
    return result


def _unsupported(_bank: Bank, form: Mapping[str, str], _at: int) -> OAuthError:
    return OAuthError("unsupported_grant_type", f"{form.get('grant_type', '')[:40]!r} is not offered.")


def _credentials(bank: Bank, form: Mapping[str, str], at: int) -> dict[str, Any] | OAuthError:
    scope = form.get("scope", "payments")
    if scope != "payments":
        return OAuthError("invalid_scope", "Client credentials give the scope payments.")
    token = _issue(bank, "access", scope, at, ACCESS_MS)
    return {"access_token": token, "token_type": "Bearer", "expires_in": ACCESS_MS // 1000, "scope": scope}


def _code(bank: Bank, form: Mapping[str, str], at: int) -> dict[str, Any] | OAuthError:
    row = _find(bank, "code", form.get("code", ""))
    if row is None:
        return OAuthError("invalid_grant", "The code is not known.")
    if row["used"]:
        _end_family(bank, row["consent_id"])
        return OAuthError("invalid_grant", "The code was used before; what it gave has ended.")
    bank.store.run("UPDATE tokens SET used = 1 WHERE n = ?", row["n"])
    if row["expires_ms"] <= at:
        return OAuthError("invalid_grant", "The code is too old.")
    if form.get("redirect_uri", "") != row["redirect_uri"]:
        return OAuthError("invalid_grant", "redirect_uri is not the one of the authorization request.")
    digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    if row["challenge"] and urlsafe_b64encode(digest).decode().rstrip("=") != row["challenge"]:
        return OAuthError("invalid_grant", "code_verifier does not fit the challenge.")
    return _pair(bank, row["scope"], row["consent_id"], at)


def _refresh(bank: Bank, form: Mapping[str, str], at: int) -> dict[str, Any] | OAuthError:
    row = _find(bank, "refresh", form.get("refresh_token", ""))
    if row is None or row["expires_ms"] <= at:
        return OAuthError("invalid_grant", "The refresh token is not known or too old.")
    if row["used"]:
        _end_family(bank, row["consent_id"])
        return OAuthError("invalid_grant", "The refresh token was used before; its family has ended.")
    bank.store.run("UPDATE tokens SET used = 1 WHERE n = ?", row["n"])
    if consent(bank, row["consent_id"], at)["status"] != "Authorised":
        return OAuthError("invalid_grant", "The consent has ended.")
    return _pair(bank, row["scope"], row["consent_id"], at)


_GRANTS: Final = {"client_credentials": _credentials, "authorization_code": _code, "refresh_token": _refresh}


def _pair(bank: Bank, scope: str, consent_id: str, at: int) -> dict[str, Any]:
    return {
        "access_token": _issue(bank, "access", scope, at, ACCESS_MS, consent_id),
        "refresh_token": _issue(bank, "refresh", scope, at, REFRESH_MS, consent_id),
        "token_type": "Bearer",
        "expires_in": ACCESS_MS // 1000,
        "scope": scope,
    }


def _end_family(bank: Bank, consent_id: str) -> None:
    bank.store.run("UPDATE tokens SET expires_ms = 0, used = 1 WHERE consent_id = ? AND kind <> 'code'", consent_id)


def bearer(bank: Bank, header: str, scope: str, at: int) -> sqlite3.Row:
    """The token of an Authorization header, if it opens ``scope``. Raises :class:`Problem`."""
    kind, _, token = header.partition(" ")
    row = _find(bank, "access", token) if kind.lower() == "bearer" else None
    if row is None or row["expires_ms"] <= at:
        raise Problem(401, "invalid_token", "The access token is missing, unknown or too old.")
    if scope not in row["scope"].split():
        raise Problem(403, "insufficient_scope", f"The token does not open {scope}.")
    if row["consent_id"] and consent(bank, row["consent_id"], at)["status"] != "Authorised":
        raise Problem(403, "consent_ended", "The user's consent has ended; ask for a new one.")
    return row


def new_consent(bank: Bank, permissions: list[str], at: int) -> dict[str, Any]:
    """A consent that a user has still to give."""
    n = bank.store.value("SELECT coalesce(max(n), 0) + 1 FROM consents")
    id_ = f"consent-{bank.derived('consent', n)[:16]}"
    bank.store.run(
        "INSERT INTO consents (n, id, status, permissions, created_ms) VALUES (?, ?, 'AwaitingAuthorisation', ?, ?)",
        *(n, id_, " ".join(sorted(permissions)), at),
    )
    return consent(bank, id_, at)


def consent(bank: Bank, id_: str, at: int) -> dict[str, Any]:
    """A consent as it stands now. Raises :class:`Problem`."""
    row = bank.store.row("SELECT * FROM consents WHERE id = ?", id_)
    if row is None:
        raise Problem(404, "consent_not_found", "There is no such consent.")
    ended = row["status"] == "Authorised" and row["expires_ms"] <= at
    shown = {"id": id_, "status": "Expired" if ended else row["status"], "permissions": row["permissions"].split()}
    shown["created_at"] = iso_time(row["created_ms"])
    if row["authorised_ms"] is not None:
        shown |= {"authorised_at": iso_time(row["authorised_ms"]), "expires_at": iso_time(row["expires_ms"])}
    return shown


def revoke(bank: Bank, id_: str, at: int) -> None:
    """Ends a consent and all of its tokens."""
    with bank.store.transaction():
        consent(bank, id_, at)
        bank.store.run("UPDATE consents SET status = 'Revoked' WHERE id = ?", id_)
        _end_family(bank, id_)


def check_authorization(bank: Bank, query: Mapping[str, str], at: int) -> None:
    """Checks an authorization request. Raises :class:`Problem`: a doubtful one is never redirected."""
    if query.get("client_id") != client_id(bank):
        raise Problem(400, "invalid_client", "The client is not known.")
    if query.get("redirect_uri", "") not in redirect_uris(bank):
        raise Problem(400, "invalid_redirect_uri", "redirect_uri is not one of the client's registered ones.")
    if query.get("response_type") != "code" or query.get("code_challenge_method", "S256") != "S256":
        raise Problem(400, "invalid_request", "Only response_type=code, with S256 if with a challenge, is offered.")
    if not query.get("state"):
        raise Problem(400, "invalid_request", "state is missing.")
    if consent(bank, query.get("consent_id", ""), at)["status"] != "AwaitingAuthorisation":
        raise Problem(409, "consent_not_open", "The consent has been decided before.")


def decide(bank: Bank, query: Mapping[str, str], owner: str, *, approve: bool, at: int) -> dict[str, str]:
    """A user's answer to an authorization request: what goes back to the client's address. Raises :class:`Problem`."""
    check_authorization(bank, query, at)
    id_, state = query["consent_id"], query["state"]
    with bank.store.transaction():
        if not approve:
            bank.store.run("UPDATE consents SET status = 'Rejected' WHERE id = ?", id_)
            return {"error": "access_denied", "state": state}
        if bank.store.value("SELECT 1 FROM accounts WHERE kind = 'retail' AND owner = ?", owner) is None:
            raise Problem(404, "user_not_found", f"The bank has no user {owner[:80]!r}.")
        bank.store.run(
            "UPDATE consents SET status = 'Authorised', owner = ?, authorised_ms = ?, expires_ms = ? WHERE id = ?",
            *(owner, at, at + CONSENT_MS, id_),
        )
        scope = " ".join(consent(bank, id_, at)["permissions"])
        values = {"redirect_uri": query["redirect_uri"], "challenge": query.get("code_challenge", "")}
        return {"code": _issue(bank, "code", scope, at, CODE_MS, id_, **values), "state": state}


def redirect_uris(bank: Bank) -> list[str]:
    """The addresses to which users may be sent back."""
    return (bank.store.meta("redirect_uris") or "").split()


def set_redirect_uris(bank: Bank, uris: list[str]) -> list[str]:
    """Registers them. They replace the ones before."""
    bank.store.set_meta("redirect_uris", " ".join(uris))
    return redirect_uris(bank)


def account_holder(bank: Bank, token: sqlite3.Row) -> sqlite3.Row:
    """The consent behind a user's token."""
    found = bank.store.row("SELECT * FROM consents WHERE id = ?", token["consent_id"])
    if found is None:
        raise Problem(403, "insufficient_scope", "This needs a user's consent; client credentials do not do.")
    return found
