"""Accounts and transfers between them."""

from collections import Counter


class Overdrawn(Exception):
    """There is not enough money in the account."""


class Bank:
    """Balances by name, in cents."""

    def __init__(self):
        self.balances = Counter()

    def deposit(self, name: str, cents: int) -> None:
        """Put money into an account, which is opened when it is new."""
        self.balances[name] += cents

    def transfer(self, source: str, target: str, cents: int) -> None:
        """Move money from one account to another; nothing happens when there is not enough of it."""
        if self.balances[source] < cents:
            raise Overdrawn(f"{source} has less than {cents}")
        self.balances[source] -= cents
        self.deposit(source, cents)

    def total(self) -> int:
        """All the money in the bank."""
        return sum(self.balances.values())
