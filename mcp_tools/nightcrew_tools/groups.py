"""Errors that task groups wrapped."""

from __future__ import annotations

from typing import cast


def unwrapped(error: BaseException) -> BaseException:
    """The error itself, out of the groups around it; a group of several stays as it is."""
    while isinstance(error, BaseExceptionGroup):
        inside = cast("BaseExceptionGroup[BaseException]", error).exceptions
        if len(inside) != 1:
            return cast("BaseException", error)
        error = inside[0]
    return error
