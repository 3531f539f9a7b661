"""Crew files: a person's own goes before the built-in one, and one changed line is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcrew.config import Config, CrewSettings, RoleSettings
from nightcrew.crew import known, settings_of
from nightcrew.crew.files import builtin_names, load, names
from nightcrew.errors import ConfigError

pytestmark = pytest.mark.timeout(20)

NOBODY = {"HOME": "/nonexistent"}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "nightcrew/crews").mkdir(parents=True)
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(environ: dict[str, str], name: str, text: str) -> Path:
    path = Path(environ["XDG_CONFIG_HOME"]) / f"nightcrew/crews/{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_crew_can_be_worked_with(name: str) -> None:
    crew = load(name, NOBODY)
    assert crew.about and crew.origin == "built-in"
    if not crew.embedded:
        settings = crew.settings()
        assert settings.planner.base_url.startswith("http://127.0.0.1:3000")
        assert settings.planner.model


def test_roles_with_one_model_share_its_server() -> None:
    trio = load("trio", NOBODY)
    assert trio.models() == {
        "Qwen/Qwen3-32B": ("planner", "verifier"),
        "mistralai/Devstral-Small-2507": ("executor",),
        "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": ("scout", "critic"),
    }
    urls = {name: role.settings.base_url for name, role in trio.roles.items()}
    assert urls["planner"] == urls["verifier"] == "http://127.0.0.1:30000/v1"
    assert urls["executor"] == "http://127.0.0.1:30001/v1"
    assert urls["scout"] == urls["critic"] == "http://127.0.0.1:30002/v1"


def test_one_changed_line_makes_a_crew_of_ones_own(environ: dict[str, str]) -> None:
    write(environ, "mine", 'extends = "trio"\nroles.executor.model = "Qwen/Qwen3-14B"\n')
    mine, trio = load("mine", environ), load("trio", environ)
    assert mine.roles["executor"].settings.model == "Qwen/Qwen3-14B"
    assert mine.roles["executor"].need == trio.roles["executor"].need
    assert mine.roles["planner"] == trio.roles["planner"]
    # Sampled as the new model likes it, not the old one.
    assert mine.roles["executor"].settings.temperature == 0.6
    assert trio.roles["executor"].settings.temperature == 0.15


def test_a_crew_says_how_many_of_its_tasks_run_at_once(environ: dict[str, str]) -> None:
    write(environ, "mine", 'extends = "duo"\nconcurrency = 2\n')
    assert load("mine", environ).settings().concurrency == 2
    assert load("duo", environ).settings().concurrency is None


def test_a_role_whose_model_sees_is_shown_pictures() -> None:
    council = load("council", NOBODY)
    assert council.roles["vision"].settings.vision and not council.roles["planner"].settings.vision
    assert load("modern", NOBODY).roles["planner"].settings.vision


def test_a_role_says_how_it_is_sampled_before_its_model_does(environ: dict[str, str]) -> None:
    write(environ, "mine", 'extends = "duo"\n[roles.planner]\ntemperature = 0.9\n')
    assert load("mine", environ).roles["planner"].settings.temperature == 0.9
    assert load("mine", environ).roles["planner"].settings.top_p == 0.95


def test_a_persons_crew_goes_before_the_built_in_one_and_may_extend_it(environ: dict[str, str]) -> None:
    path = write(environ, "duo", 'extends = "duo"\nabout = "mine"\n')
    duo = load("duo", environ)
    assert (duo.about, duo.origin) == ("mine", str(path))
    assert duo.roles["planner"] == load("duo", NOBODY).roles["planner"]


def test_a_role_at_an_endpoint_that_is_there_is_not_served_here(environ: dict[str, str]) -> None:
    write(environ, "mine", 'extends = "duo"\n[roles.planner]\nbase_url = "https://models.lan/v1"\nmodel = "big"\n')
    mine = load("mine", environ)
    assert not mine.roles["planner"].local
    assert mine.settings().planner.base_url == "https://models.lan/v1"
    assert mine.models()["Qwen/Qwen3-32B"] == ("verifier",)


def test_a_wished_port_moves_nobody_elses(environ: dict[str, str]) -> None:
    write(environ, "mine", 'extends = "trio"\n[servers."mistralai/Devstral-Small-2507"]\nport = 30000\n')
    mine = load("mine", environ)
    assert mine.port("mistralai/Devstral-Small-2507") == 30000
    assert mine.port("Qwen/Qwen3-32B") == 30001
    assert mine.port("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B") == 30002


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about = 3", "about: "),
        ("[roles.plumber]\nmodel = 'x'", "there is no role 'plumber'; there are planner, executor"),
        ("[roles.scout]\nmodel = 'x'", "a crew needs a planner"),
        ("[roles.planner]\ntemperature = 1", "roles.planner: names neither a model to serve nor a base_url"),
        ("[roles.planner]\nmodel = 'x'\ncontext = 12", "context: "),
        ("[roles.planner]\nmodel = 'x'\nspeed = 12", "speed: unknown key"),
        ("[servers.x]\nformat = 3", "servers.x.format: "),
        ("extends = 'nobody'", "extends: no crew is called 'nobody'"),
        ("extends = 'mine'", "no crew is called 'mine'"),
        ("[roles", "mine.toml"),
    ],
)
def test_what_is_wrong_with_a_crew_file_is_said_with_its_place(environ: dict[str, str], text: str, said: str) -> None:
    path = write(environ, "mine", text)
    with pytest.raises(ConfigError) as caught:
        load("mine", environ)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_crews_that_extend_each_other_are_refused(environ: dict[str, str]) -> None:
    write(environ, "a", 'extends = "b"')
    write(environ, "b", 'extends = "a"')
    with pytest.raises(ConfigError, match="circle"):
        load("a", environ)


@pytest.mark.parametrize("name", ["../config", "/etc/passwd", "nobody"])
def test_a_name_leads_nowhere_else(environ: dict[str, str], name: str) -> None:
    (Path(environ["XDG_CONFIG_HOME"]) / "nightcrew/config.toml").write_text('[roles.planner]\nmodel = "x"\n')
    with pytest.raises(ConfigError, match="no crew is called"):
        load(name, environ)


def test_the_configuration_goes_before_every_crew_file(tmp_path: Path, environ: dict[str, str]) -> None:
    write(environ, "duo", 'extends = "duo"\n')
    own = CrewSettings(planner=RoleSettings(base_url="http://127.0.0.1:1/v1", model="own"))
    config = Config(home=tmp_path, crews={"duo": own, "night": own})
    assert settings_of("duo", config, environ) == own
    assert settings_of("embedded", config, environ) is None
    trio = settings_of("trio", config, environ)
    assert trio is not None and trio.scout is not None
    assert set(known(config, environ)) == {*names(environ), "night"}
