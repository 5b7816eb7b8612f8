"""Compiles the contracts: `python -m aura_stream.chain.compile` writes `token.json` and `forwarder.json` after their
sources were changed.

The compiler is needed by developers only. A test compiles again and compares, so what is deployed is what can be read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final

_HERE: Final = Path(__file__).parent
CONTRACTS: Final = {"token": "Aura Token", "forwarder": "Aura Deposit Addresses"}


def artefact(contract: str) -> Path:
    """Where what was compiled lies."""
    return _HERE / f"{contract}.json"


def compiled(contract: str) -> dict[str, Any]:
    """The artefact of the source as it is now."""
    import vyper
    from vyper import compile_code

    path = _HERE / f"{contract}.vy"
    source = path.read_text(encoding="utf-8")
    output = compile_code(source, output_formats=["abi", "bytecode", "bytecode_runtime", "layout"])
    return {
        "name": CONTRACTS[contract],
        "source": path.name,
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "compiler": f"vyper {vyper.__long_version__}",
        "settings": {"evm_version": "cancun", "optimize": "gas"},
        "abi": output["abi"],
        "storage": {name: item["slot"] for name, item in output["layout"]["storage_layout"].items() if "slot" in item},
        "bytecode": output["bytecode"],
        "runtime": output["bytecode_runtime"],
    }


if __name__ == "__main__":
    for contract in CONTRACTS:
        artefact(contract).write_text(json.dumps(compiled(contract), indent=1) + "\n", encoding="utf-8")
        print(artefact(contract), file=sys.stderr)
