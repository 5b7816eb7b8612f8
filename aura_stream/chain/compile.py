"""Compiles the token: `python -m aura_stream.chain.compile` writes `token.json` after `token.vy` was changed.

The compiler is needed by developers only. A test compiles again and compares, so what is deployed is what can be read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final

SOURCE: Final = Path(__file__).with_name("token.vy")
ARTEFACT: Final = Path(__file__).with_name("token.json")


def compiled() -> dict[str, Any]:
    """The artefact of the source as it is now."""
    import vyper
    from vyper import compile_code

    source = SOURCE.read_text(encoding="utf-8")
    output = compile_code(source, output_formats=["abi", "bytecode", "bytecode_runtime", "layout"])
    return {
        "name": "Aura Dollar",
        "source": SOURCE.name,
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "compiler": f"vyper {vyper.__long_version__}",
        "settings": {"evm_version": "cancun", "optimize": "gas"},
        "abi": output["abi"],
        "storage": {name: item["slot"] for name, item in output["layout"]["storage_layout"].items() if "slot" in item},
        "bytecode": output["bytecode"],
        "runtime": output["bytecode_runtime"],
    }


if __name__ == "__main__":
    ARTEFACT.write_text(json.dumps(compiled(), indent=1) + "\n", encoding="utf-8")
    print(ARTEFACT, file=sys.stderr)
