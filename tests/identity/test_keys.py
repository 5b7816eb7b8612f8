"""The keys that seal personal data: wrapped by a secret that the database does not have, and changed without a stop."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import asyncpg
import pytest
from pydantic import SecretStr

from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.keychain import keys_of, rotate, wrappings
from aura_stream.identity.sealing import Cipher, Keys, Unsealable, Wrapping, subject_place
from aura_stream.settings import SettingsError, load_settings
from tests.identity.conftest import OPERATOR, StartNode, address, login, register, with_settings
from tests.web.conftest import Backend, environment

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]


async def _persons_key(connection: Owner, user_id: str) -> bytes | None:
    key: bytes | None = await connection.fetchval(
        "SELECT key_sealed FROM identity.subject_keys WHERE user_id = $1", uuid.UUID(user_id)
    )
    return key


async def _stored(connection: Owner) -> tuple[int, bytes]:
    row = await connection.fetchrow("SELECT generation, keys_sealed FROM identity.platform_keys")
    assert row is not None
    return row["generation"], row["keys_sealed"]


async def test_sec49_a_copy_of_before_an_erasure_is_unreadable_once_the_keys_are_rotated(
    backend: Backend, start_node: StartNode, owner: Owner
) -> None:
    first = backend.settings.identity_secret.get_secret_value()
    second = SecretStr(os.urandom(32).hex())
    node, other = await start_node(identity_secret_next=second), await start_node(identity_secret_next=second)
    ada, bert = await register(node), await register(node)

    # What a copy of the database has: both persons' keys, the wrapped keys, and all that is sealed.
    copy_generation, copy_wrapped = await _stored(owner)
    copies = {one.id: await _persons_key(owner, one.id) for one in (ada, bert)}
    emails = {
        one.id: await owner.fetchval("SELECT email_sealed FROM identity.users WHERE user_id = $1", uuid.UUID(one.id))
        for one in (ada, bert)
    }
    before = Wrapping(first).opened(copy_generation, copy_wrapped)

    def read(keys: Keys, user_id: str) -> str:
        key = copies[user_id]
        assert key is not None
        person = Cipher(Cipher(keys.subjects).open(key, subject_place(user_id)))
        return person.open(emails[user_id], f"users/{user_id}/email").decode()

    assert read(before, ada.id) == ada.email  # as long as the old secret is there

    async with owner.transaction():
        await owner.execute("SELECT set_config('aura.tenant', 'default', true)")
        assert await owner.fetchval("SELECT identity.erase($1)", uuid.UUID(ada.id))
    settings = with_settings(backend.settings, identity_secret_next=second)
    generation, persons = await rotate(owner, settings)
    assert generation == copy_generation + 1 and persons >= 1

    # Both nodes go on without a restart: what was there is read, new persons are made, at either.
    async with asyncio.timeout(20):
        while True:
            if {one.services.identity.sealer.keys.generation for one in (node, other)} == {generation}:
                break
            await asyncio.sleep(0.02)
    for one in (node, other):
        assert (await one.call("GET", "/v1/users/me", token=bert.access))[1]["email"] == bert.email
        assert (await login(one, bert.email)).email == bert.email
        assert (await register(one)).customer

    # The old secret is destroyed. Who has the copy, the live database and the new secret opens nobody in the copy.
    _, wrapped = await _stored(owner)
    now = Wrapping(second.get_secret_value()).opened(generation, wrapped)
    for person in (ada, bert):
        with pytest.raises(Unsealable):
            read(now, person.id)
    with pytest.raises(Unsealable):
        Wrapping(second.get_secret_value()).opened(copy_generation, copy_wrapped)
    with pytest.raises(Unsealable):
        Wrapping(first).opened(generation, wrapped)

    # A process that knows the new secret only starts; one that knows the old one only lets nobody in. And back, for
    # the tests after this one.
    after = await start_node(identity_secret=second)
    assert (await login(after, bert.email)).email == bert.email
    with pytest.raises(IdentityUnavailable, match="AURA_IDENTITY_SECRET"):
        await keys_of(owner, wrappings(backend.settings))
    back = with_settings(backend.settings, identity_secret=second, identity_secret_next=SecretStr(first))
    assert (await rotate(owner, back))[0] == generation + 1


async def test_sec49_who_has_not_heard_of_new_keys_seals_nothing_under_the_old_ones(
    backend: Backend, start_node: StartNode, owner: Owner
) -> None:
    node = await start_node()
    await owner.execute("UPDATE identity.platform_keys SET generation = generation + 1")
    try:
        body = {"tenant_code": "default", "email": address(), "password": "correct horse battery"}
        assert await node.code("POST", "/v1/auth/register", body) == (503, "service_unavailable")
    finally:
        await owner.execute("UPDATE identity.platform_keys SET generation = generation - 1")
    assert (await node.call("POST", "/v1/auth/register", body))[0] == 201


async def test_sec49_rotation_does_not_bring_back_what_was_destroyed(
    backend: Backend, start_node: StartNode, owner: Owner
) -> None:
    node = await start_node()
    ada = await register(node)
    _, operator, _ = await node.call("GET", "/v1/users", token=OPERATOR)
    assert operator["items"]
    async with owner.transaction():
        await owner.execute("SELECT set_config('aura.tenant', 'default', true)")
        assert await owner.fetchval("SELECT identity.erase($1)", uuid.UUID(ada.id))
    command = [sys.executable, "-m", "aura_stream.cli", "keys", "rotate", "--yes", "--json"]
    secret = backend.settings.identity_secret.get_secret_value()
    named = environment("keys", backend.settings) | {"AURA_IDENTITY_SECRET": secret}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=os.environ | named | more, capture_output=True, text=True, timeout=60)

    refused = await asyncio.to_thread(run)
    assert refused.returncode == 3 and "AURA_IDENTITY_SECRET_NEXT" in refused.stderr
    done = await asyncio.to_thread(run, AURA_IDENTITY_SECRET_NEXT=secret)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    generation = said["generation"]
    # The one API process that lives has heard of it.
    assert said["processes_behind"] == 0 and node.services.identity.sealer.keys.generation == generation
    assert await _persons_key(owner, ada.id) is None
    with pytest.raises(asyncpg.RestrictViolationError):
        await owner.execute(
            "UPDATE identity.subject_keys SET key_sealed = 'x', generation = $2 WHERE user_id = $1",
            uuid.UUID(ada.id),
            generation + 1,
        )


@pytest.mark.parametrize("secret", ["secret" * 12, "short", "known-to-everybody-and-good-for-play-money-only" * 2])
def test_sec44_sec49_a_weak_next_secret_does_not_start(secret: str) -> None:
    good = bytes(range(32)).hex()
    with pytest.raises(SettingsError, match="AURA_IDENTITY_SECRET_NEXT"):
        load_settings(mode="live", api_key=bytes(range(16)).hex(), identity_secret=good, identity_secret_next=secret)
