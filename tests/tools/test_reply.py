from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Literal

import pytest
from mcp.client import Client
from mcp_types import EmbeddedResource, ImageContent

from nightcrew_tools import server
from nightcrew_tools.grants import Grants
from nightcrew_tools.reply import Media, Reply, facts_schema, facts_value
from nightcrew_tools.schema import tool
from nightcrew_tools.server import build_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


@dataclass(frozen=True)
class Place:
    path: str
    line: int | None


@dataclass(frozen=True)
class Found:
    places: tuple[Place, ...]
    seconds: float
    ended: Literal["all", "cut"]
    first: Place | None = None


@dataclass(frozen=True)
class Edit:
    old: str
    new: str = ""


class Family:
    """Stands in for the task tools: the server offers whatever it declares under their names."""

    def __init__(self, gateway: object) -> None:
        pass

    @tool("Find.", facts=Found)
    async def task_list(self, how: Literal["quick", "slow"] = "quick") -> Reply:
        return Reply(f"found {how}", Found((Place("ä", 3), Place("b", None)), 0.5, "all"))

    @tool("Look.", facts=Place)
    async def task_status(self) -> Reply:
        return Reply(
            "seen", Place("p", 1), (Media(b"\x89PNG", "image/png"), Media(b"\0", "application/zip", "file:///z"))
        )

    @tool("Forgets its facts.", facts=Place)
    async def task_report(self) -> Reply:
        return Reply("text alone")

    @tool("Edit.", writes=True, open_world=True)
    async def task_submit(self, edits: list[Edit]) -> str:
        return repr(edits)


@pytest.fixture
def family(monkeypatch):
    monkeypatch.setattr(server, "TaskTools", Family)


def client(mode: str = "auto", *, facts: str = "always") -> Client:
    return Client(build_server(Grants(frozenset({"tasks"})), facts=facts), mode=mode)


@ERAS
async def test_facts_come_typed_beside_the_text(family, mode):
    async with client(mode) as connected:
        tools = {one.name: one for one in (await connected.list_tools()).tools}
        result = await connected.call_tool("task_list", {})
    assert tools["task_list"].output_schema == facts_schema(Found)
    assert tools["task_submit"].output_schema is None
    assert result.structured_content == {
        "places": [{"path": "ä", "line": 3}, {"path": "b"}],
        "seconds": 0.5,
        "ended": "all",
    }
    assert [part.text for part in result.content] == ["found quick"]


async def test_a_crew_gets_the_text_alone(family):
    async with client(facts="never") as connected:
        tools = (await connected.list_tools()).tools
        result = await connected.call_tool("task_list", {})
    assert all(one.output_schema is None for one in tools)
    assert result.structured_content is None


@ERAS
async def test_pictures_are_shown_and_other_bytes_attached(family, mode):
    async with client(mode) as connected:
        result = await connected.call_tool("task_status", {})
    _, picture, attached = result.content
    assert isinstance(picture, ImageContent)
    assert (base64.b64decode(picture.data), picture.mime_type) == (b"\x89PNG", "image/png")
    assert isinstance(attached, EmbeddedResource)
    assert (str(attached.resource.uri), base64.b64decode(attached.resource.blob)) == ("file:///z", b"\0")


async def test_a_tool_that_owes_its_facts_fails(family, caplog):
    async with client() as connected:
        result = await connected.call_tool("task_report", {})
    assert result.is_error
    assert "error[internal]" in result.content[0].text
    assert "task_report" in caplog.text


def test_the_schema_of_facts_is_short_and_whole():
    assert facts_schema(Place) == {
        "properties": {"line": {"type": "integer"}, "path": {"type": "string"}},
        "required": ["path"],
        "type": "object",
    }
    assert facts_value(Found((), 1.0, "cut", Place("x", 2)))["first"] == {"path": "x", "line": 2}


@dataclass(frozen=True)
class Wrong:
    when: set[str]


def test_facts_that_json_has_not_are_refused():
    with pytest.raises(TypeError, match="Wrong"):
        facts_schema(Wrong)


@pytest.mark.parametrize(
    ("edits", "answer"),
    [
        ([{"old": "a", "new": "b"}], "[Edit(old='a', new='b')]"),
        ('[{"old": "a"}]', "[Edit(old='a', new='')]"),
        ([], "[]"),
        ("a", "error[bad_argument]: edits must be a list of objects with old, new"),
        ([{"new": "b"}], "error[missing_argument]: edits[1] needs 'old' (text)"),
        ([{"old": "a"}, {"old": "a", "wen": "b"}], "error[unknown_argument]: edits[2] has no 'wen'"),
        ([{"old": 3}], "error[bad_argument]: edits[1].old must be text, not 3"),
        (["a"], "error[bad_argument]: edits[1] must be an object with old, new"),
    ],
)
async def test_lists_of_objects_are_arguments_too(family, edits, answer):
    async with client() as connected:
        result = await connected.call_tool("task_submit", {"edits": edits})
    assert result.content[0].text.startswith(answer)


async def test_a_choice_outside_of_its_list_is_an_error_that_names_the_list(family):
    async with client() as connected:
        tools = {one.name: one for one in (await connected.list_tools()).tools}
        result = await connected.call_tool("task_list", {"how": "fast"})
    assert tools["task_list"].input_schema["properties"]["how"] == {"enum": ["quick", "slow"], "type": "string"}
    assert result.content[0].text == 'error[bad_argument]: how must be one of quick, slow, not "fast"'
    assert tools["task_submit"].annotations.open_world_hint is True
