"""The chain: our token, signing, asking a node, and what has become of a transaction.

Primitives only. Which nonce is next, what is stored and when it is sent is decided by the lane that owns the key; here
nothing is remembered.
"""

from __future__ import annotations
