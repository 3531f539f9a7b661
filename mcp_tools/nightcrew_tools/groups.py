"""Errors that task groups wrapped."""

from __future__ import annotations

from typing import cast


def unwrapped(error: BaseException) -> BaseException:
    """The error itself, out of the groups around it; a group of several that say different things stays as it is."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inside = [unwrapped(one) for one in cast("BaseExceptionGroup[BaseException]", error).exceptions]
    alike = len({(type(one), str(one)) for one in inside}) == 1
    return inside[0] if alike else cast("BaseException", error)
