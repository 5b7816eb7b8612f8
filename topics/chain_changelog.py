"""The changelog of the chain lanes' tables, as the ledger's."""

from __future__ import annotations

from dataclasses import replace

from topics.changelog import CHANGELOG

CHAIN_CHANGELOG = replace(CHANGELOG, name="aura.chain-lanes-changelog.v1")
