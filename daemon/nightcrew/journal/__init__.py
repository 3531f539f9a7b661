"""The journal: the append-only record of every task, its fold, and who works on what."""

from nightcrew.journal.journal import Journal, Submission
from nightcrew.journal.schema import MIGRATIONS

__all__ = ["MIGRATIONS", "Journal", "Submission"]
