"""``@row("A05", "X20")`` on a test names the rows of the requirements list that it proves, where its name does not."""

from __future__ import annotations

import pytest

row = pytest.mark.row
