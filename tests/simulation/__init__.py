"""A deterministic simulation of the whole system: the real engine, machines and sink on a fake log and database.

One seed decides everything: what is asked, when each step runs, what fails. A run of one seed at one commit is the
same, byte for byte, wherever it runs: ``python -m tests.simulation --seed N``.
"""

from __future__ import annotations
