"""Tables: typed state of the partition that is being handled, kept in its store and its changelog.

    BALANCES = Table("balances", Account, prefix=b"a")

    account = BALANCES.get(key)              # inside an agent only
    BALANCES.set(key, replace(account, available=0))

Values are immutable; a change is a new value. Keys are bytes, ordered as bytes. A table can be used only while the
engine hands a record to an agent: everything else raises, because it would be lost or seen too early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import msgspec

from aura_stream.engine.errors import OutsideUnit, Oversize

if TYPE_CHECKING:
    from aura_stream.engine.unit import Unit

V = TypeVar("V")

VALUE_MAX = 512 * 1024  # bytes of one encoded value; a changelog record must fit into a broker's message


class Table(Generic[V]):
    """A named map from bytes to values of one type, one slice of it per partition.

    `prefix` separates tables inside a store and must be unique and never change. `expires`, where given, reads the
    time in ms at which a value ceases to be (0 = never): from then on it is not found, and it is deleted.
    """

    by_prefix: ClassVar[dict[bytes, Table[Any]]] = {}

    def __init__(
        self, name: str, value_type: type[V], *, prefix: bytes, expires: Callable[[V], int] | None = None
    ) -> None:
        if len(prefix) != 1 or prefix[0] >= 0xF0 or prefix in Table.by_prefix:
            raise ValueError(f"table {name}: prefix {prefix!r} must be one byte below 0xF0 that no other table has")
        Table.by_prefix[prefix] = self
        self.name, self.value_type, self.prefix, self.expires = name, value_type, prefix, expires
        self.encode: Callable[[V], bytes] = msgspec.json.Encoder().encode
        self.decode: Callable[[bytes], V] = msgspec.json.Decoder(value_type).decode

    def get(self, key: bytes) -> V | None:
        """The value of `key`, or None. Writes of this unit of work are seen."""
        unit: Unit = _current[0] or _unit()
        full = self.prefix + key
        value: V | None = unit.young.get(full) or unit.read(self, full)
        if self.expires is not None and value is not None and 0 < self.expires(value) <= unit.at:
            return None
        return value

    def set(self, key: bytes, value: V) -> None:
        """Sets the value of `key`; it takes effect with the unit of work. Raises :class:`Oversize` above 512 KiB."""
        unit: Unit = _current[0] or _unit()
        encoded = self.encode(value)
        if len(encoded) > VALUE_MAX:
            raise Oversize(f"a value of table {self.name}", len(encoded), VALUE_MAX)
        full = self.prefix + key
        unit.write(full, value, encoded)
        if self.expires is not None and (due := self.expires(value)):
            unit.expire(full, due)

    def delete(self, key: bytes) -> None:
        """Removes `key`. What carries money is never deleted: it ends with a terminal value."""
        _unit().write(self.prefix + key, None, None)

    def full(self, key: bytes) -> bytes:
        """A key as it stands in the store and the changelog."""
        return self.prefix + key

    def range(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, V]]:
        """Pairs with start <= key < stop in the order of their keys; without `stop` to the table's end."""
        unit = _unit()
        last = self.prefix + stop if stop is not None else after(self.prefix)
        for full, encoded in unit.scan(self.prefix + start, last):
            value = self.decode(encoded)
            if self.expires is None or not 0 < self.expires(value) <= unit.at:
                yield full[len(self.prefix) :], value


def after(prefix: bytes) -> bytes:
    """The first key behind all keys that begin with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


# The unit of work that is being computed. Computing never awaits, so one slot per process is enough and costs nothing.
_current: list[Any] = [None]


def _unit() -> Unit:
    unit: Unit | None = _current[0]
    if unit is None:
        raise OutsideUnit("a table can be used only inside a unit of work, in code that the engine calls with a record")
    return unit


def enter(unit: Unit | None) -> None:
    """Opens the tables for `unit`, or closes them (None). For the engine only."""
    _current[0] = unit
