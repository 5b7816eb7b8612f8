"""What happened to logins and keys. No personal data: people are named by ids that say nothing.

At least once: a record whose acknowledgement was lost comes again with the same id.
"""

from __future__ import annotations

from aura_stream.engine.topics import Topic

AUTH_EVENTS = Topic(
    "aura.auth-events.v1",
    key="<tenant>/<customer>, UTF-8; <tenant>/ where it is about no customer",
    value="one event, JSON",
    schema="auth-event.json",
)
