"""OAuth 2: tokens, consents, and what a user's consent opens (for bank sync: L55 to L59)."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.mock_bank.conftest import Answer, Client

BACK = "http://127.0.0.1:8080/callback?tenant=demo"
VERIFIER = "a-verifier-of-forty-three-characters-or-more-0123456789"
CHALLENGE = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
ALL = ["accounts", "balances", "transactions"]


async def ask(client: Client, permissions: list[str] | None = None) -> dict[str, str]:
    """A consent, and the authorization request for it; alice and bob are users of the bank."""
    accounts = [{"currency": "EUR", "balance": "120.00"}, {"currency": "USD", "type": "SAVINGS", "balance": "5.00"}]
    await client.operator("POST", "/users", {"user": "alice", "accounts": accounts})
    await client.operator("POST", "/users", {"user": "bob", "accounts": [{"currency": "EUR"}]})
    await client.operator("PUT", "/redirect-uris", {"redirect_uris": [BACK]})
    consent = await client.bank("POST", "/consents", {"permissions": permissions or ALL})
    assert (consent.status, consent.body["status"]) == (201, "AwaitingAuthorisation")
    return {
        "response_type": "code",
        "client_id": client.mine["client_id"],
        "redirect_uri": BACK,
        "state": "s t&te",
        "consent_id": consent.body["id"],
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }


async def decide(client: Client, query: dict[str, str], user: str = "alice", decision: str = "approve") -> Answer:
    """The user's answer."""
    form = query | {"user": user, "decision": decision}
    return await client.call("POST", f"{client.mine['url']}/oauth/authorize", data=form)


async def code_of(client: Client, query: dict[str, str]) -> str:
    """The code that the user's browser brings back."""
    answer = await decide(client, query)
    assert answer.status == 302, answer
    back = urlsplit(answer.headers["Location"])
    values = parse_qs(back.query)
    assert values["state"] == ["s t&te"] and values["tenant"] == ["demo"]
    return values["code"][0]


async def exchange(client: Client, code: str, **more: str) -> Answer:
    """Code for tokens."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": VERIFIER}
    return await client.grant(**(form | more))


async def data(client: Client, token: str, path: str, **query: Any) -> Answer:
    """A read of the user's data."""
    return await client.call("GET", f"{client.mine['url']}/v1/data{path}", token=token, params=query)


async def test_l55_code_becomes_tokens_that_open_the_users_accounts_only(client: Client) -> None:
    query = await ask(client)
    page = await client.call("GET", f"{client.mine['url']}/oauth/authorize", params=query)
    assert (
        page.status == 200 and b"Approve" in page.body and "frame-ancestors" in page.headers["Content-Security-Policy"]
    )

    tokens = await exchange(client, await code_of(client, query))

    assert (tokens.status, tokens.body["token_type"], tokens.body["expires_in"]) == (200, "Bearer", 3600)
    access = tokens.body["access_token"]
    accounts = (await data(client, access, "/accounts")).body["accounts"]
    assert [(one["id"], one["currency"], one["type"]) for one in accounts] == [
        ("alice-1", "EUR", "CHECKING"),
        ("alice-2", "USD", "SAVINGS"),
    ]
    assert (await data(client, access, "/accounts/alice-1/balance")).body["balance"] == "120.00"
    assert (await data(client, access, "/accounts/bob-1/balance")).status == 404
    assert (await data(client, access, "/accounts/trust-eur/balance")).status == 404
    assert (await data(client, client.token, "/accounts")).status == 403
    client.token = access
    assert (await client.bank("GET", "/accounts")).status == 403


async def test_l55_code_is_used_once_soon_by_whoever_asked(client: Client) -> None:
    code = await code_of(client, await ask(client))
    assert (await exchange(client, code, code_verifier="another")).body["error"] == "invalid_grant"
    assert (await exchange(client, code)).status == 400  # the wrong try has used it up

    code = await code_of(client, await ask(client))
    tokens = (await exchange(client, code)).body
    assert (await exchange(client, code)).body["error"] == "invalid_grant"
    assert (await data(client, tokens["access_token"], "/accounts")).status == 401  # the second use ended it

    code = await code_of(client, await ask(client))
    assert (await exchange(client, code, redirect_uri="http://127.0.0.1/other")).status == 400
    code = await code_of(client, await ask(client))
    await client.pass_time(60)
    assert (await exchange(client, code)).status == 400


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"client_id": "other"}, "invalid_client"),
        ({"redirect_uri": "https://evil.test/"}, "invalid_redirect_uri"),
        ({"redirect_uri": BACK + "x"}, "invalid_redirect_uri"),
        ({"response_type": "token"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"state": ""}, "invalid_request"),
        ({"consent_id": "none"}, "consent_not_found"),
    ],
)
async def test_l55_doubtful_request_is_never_redirected(client: Client, change: dict[str, str], code: str) -> None:
    query = await ask(client) | change
    page = await client.call("GET", f"{client.mine['url']}/oauth/authorize", params=query)
    answer = await decide(client, query)

    assert (page.body["code"], answer.body["code"]) == (code, code)
    assert "Location" not in answer.headers


async def test_l55_user_says_no(client: Client) -> None:
    query = await ask(client)
    answer = await decide(client, query, decision="deny")

    assert parse_qs(urlsplit(answer.headers["Location"]).query)["error"] == ["access_denied"]
    assert (await client.bank("GET", f"/consents/{query['consent_id']}")).body["status"] == "Rejected"
    assert (await decide(client, query)).status == 409


async def test_l56_refresh_token_is_used_once_and_a_second_use_ends_the_family(client: Client) -> None:
    first = (await exchange(client, await code_of(client, await ask(client)))).body
    await client.pass_time(3_600)
    assert (await data(client, first["access_token"], "/accounts")).status == 401

    second = await client.grant(grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert second.status == 200
    assert (await data(client, second.body["access_token"], "/accounts")).status == 200
    stolen = await client.grant(grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert stolen.body["error"] == "invalid_grant"
    assert (await data(client, second.body["access_token"], "/accounts")).status == 401
    assert (await client.grant(grant_type="refresh_token", refresh_token=second.body["refresh_token"])).status == 400


async def test_l56_consent_ends_after_ninety_days_or_when_revoked(client: Client) -> None:
    query = await ask(client)
    tokens = (await exchange(client, await code_of(client, query))).body
    path = f"/consents/{query['consent_id']}"
    for _ in range(3):
        await client.pass_time(days=29)
        renewed = await client.grant(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert renewed.status == 200
        tokens = renewed.body
    await client.pass_time(days=3)
    assert (await client.bank("GET", path)).body["status"] == "Expired"
    assert (await client.grant(grant_type="refresh_token", refresh_token=tokens["refresh_token"])).status == 400

    query = await ask(client)
    tokens = (await exchange(client, await code_of(client, query))).body
    await client.login()
    assert (await client.bank("DELETE", f"/consents/{query['consent_id']}")).status == 204
    assert (await data(client, tokens["access_token"], "/accounts")).status == 401


async def test_l57_permissions_are_kept_apart(client: Client) -> None:
    tokens = (await exchange(client, await code_of(client, await ask(client, ["balances"])))).body

    assert (await data(client, tokens["access_token"], "/accounts/alice-1/balance")).status == 200
    assert (await data(client, tokens["access_token"], "/accounts")).status == 403
    assert (await data(client, tokens["access_token"], "/accounts/alice-1/transactions")).status == 403


async def test_l58_transactions_are_paged_and_old_ones_close_after_five_minutes(client: Client) -> None:
    query = await ask(client)
    await client.pass_time(days=100)
    await client.login()
    await client.fund("100.00")
    listed = await client.operator("POST", "/users", {"user": "alice", "accounts": [{"currency": "EUR"}]})
    iban = listed["accounts"][0]["iban"]
    await client.sepa("pay-1", "10.00", instant=True, creditor={"name": "Alice", "iban": iban}, remittance="Rent")
    await client.pass_time(10)
    tokens = (await exchange(client, await code_of(client, query))).body

    async def page(after: int = 0, limit: int = 100) -> Any:
        path = "/accounts/alice-1/transactions"
        return (await data(client, tokens["access_token"], path, after=after, limit=limit)).body

    full = (await page())["transactions"]
    assert [(one["amount"], one["description"]) for one in full] == [("120.00", "Opening balance"), ("10.00", "Rent")]
    first = await page(limit=1)
    assert first["transactions"] == full[:1]
    assert (await page(after=first["after"]))["transactions"] == full[1:]
    await client.pass_time(301)
    assert (await page())["transactions"] == full[1:]


async def test_wrong_secret_and_unknown_grants_are_refused_as_the_rfc_says(client: Client) -> None:
    wrong = await client.grant(grant_type="client_credentials", client_secret="wrong")
    assert (wrong.status, wrong.body["error"]) == (401, "invalid_client")
    password = await client.grant(grant_type="password")
    assert (password.status, password.body["error"]) == (400, "unsupported_grant_type")
    scope = await client.grant(grant_type="client_credentials", scope="accounts")
    assert scope.body["error"] == "invalid_scope"
    assert (await client.call("GET", f"{client.mine['url']}/v1/accounts")).status == 401
    await client.pass_time(3_600)
    assert (await client.call("GET", f"{client.mine['url']}/v1/accounts", token=client.token)).status == 401


async def test_l56_refresh_token_is_lost_in_an_error_and_the_user_must_be_asked_again(client: Client) -> None:
    first = (await exchange(client, await code_of(client, await ask(client)))).body
    await client.operator("PUT", "/profile", {"rates": {"token_error_before": 10_000}})
    before = await client.grant(grant_type="refresh_token", refresh_token=first["refresh_token"])
    await client.operator("PUT", "/profile", {"rates": {"token_error_after": 10_000}})
    after = await client.grant(grant_type="refresh_token", refresh_token=first["refresh_token"])
    await client.operator("PUT", "/profile", {"rates": {}})
    again = await client.grant(grant_type="refresh_token", refresh_token=first["refresh_token"])

    assert (before.status, after.status, again.status) == (503, 500, 400)
    assert again.body["error"] == "invalid_grant"


@pytest.mark.parametrize(("fault", "status"), [("data_error", 503), ("data_limited", 429)])
async def test_l79_account_data_fails_for_a_while(client: Client, fault: str, status: int) -> None:
    tokens = (await exchange(client, await code_of(client, await ask(client)))).body
    await client.operator("PUT", "/profile", {"rates": {fault: 5_000}})
    answers = [await data(client, tokens["access_token"], "/accounts") for _ in range(20)]

    assert {answer.status for answer in answers} == {200, status}
