"""A name that stands twice is found, also where nobody reads the body a second time (SEC53)."""

from __future__ import annotations

import json
from contextlib import suppress

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aura_stream.domain.strict_json import is_once, refuse_twice

names = st.sampled_from(["a", "b", 'a"', "", "\\", "ä"])
values: st.SearchStrategy[object] = (
    st.sampled_from(["", "x", '"', '"a":"x"', "\\", "\u0000"]) | st.none() | st.integers() | st.just({}) | st.just([""])
)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(names, values), max_size=5), st.booleans())
@example([("a", "x"), ("a", "x")], False)
@example([("a", ""), ("b", None), ("a", None)], False)
@example([("a", {}), ("a", "")], False)
def test_sec53_what_counts_as_once_holds_no_name_twice(members: list[tuple[str, object]], is_escaped: bool) -> None:
    shown = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=is_escaped)}" for name, value in members]
    text = "{" + ", ".join(shown) + "}"
    if is_escaped:
        text = text.replace('"a"', '"\\u0061"', 1)
    raw = text.encode()
    if is_once(raw, orjson.loads(raw)):
        refuse_twice(raw)
    else:
        with suppress(ValueError):
            refuse_twice(raw)
            assert any(
                not isinstance(value, str | None) or '"' in name + (value or "") for name, value in members
            )  # refused to say, and rightly so


def test_sec53_the_plain_command_is_not_read_twice() -> None:
    raw = b'{"from_account_id":"alice:EUR", "to_account_id":"bob:EUR", "amount":"1", "effective_at":null}'
    assert is_once(raw, orjson.loads(raw))
    again = raw[:-1] + b',"amount":"2"}'
    assert not is_once(again, orjson.loads(again))
    with pytest.raises(ValueError, match="more than once"):
        refuse_twice(again)
