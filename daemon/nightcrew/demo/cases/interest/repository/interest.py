"""Savings."""


def growth(amount: float, rate: float, years: int) -> float:
    """What `amount` grows to when every year's interest bears interest itself; a rate of 0.05 is five percent."""
    return amount * (1 + rate) * years


def years_until(amount: float, goal: float, rate: float) -> int:
    """After how many whole years `amount` has grown to at least `goal`."""
    if rate <= 0:
        raise ValueError("it never grows")
    years = 0
    while growth(amount, rate, years) < goal:
        years += 1
    return years
