"""What is wrong with a request, as a problem document (RFC 9457)."""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """Answered with ``status`` and a document; ``code`` is a stable name, ``extra`` further members."""

    def __init__(self, status: int, code: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.extra = extra

    def document(self) -> dict[str, Any]:
        """The document."""
        title = self.code.replace("_", " ").capitalize()
        return {"title": title, "status": self.status, "code": self.code, "detail": self.detail, **self.extra}
