"""Reconciliation at the edge: statements from files and banks, the chain's supply, the tables, one run of it all.

What is decided is decided in `aura_stream.domain.reconciliation`, which is pure.
"""
