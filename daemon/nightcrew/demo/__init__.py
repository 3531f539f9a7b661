"""Small repositories with one real bug each, for `nightcrew demo`."""

from nightcrew.demo.case import Case, list_cases, make_repository

__all__ = ["Case", "list_cases", "make_repository"]
