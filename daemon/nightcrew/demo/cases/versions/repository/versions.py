"""Version numbers such as 1.10.2."""


def parts(version: str) -> tuple:
    """The numbers of a version, so that versions compare as people expect: 1.10 is newer than 1.9."""
    return tuple(part for part in version.strip().split("."))


def newest(versions: list) -> str:
    """The newest of several versions."""
    return max(versions, key=parts)


def satisfies(version: str, at_least: str) -> bool:
    """Whether `version` is `at_least` or newer."""
    return parts(version) >= parts(at_least)
