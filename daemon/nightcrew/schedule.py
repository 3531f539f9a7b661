"""When a scheduled task runs: five cron fields or a few words, by the clock on this machine's wall. Pure but for that.

A time that the clocks skip in spring comes an hour later; one that comes twice in autumn counts once. Where the hour is
`*`, real hours count: none is left out, and none is too many.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

HINT = "such as `daily 03:00`, `weekly mon 03:00`, `hourly`, or five cron fields `30 2 * * 1-5`"
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = tuple(name.lower() for name in calendar.month_abbr[1:])
_HORIZON = 366 * 9
"""Days to look ahead: a 29th of February may be eight years away."""
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_FIELD = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d{1,3}))?", re.ASCII)


@dataclass(frozen=True)
class Schedule:
    """Times that come again and again. Slots are instants in UTC, on whole minutes."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    """Of the month."""
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    any_hour: bool
    any_day: bool
    """Of the month; where neither this nor `any_weekday` holds, either of the two is enough, as in cron."""
    any_weekday: bool

    def after(self, moment: datetime) -> datetime:
        """The first slot later than a moment, which has a time zone. Raises `ValueError` when there is none."""
        start = moment.astimezone().date() - timedelta(days=1)
        for number in range(_HORIZON):
            for slot in self._slots(start + timedelta(days=number)):
                if slot > moment:
                    return slot
        raise ValueError("there is no such day")

    def last(self, moment: datetime) -> datetime:
        """The latest slot that is not later than a moment. Raises `ValueError` when there is none."""
        start = moment.astimezone().date() + timedelta(days=1)
        for number in range(_HORIZON):
            for slot in reversed(self._slots(start - timedelta(days=number))):
                if slot <= moment:
                    return slot
        raise ValueError("there is no such day")

    def _slots(self, day: date) -> list[datetime]:
        """Slots of a local day, in order."""
        if day.month not in self.months or not self._is_day(day):
            return []
        times = ((hour, minute) for hour in self.hours for minute in self.minutes)
        return sorted({slot for hour, minute in times for slot in self._instants(day, hour, minute)})

    def _instants(self, day: date, hour: int, minute: int) -> Iterator[datetime]:
        wall = datetime.combine(day, time(hour, minute))
        for fold in (0, 1) if self.any_hour else (0,):
            # By way of seconds: `astimezone` puts a time that the clocks skip before the change, this behind it.
            instant = datetime.fromtimestamp(wall.replace(fold=fold).timestamp(), UTC)
            if not self.any_hour or instant.astimezone().replace(tzinfo=None, fold=0) == wall:
                yield instant

    def _is_day(self, day: date) -> bool:
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return in_month and in_week
        return in_month or in_week


def parse_schedule(text: str) -> Schedule:
    """Read a schedule. Raises `ValueError`, whose text says what is wrong with it."""
    words = text.lower().split()
    fields = words if len(words) == 5 else _fields(words)
    minute, hour, day, month, weekday = fields
    found = Schedule(
        minutes=_values(minute, 0, 59, "minute"),
        hours=_values(hour, 0, 23, "hour"),
        days=_values(day, 1, 31, "day of the month"),
        months=_values(month, 1, 12, "month", _MONTHS, 1),
        weekdays=frozenset(value % 7 for value in _values(weekday, 0, 7, "day of the week", _DAYS, 0)),
        any_hour=hour.startswith("*"),
        any_day=day.startswith("*"),
        any_weekday=weekday.startswith("*"),
    )
    try:
        found.after(datetime(2028, 1, 1, tzinfo=UTC))
    except ValueError:
        raise ValueError(f"{text!r} never comes: no month of it has such a day") from None
    return found


def _fields(words: list[str]) -> list[str]:
    """`daily 03:00` and the like as cron fields."""
    name, rest = (words[0], words[1:]) if words else ("", [])
    clock = _CLOCK.fullmatch(rest[-1]) if rest else None
    minute, hour = (str(int(clock[2])), str(int(clock[1]))) if clock else ("0", "0")
    middle = rest[:-1] if clock else rest
    match name, middle:
        case "hourly", [] if not rest:
            return ["0", "*", "*", "*", "*"]
        case "daily", []:
            return [minute, hour, "*", "*", "*"]
        case "weekdays", []:
            return [minute, hour, "*", "*", "1-5"]
        case "weekly", [] | [_]:
            return [minute, hour, "*", "*", middle[0] if middle else "mon"]
        case "monthly", [] | [_]:
            return [minute, hour, middle[0] if middle else "1", "*", "*"]
        case _:
            raise ValueError(f"{' '.join(words)!r} is no schedule; write one {HINT}")


def _values(text: str, low: int, high: int, what: str, names: tuple[str, ...] = (), first: int = 0) -> frozenset[int]:
    """The numbers that a cron field stands for."""

    def number(word: str) -> int:
        value = names.index(word[:3]) + first if word[:3] in names else int(word) if word.isdecimal() else -1
        if not low <= value <= high:
            raise ValueError(f"{word!r} is no {what}: it is {low} to {high}{f', or {names[0]}' if names else ''}")
        return value

    found: set[int] = set()
    for part in text.split(","):
        match = _FIELD.fullmatch(part)
        if match is None or (match[1] == "*" and match[2]) or match[3] == "0":
            raise ValueError(f"{part!r} is no {what}; write a number, `*`, `1-5`, `*/15`, or several with commas")
        start = low if match[1] == "*" else number(match[1])
        end = number(match[2]) if match[2] else high if match[1] == "*" or match[3] else start
        if match[2] and names == _DAYS:
            end = end or 7  # `fri-sun`
        if start > end:
            raise ValueError(f"{part!r} goes backwards: the {what} begins with the smaller number")
        found.update(range(start, end + 1, int(match[3] or 1)))
    return frozenset(found)
