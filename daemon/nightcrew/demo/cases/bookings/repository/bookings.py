"""Bookings of a room, each a pair of start and end in hours."""


def merge(bookings: list) -> list:
    """Busy times: bookings that overlap or touch become one; sorted by start."""
    merged = []
    for start, end in sorted(bookings):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def busy_hours(bookings: list) -> int:
    """For how many hours the room is taken; hours that are booked twice count once."""
    return sum(end - start for start, end in merge(bookings))


def is_free(bookings: list, start: int, end: int) -> bool:
    """Whether nobody has booked any of the time from `start` to `end`."""
    return all(end <= taken or start >= free for taken, free in merge(bookings))
