"""One town per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.connectors.town import Town


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """All roles, both banks and a chain."""
    found = Town(tmp_path_factory.mktemp("town"))
    try:
        found.open()
        yield found
    finally:
        found.close()
