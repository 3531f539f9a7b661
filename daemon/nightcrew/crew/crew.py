"""A crew whose roles are bound to live settings and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from nightcrew.config import CrewSettings, Dialect, RoleSettings, read_key
from nightcrew.secrecy import SECRETS, without_login

EMBEDDED_MODEL = "qwen2.5-coder-1.5b-instruct"


@dataclass(frozen=True)
class Role:
    """A role with everything that is needed to talk to its model."""

    settings: RoleSettings
    api_key: SecretStr | None

    @property
    def label(self) -> str:
        """`model @ base_url`, for people."""
        return f"{self.settings.model or 'default model'} @ {without_login(self.settings.base_url)}"

    @property
    def uses_tools(self) -> bool:
        return "tools" in self.settings.dialect


@dataclass(frozen=True)
class Crew:
    """Who plans, who acts, and who (if anybody beside the checks) judges."""

    name: str
    planner: Role
    executor: Role
    verifier: Role | None = None
    small: bool = False
    """Too small for real work: the report says so."""

    def models(self) -> dict[str, str]:
        """Role to `model @ base_url`."""
        roles = {"planner": self.planner, "executor": self.executor}
        if self.verifier is not None:
            roles["verifier"] = self.verifier
        return {name: role.label for name, role in roles.items()}


def from_settings(name: str, settings: CrewSettings, environ: Mapping[str, str]) -> Crew:
    """A crew as the configuration describes it. Raises `ConfigError` when a named key is not there."""

    def role(of: RoleSettings) -> Role:
        SECRETS.add_url(of.base_url)
        return Role(of, read_key(of, environ))

    return Crew(
        name=name,
        planner=role(settings.planner),
        executor=role(settings.executor or settings.planner),
        verifier=None if settings.verifier is None else role(settings.verifier),
    )


def solo_crew(base_url: str, model: str) -> Crew:
    """One endpoint that was found on this machine plays every role."""
    role = Role(RoleSettings(base_url=base_url, model=model), None)
    return Crew(name="solo", planner=role, executor=role)


def embedded_crew(base_url: str, api_key: str) -> Crew:
    """The embedded 1.5B model with what it can do: choose a file, fill in a line, rewrite a file.

    Its native tool calls work in none of 24 tries, so no role uses them.
    """

    def role(*dialect: Dialect) -> Role:
        settings = RoleSettings(
            base_url=base_url,
            model=EMBEDDED_MODEL,
            dialect=dialect,
            max_tokens=1024,
            temperature=0.0,
            patience_seconds=60,
        )
        return Role(settings, SecretStr(api_key))

    return Crew(name="embedded", planner=role("choose"), executor=role("infill", "rewrite", "explain"), small=True)
