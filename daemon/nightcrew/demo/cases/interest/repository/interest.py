"""Savings."""


def growth(amount: float, rate: float, years: int) -> float:
    """What `amount` grows to when every year's interest bears interest itself; a rate of 0.05 is five percent."""
    return amount * (1 + rate) * years


def earned(amount: float, rate: float, years: int) -> float:
    """The interest alone, in whole cents."""
    if amount < 0:
        raise ValueError("debts do not earn interest")
    return round(growth(amount, rate, years) - amount, 2)
