# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Aura Token
@license MIT
@notice An ERC-20 of 6 places whose supply follows fiat money held in trust: 1 token = 1,000,000 units = 1 USD or EUR.

Roles        The admin sets roles, and offers its own to another who has to accept.
             MINTER mints, BURNER burns what it holds itself, PAUSER pauses and resumes.
             Nobody can move or burn what another holds.
References   Every mint and every burn carries one; each can be used once for a mint and once for a burn, for ever.
             So what is sent twice, with whatever nonce, has its effect once.
Pause        Mint, burn and transfer, each on its own. Roles can be set while paused.

Invariants   totalSupply = sum of balances = sum of minted(ref) - sum of burned(ref).
             minted(ref) and burned(ref) never change once they are set.
"""
from ethereum.ercs import IERC20
from ethereum.ercs import IERC20Detailed

implements: IERC20
implements: IERC20Detailed


flag Role:
    MINTER
    BURNER
    PAUSER


flag Act:
    MINT
    BURN
    TRANSFER


event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    value: uint256


event Approval:
    owner: indexed(address)
    spender: indexed(address)
    value: uint256


event Minted:
    receiver: indexed(address)
    ref: indexed(bytes32)
    amount: uint256


event Burned:
    holder: indexed(address)
    ref: indexed(bytes32)
    amount: uint256


event PausedSet:
    acts: Act
    by: indexed(address)


event RolesSet:
    account: indexed(address)
    roles: Role


event AdminOffered:
    to: indexed(address)


event AdminSet:
    admin: indexed(address)


decimals: public(constant(uint8)) = 6

totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])

minted: public(HashMap[bytes32, uint256])
burned: public(HashMap[bytes32, uint256])

admin: public(address)
offered: public(address)
roles: public(HashMap[address, Role])
paused: public(Act)

name: public(String[32])
symbol: public(String[8])


@deploy
def __init__(name: String[32], symbol: String[8]):
    self.name = name
    self.symbol = symbol
    self.admin = msg.sender
    log AdminSet(admin=msg.sender)


@external
def mint(receiver: address, amount: uint256, ref: bytes32):
    """
    @notice Make tokens. Reverts when the reference was minted before.
    """
    assert Role.MINTER in self.roles[msg.sender], "not minter"
    assert Act.MINT not in self.paused, "mint paused"
    assert ref != empty(bytes32), "empty ref"
    assert self.minted[ref] == 0, "duplicate ref"
    assert amount > 0, "zero amount"
    self._check(receiver)
    self.minted[ref] = amount
    self.totalSupply += amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=empty(address), receiver=receiver, value=amount)
    log Minted(receiver=receiver, ref=ref, amount=amount)


@external
def burn(amount: uint256, ref: bytes32):
    """
    @notice Destroy tokens of the caller. Reverts when the reference was burned before.
    """
    assert Role.BURNER in self.roles[msg.sender], "not burner"
    assert Act.BURN not in self.paused, "burn paused"
    assert ref != empty(bytes32), "empty ref"
    assert self.burned[ref] == 0, "duplicate ref"
    assert amount > 0, "zero amount"
    assert self.balanceOf[msg.sender] >= amount, "insufficient balance"
    self.burned[ref] = amount
    self.balanceOf[msg.sender] -= amount
    self.totalSupply -= amount
    log Transfer(sender=msg.sender, receiver=empty(address), value=amount)
    log Burned(holder=msg.sender, ref=ref, amount=amount)


@external
def transfer(receiver: address, amount: uint256) -> bool:
    """
    @notice Move tokens of the caller.
    """
    self._move(msg.sender, receiver, amount)
    return True


@external
def transferFrom(sender: address, receiver: address, amount: uint256) -> bool:
    """
    @notice Move tokens that their owner approved to the caller. An approval of the greatest number is never used up.
    """
    allowed: uint256 = self.allowance[sender][msg.sender]
    if allowed != max_value(uint256):
        assert allowed >= amount, "insufficient allowance"
        self.allowance[sender][msg.sender] = allowed - amount
    self._move(sender, receiver, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    """
    @notice Let another move up to `amount` tokens of the caller.
    """
    self.allowance[msg.sender][spender] = amount
    log Approval(owner=msg.sender, spender=spender, value=amount)
    return True


@external
def setPaused(acts: Act):
    """
    @notice Pause exactly these acts and resume the others: MINT 1, BURN 2, TRANSFER 4, or their sum.
    """
    assert Role.PAUSER in self.roles[msg.sender], "not pauser"
    self.paused = acts
    log PausedSet(acts=acts, by=msg.sender)


@external
def setRoles(account: address, roles: Role):
    """
    @notice Give an account exactly these roles: MINTER 1, BURNER 2, PAUSER 4, or their sum; 0 takes all away.
    """
    assert msg.sender == self.admin, "not admin"
    assert account != empty(address), "zero address"
    self.roles[account] = roles
    log RolesSet(account=account, roles=roles)


@external
def offerAdmin(to: address):
    """
    @notice Offer the admin's place. It changes hands only when the other accepts; zero takes the offer back.
    """
    assert msg.sender == self.admin, "not admin"
    self.offered = to
    log AdminOffered(to=to)


@external
def acceptAdmin():
    """
    @notice Take the admin's place that was offered to the caller.
    """
    assert msg.sender == self.offered, "not offered"
    self.offered = empty(address)
    self.admin = msg.sender
    log AdminSet(admin=msg.sender)


@internal
def _move(sender: address, receiver: address, amount: uint256):
    assert Act.TRANSFER not in self.paused, "transfer paused"
    assert self.balanceOf[sender] >= amount, "insufficient balance"
    self._check(receiver)
    self.balanceOf[sender] -= amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=sender, receiver=receiver, value=amount)


@internal
def _check(receiver: address):
    # Tokens sent to either of these could never be redeemed.
    assert receiver not in [empty(address), self], "bad receiver"
