"""Problem documents (RFC 9457): the one shape of every failure, made from the catalogue of reasons.

The extension member `error` has LedgerBank's six fields (L41); on Aurix's own paths its `code` is the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict

import orjson
from aiohttp import web

from aura_stream.domain.reasons import REASONS, Invalid, Reason, Refused

PROBLEM_TYPE = "application/problem+json"
_RETRY_AFTER_PAUSE_S = 30


class FieldError(TypedDict):
    """One thing wrong with the request: where it is (`pointer` is RFC 6901 in a body, else the name) and what."""

    # Named as in the document; "in" is a keyword and cannot be a field of a class body.
    in_: str
    pointer: str
    code: str
    detail: str


class Problem(Exception):
    """A failure on its way to the client. `code` is a name of the catalogue; `members` are further members."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int = 0,
        errors: list[FieldError] | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        reason = REASONS[code]
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code, self.detail, self.errors = code, detail, errors or []
        self.status = status or reason.status
        self.headers = dict(headers or {})
        if self.status == 503 and retry_after_s is None:
            retry_after_s = 1
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)
        self.members = {name: value for name, value in (members or {}).items() if value}
        self.details: dict[str, str] = {}
        """What stands in `error.details` only."""
        self.is_coded_by_reason = False
        """Whether `error.code` is the reason, as Aurix has it, not the status."""

    def document(self, *, instance: str, request_id: str) -> dict[str, Any]:
        """The members of the problem document."""
        reason = REASONS[self.code]
        document: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": reason.title,
            "status": self.status,
            "code": self.code,
            "hint": reason.hint,
            "retry": reason.retry,
            "request_id": request_id,
            "error": self._error(reason),
        }
        if instance:
            document["instance"] = instance
        if self.detail:
            document["detail"] = self.detail
        if self.errors:
            document["errors"] = [
                {"in": error["in_"], "pointer": error["pointer"], "code": error["code"], "detail": error["detail"]}
                for error in self.errors
            ]
        return document | self.members

    def _error(self, reason: Reason) -> dict[str, Any]:
        details = {name: value for name, value in self.members.items() if not isinstance(value, list)} | self.details
        field = reason.field or next((error["pointer"].lstrip("/") for error in self.errors), "")
        return {
            "type": reason.error_type,
            "message": reason.title,
            "code": self.code if self.is_coded_by_reason else self.status,
            "reason": self.code,
            "details": details | ({"field": field} if field else {}),
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }

    def response(self, *, instance: str, request_id: str) -> web.Response:
        """The answer to the client."""
        body = orjson.dumps(self.document(instance=instance, request_id=request_id))
        return web.Response(status=self.status, body=body, content_type=PROBLEM_TYPE, headers=self.headers)


def put_off(detail: str, members: Mapping[str, Any]) -> Problem:
    """The 503 of new work that a pause holds back: pauses last longer than what is merely away."""
    return Problem("paused", detail, retry_after_s=_RETRY_AFTER_PAUSE_S, members=members)


def from_domain(error: Invalid | Refused, *, where: str = "body") -> Problem:
    """What the decoder or a rule said, as a problem."""
    if isinstance(error, Refused) or not error.pointer:
        return Problem(error.reason, error.detail)
    place = FieldError(in_=where, pointer=error.pointer, code=error.reason, detail=error.detail)
    return Problem(error.reason, error.detail, errors=[place])
