"""Native money of a minter's key: a transaction of nobody, of type `gas`, that is over when it begins.

    (a look at the chain) ─▶ received    (completed: money for gas has come to the key)
                          ─▶ paid        (completed: gas of what is no customer's mint, burn or sweep)
                          ─▶ corrected   (completed: a mint has landed again in another block, for another price)

    received     custody:native / equity:opening
    paid         expense:gas / custody:native
    corrected    custody:native / expense:gas, where it was cheaper the second time (dearer: `paid`)

The gas of mints, burns and sweeps is in the journals of their deposits and withdrawals. The lane tells the rest once it
is final: pauses of the contract, the contract of the deposit addresses, cancelled nonces, whatever was mined and did
nothing. With all of it, custody of native money is what the chain says that our keys have, at finality and at rest.

Invariants
    GS1  what a block has taken is booked once: ids are derived from the chain's transaction, or from the sum received
"""

from __future__ import annotations

from typing import Final

from aura_stream.domain.settlement import NATIVE, Settled, gas_paid, journal, moved
from aura_stream.domain.signals import NativeMoved
from aura_stream.domain.state import COMPLETED, Settlement, Transaction

GAS: Final = "gas"
"""The type of these transactions."""
RECEIVED: Final = "received"
"""The step of a top-up; the others are what the gas was paid for."""


def owner_of(news: NativeMoved) -> str:
    """Whose it is: the lane's."""
    return f"~chain:{news.chain}:{news.token}"


def begin(news: NativeMoved, at: int) -> Settled:
    """The one step, in the unit that hears of it."""
    amount = abs(news.amount)
    s = Settlement("", "", news.chain, NATIVE, "", "", "", "", amount, 0, entered_at=at, hash=news.hash, note=news.step)
    if news.step == RECEIVED:
        state = RECEIVED
        account = f"@custody:chain:{news.chain}:{NATIVE}"
        journals = journal(NATIVE, moved(account, f"@equity:opening:{NATIVE}", news.amount))
    else:
        state = "paid" if news.amount > 0 else "corrected"
        journals = gas_paid(s, news.amount)
    t = Transaction(
        *(GAS, news.tenant, owner_of(news), COMPLETED, state, NATIVE, amount, "", "", news.key, at),
    )
    return Settled(f"{GAS}.{state}", t, {}, (), at, settlement=s, journals=journals)
