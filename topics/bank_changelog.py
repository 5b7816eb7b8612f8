"""The changelog of the bank lanes' tables, as the ledger's."""

from __future__ import annotations

from dataclasses import replace

from topics.changelog import CHANGELOG

BANK_CHANGELOG = replace(CHANGELOG, name="aura.bank-lanes-changelog.v1")
