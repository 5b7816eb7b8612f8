"""``python -m aura_stream.cli`` is ``aura``."""

from __future__ import annotations

from aura_stream.cli import main

if __name__ == "__main__":
    main()
