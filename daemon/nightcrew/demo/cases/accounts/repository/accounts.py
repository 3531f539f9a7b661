"""Accounts and transfers between them."""


class Overdrawn(Exception):
    """There is not enough money in the account."""


class Bank:
    """Balances by name, in cents."""

    def __init__(self):
        self.balances = {}

    def deposit(self, name: str, cents: int) -> None:
        """Put money into an account, which is opened when it is new."""
        self.balances[name] = self.balances.get(name, 0) + cents

    def transfer(self, source: str, target: str, cents: int) -> None:
        """Move money from one account to another; nothing happens when there is not enough of it."""
        if self.balances.get(source, 0) < cents:
            raise Overdrawn(f"{source} has less than {cents}")
        self.balances[source] -= cents
        self.deposit(source, cents)

    def total(self) -> int:
        """All the money in the bank."""
        return sum(self.balances.values())
