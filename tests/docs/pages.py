"""What the documentation says, read from its pages: blocks that are run, names of tests, links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

_RUN = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"```.*?^```", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """All pages."""
    return [ROOT / name for name in OURS] + sorted((ROOT / "docs").rglob("*.md"))


def name_of(page: Path) -> str:
    """Its path in the repository."""
    return str(page.relative_to(ROOT))


def to_run(page: str, language: str) -> list[str]:
    """The blocks of a page that are marked as to be run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for found, block in _RUN.findall(text) if found == language]


def named_tests(page: Path) -> list[tuple[str, str]]:
    """The tests that a page names: file and function or class."""
    return _TEST.findall(page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of links inside the repository."""
    found = [target for target, _ in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))]
    return [target for target in found if target and "://" not in target and not target.startswith("mailto:")]
