"""Times of day as HH:MM."""


def minutes(time: str) -> int:
    """Minutes since midnight."""
    hour, minute = time.split(":")
    return int(hour) * 60 + int(minute)


def later(time: str, by: int) -> str:
    """The time of day `by` minutes after `time`; after 23:59 comes 00:00."""
    total = minutes(time) + by
    return f"{total // 60:02}:{total % 60:02}"


def between(start: str, end: str) -> int:
    """Minutes from `start` to `end`, which is on the next day when it is earlier than `start`."""
    return (minutes(end) - minutes(start)) % (24 * 60)
