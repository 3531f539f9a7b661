"""The journal: the append-only record of every task, its fold, and who works on what."""

from nightcrew.journal.journal import MIGRATIONS, Journal, Submission

__all__ = ["MIGRATIONS", "Journal", "Submission"]
