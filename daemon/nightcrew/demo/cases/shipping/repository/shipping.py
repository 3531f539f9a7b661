"""What sending an order costs."""

FREE_FROM = 50.0
EXPRESS = 9.5


def weight_class(kilograms: float) -> str:
    """`letter` up to half a kilogram, `parcel` up to 30, `freight` above."""
    if kilograms <= 0.5:
        return "letter"
    return "parcel" if kilograms <= 30 else "freight"


def shipping(total: float, express: bool = False) -> float:
    """The price of shipping: free for orders of FREE_FROM or more, 4.90 below; express is added in any case."""
    price = 4.9
    if total > FREE_FROM:
        price = 0.0
    if express:
        price += EXPRESS
    return price
