"""Crews: named sets of roles, each bound to a model and its settings."""

from nightcrew.crew.crew import EMBEDDED_MODEL, Crew, Role, embedded_crew, from_settings, solo_crew
from nightcrew.crew.known import crew_of, known, settings_of

__all__ = [
    "EMBEDDED_MODEL",
    "Crew",
    "Role",
    "crew_of",
    "embedded_crew",
    "from_settings",
    "known",
    "settings_of",
    "solo_crew",
]
