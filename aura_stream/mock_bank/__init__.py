"""The mock bank: an outside program that behaves, and misbehaves, like the banks behind ACH and SEPA.

It shares nothing with the ledger but HTTP: no module of the product is imported here, and none of them imports this one
(the import contract "The mock bank is an outside program"). It keeps real books, so whoever checks the product can
ask it what truly happened.
"""

from __future__ import annotations
