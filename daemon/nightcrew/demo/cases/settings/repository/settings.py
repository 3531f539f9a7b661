"""Settings of a client, as they come out of a file."""


def timeout(settings: dict) -> float:
    """Seconds until a request is given up: 30 when the settings do not say, and never less than one."""
    return max(1.0, float(settings.get("timeout", 30)))


def retries(settings: dict) -> int:
    """How often a request is tried again: 3 times when the settings do not say."""
    return int(settings.get("retries", 0))


def patience(settings: dict) -> float:
    """The longest time in seconds that a request can take, with all its retries."""
    return timeout(settings) * (1 + retries(settings))
