"""Sample people for a sandbox: those that the settings name, and the two of the tutorials. Never in live mode."""

from __future__ import annotations

from typing import Final

from aura_stream.domain.reasons import Refused
from aura_stream.identity import repository
from aura_stream.identity.audit import AuditLog, Origin
from aura_stream.identity.database import Database
from aura_stream.identity.logins import Logins, Registration
from aura_stream.identity.passwords import Passwords
from aura_stream.settings import Settings

TUTORIAL: Final = (("alice@example.com", "password123!", "user"), ("admin@example.com", "admin123!", "admin"))
"""E-mail address, password, role; in the tenant `default`. Known to everybody, and too short for a real admin."""


def samples(settings: Settings) -> list[Registration]:
    """Whom a sandbox has; nobody in live mode, and nobody of the demo tenant unless all five settings are there."""
    if settings.mode != "sandbox":
        return []
    found = []
    if settings.sample_logins and "default" in settings.tenants:
        found += [Registration("default", email, password, None, (role,)) for email, password, role in TUTORIAL]
    admin, admin_password = settings.demo_admin_email, settings.demo_admin_password.get_secret_value()
    user, user_password = settings.demo_user_email, settings.demo_user_password.get_secret_value()
    tenant = settings.demo_tenant
    if admin and admin_password and user and user_password and tenant:
        found += [
            # Of Aurix' one admin the tenants are too: here that takes an operator.
            Registration(tenant, admin, admin_password, None, ("admin", "operator")),
            Registration(tenant, user, user_password, None, ("user",)),
        ]
    return found


async def ensure(settings: Settings, database: Database, logins: Logins, passwords: Passwords, audit: AuditLog) -> None:
    """Makes the sample people that are not there; run again, it changes nothing. Their wallets open as everybody's."""
    for one in samples(settings):
        async with database.platform() as platform:
            await repository.ensure_tenant(platform, one.tenant, is_of_settings=one.tenant in settings.tenants)
        async with database.nobody() as connection:
            if await repository.logins(connection, logins.address_hash(one.email), one.tenant):
                continue
        # Past the rules for passwords: these are what the tutorials say, and play money is all that they open.
        hashed = await passwords.hash(one.password)
        try:
            async with database.tenant(one.tenant) as connection:
                user = await logins.insert_user(connection, one, hashed)
                subject = str(user["user_id"])
                await audit.done(connection, one.tenant, "system:samples", "user.create", subject, Origin())
        except Refused:
            continue  # another process was first
