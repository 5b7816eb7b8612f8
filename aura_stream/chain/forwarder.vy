# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Aura Deposit Addresses
@license MIT
@notice Makes an address per account where its tokens come back, and moves what has come there to the custody address.

An address is that of a proxy of this contract, by CREATE2 with the account's salt: it is known before anything is there,
and the proxy is made by its first sweep. Nothing but `forward` can ever be done by it.

Invariants   Only the custody address sweeps, and tokens go nowhere but there.
             A sweep moves exactly the amount, or reverts.
"""
from ethereum.ercs import IERC20


interface Proxy:
    def forward(amount: uint256): nonpayable


TOKEN: public(immutable(address))
CUSTODY: public(immutable(address))
MAKER: immutable(address)

made: public(HashMap[bytes32, address])


@deploy
def __init__(token: address):
    TOKEN = token
    CUSTODY = msg.sender
    MAKER = self


@external
def sweep(salt: bytes32, amount: uint256):
    """
    @notice Move tokens from the address of a salt to the custody address.
    """
    assert msg.sender == CUSTODY, "not custody"
    proxy: address = self.made[salt]
    if proxy == empty(address):
        proxy = create_minimal_proxy_to(MAKER, salt=salt)
        self.made[salt] = proxy
    extcall Proxy(proxy).forward(amount)


@external
def forward(amount: uint256):
    """
    @notice Of a proxy: move tokens that it holds. A token that has no balance there reverts.
    """
    assert msg.sender == MAKER, "not maker"
    assert extcall IERC20(TOKEN).transfer(CUSTODY, amount), "not moved"
