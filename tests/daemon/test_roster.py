"""Who works on a task: the named crew, the configured one, what answers on this machine, or nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcrew.agent.roster import NoEndpoint, Roster
from nightcrew.config import Config, CrewSettings, RoleSettings
from nightcrew.errors import ConfigError
from nightcrew.llm.discovery import Found

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

DUO = CrewSettings(
    planner=RoleSettings(base_url="http://127.0.0.1:1/v1", model="thinker", api_key_env="KEY"),
    executor=RoleSettings(base_url="http://127.0.0.1:2/v1", model="doer"),
)


def roster(tmp_path: Path, *found: Found, said: list[str] | None = None, **values: object) -> Roster:
    async def look() -> list[Found]:
        return list(found)

    config = Config.model_validate({"home": tmp_path, "crews": {"duo": DUO}, **values})
    environ = {"HOME": str(tmp_path), "KEY": "secret"}
    return Roster(config, environ, say=(said if said is not None else []).append, look=look)


async def test_a_named_crew_is_bound_to_its_models_and_keys(tmp_path: Path) -> None:
    async with roster(tmp_path) as crews:
        crew = await crews.crew("duo")
        assert crew.models() == {
            "planner": "thinker @ http://127.0.0.1:1/v1",
            "executor": "doer @ http://127.0.0.1:2/v1",
        }
        assert crew.planner.api_key is not None
        assert crew.planner.api_key.get_secret_value() == "secret"
        assert "secret" not in repr(crew)


async def test_a_built_in_crew_works_by_its_name_alone(tmp_path: Path) -> None:
    async with roster(tmp_path, crew="trio") as crews:
        crew = await crews.crew(None)
        assert crew.models() == {
            "planner": "Qwen/Qwen3-32B @ http://127.0.0.1:30000/v1",
            "executor": "mistralai/Devstral-Small-2507 @ http://127.0.0.1:30001/v1",
            "verifier": "Qwen/Qwen3-32B @ http://127.0.0.1:30000/v1",
        }
        assert crew.planner.settings.thinking is True
        assert (crew.executor.settings.temperature, crew.executor.settings.thinking) == (0.15, None)


async def test_a_crew_file_is_read_when_a_task_names_it(tmp_path: Path) -> None:
    async with roster(tmp_path) as crews:
        folder = tmp_path / ".config/nightcrew/crews"
        folder.mkdir(parents=True)
        (folder / "mine.toml").write_text('extends = "duo"\nroles.executor.model = "Qwen/Qwen3-14B"\n')
        assert (await crews.crew("mine")).executor.settings.model == "Qwen/Qwen3-14B"


async def test_the_configured_crew_is_the_default(tmp_path: Path) -> None:
    async with roster(tmp_path, crew="duo") as crews:
        assert (await crews.crew(None)).name == "duo"


async def test_an_unknown_crew_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    async with roster(tmp_path) as crews:
        with pytest.raises(ConfigError, match=r"no crew is called 'nobody'; there are: .*duo, embedded, .*trio"):
            await crews.crew("nobody")


async def test_without_a_configuration_the_first_endpoint_that_answers_plays_every_role(tmp_path: Path) -> None:
    said: list[str] = []
    found = Found("vLLM", "http://127.0.0.1:8000/v1", ("big", "small"))
    async with roster(tmp_path, found, said=said) as crews:
        crew = await crews.crew(None)
        assert crew.models() == dict.fromkeys(("planner", "executor"), "big @ http://127.0.0.1:8000/v1")
        assert any("vLLM" in line for line in said)


async def test_with_nothing_there_it_says_what_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    async with roster(tmp_path) as crews:
        with pytest.raises(NoEndpoint, match="nothing answers on the usual local ports") as caught:
            await crews.crew(None)
        assert "nightcrew model fetch" in str(caught.value)


async def test_a_crew_without_an_executor_lets_the_planners_model_act(tmp_path: Path) -> None:
    solo = CrewSettings(planner=DUO.planner)
    async with roster(tmp_path, crews={"solo": solo}) as crews:
        crew = await crews.crew("solo")
        assert crew.executor.settings.model == "thinker"
        assert crew.verifier is None
