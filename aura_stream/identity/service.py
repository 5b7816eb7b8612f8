"""The common contract of services that keep a kind of thing whole: create, get, update, delete, under one name.

What fails in one of them says where: a refusal carries the name into the log's line of its request, anything else into
its traceback.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

from aura_stream.domain.reasons import Refused

P = ParamSpec("P")
T = TypeVar("T")

OPERATIONS: Final = ("create", "get", "update", "delete")


class Service:
    """The base of such a service. A class without one of the four, or without a name, cannot be made."""

    service_name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        missing = [name for name in OPERATIONS if name not in vars(cls)]
        if missing or not cls.service_name:
            raise TypeError(f"{cls.__name__} lacks {', '.join(missing) or 'a service_name'}")
        for name in OPERATIONS:
            setattr(cls, name, _in_context(f"{cls.service_name}.{name}", getattr(cls, name)))


def _in_context(name: str, work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    @functools.wraps(work)
    async def run(*arguments: P.args, **options: P.kwargs) -> Any:
        try:
            return await work(*arguments, **options)
        except Refused as refused:
            refused.context = refused.context or name
            raise
        except Exception as error:
            error.add_note(f"in the service {name}")
            raise

    return run
