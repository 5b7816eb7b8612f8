"""Lanes: one per bank and one per minter key. Pure decisions; the calls are made elsewhere."""
