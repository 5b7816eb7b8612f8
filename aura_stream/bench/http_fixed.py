"""The same application as `aura api` with nobody to verify: whatever the credential, it is one and the same server's.

A process of its own, with the settings of its environment:
`python -m aura_stream.bench.http_fixed TENANT`.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from aura_stream.identity.permissions import SERVICE, Principal
from aura_stream.settings import load_settings
from web.app import serve
from web.services import make_services


def main() -> None:
    """Serves until it is told to stop."""
    principal = Principal(kind="api_key", tenant=sys.argv[1], roles=(SERVICE,), key_id="0" * 16)

    async def fixed(credential: str) -> Principal:
        return principal

    settings = load_settings()
    services = make_services(settings)
    services.identity.authentication.principal = fixed  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, services, ready=lambda: print("ready", flush=True)))


if __name__ == "__main__":
    main()
