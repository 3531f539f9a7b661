from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mcp.client import Client

from nightcrew_tools.grants import DECIDING, EXECUTOR, FAMILIES, PLANNER, TOOLS, Grants
from nightcrew_tools.output import MOST_BYTES
from nightcrew_tools.schema import openai_tools
from nightcrew_tools.server import build_server
from nightcrew_workspaces.errors import BoxError, FileError, GitError, WorkspaceError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

GOLDEN = Path(__file__).with_name("tools.golden.json")
GOLDEN_LIST = Path(__file__).with_name("list.golden.json")
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


class NoWorkspace:
    """Enough for a server to be built; whatever is called on it fails."""

    base_commit = "0" * 40
    roots = (Path("/workspace"),)
    files = None
    box = None
    git = None
    background = None


class NoRoots(NoWorkspace):
    """The same where there is no task, but a person's own directories."""

    base_commit = None


async def listed(grants: Grants, mode: str = "auto", workspace: type = NoWorkspace) -> str:
    async with Client(build_server(grants, workspace=workspace()), mode=mode) as client:
        return openai_tools((await client.list_tools()).tools)


EVERYTHING = Grants(FAMILIES, allow=frozenset(TOOLS))


async def sent(grants: Grants, mode: str = "auto") -> str:
    """All that an outside client is sent of the tools, with sorted keys: their order differs between the eras."""
    async with Client(build_server(grants, workspace=NoRoots(), facts="always"), mode=mode) as client:
        tools = [tool.model_dump(by_alias=True, exclude_none=True) for tool in (await client.list_tools()).tools]
    return json.dumps(tools, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@ERAS
async def test_clients_are_sent_what_the_golden_list_says(mode):
    """`python tests/tools/test_server.py` writes it anew: names, words, schemas, hints."""
    assert await sent(EVERYTHING, mode) + "\n" == GOLDEN_LIST.read_text()


TOKENS = 1 / 3.98
"""Tokens to a byte of these lists: by Mistral's tekken (240911) 4.08 bytes make one of everything (5,869 tokens), 3.98
of the file tools, the fewest of the families."""


async def test_the_whole_list_is_under_6000_tokens_and_each_familys_a_part_of_it():
    whole = len((await sent(EVERYTHING)).encode())
    assert whole * TOKENS < 6_000
    parts = {family: len((await sent(Grants(frozenset({family})))).encode()) * TOKENS for family in sorted(FAMILIES)}
    assert parts["files"] < 2_000
    assert parts["git"] < 2_150
    assert parts["shell"] < 900
    assert parts["tasks"] < 1_000
    assert len((await sent(Grants(FAMILIES, read_only=True))).encode()) < whole / 2


@ERAS
async def test_the_tools_are_what_the_golden_file_says(mode):
    """`python tests/tools/test_server.py` writes it anew: every byte of it stands in every prompt."""
    assert await listed(Grants(FAMILIES), mode) + "\n" == GOLDEN.read_text()


async def test_the_tools_leave_room_in_the_prompt():
    assert len((await listed(EXECUTOR)).encode()) < 3_400  # about 800 tokens of Mistral's tekken
    assert len((await listed(PLANNER)).encode()) < 1_400


async def test_a_schema_says_nothing_that_a_model_does_not_need():
    for entry in json.loads(await listed(Grants(FAMILIES))):
        assert set(entry) == {"type", "function"}
        assert set(entry["function"]) == {"name", "description", "parameters"}
        parameters = entry["function"]["parameters"]
        assert set(parameters) <= {"type", "properties", "required"}
        assert all(set(each) <= {"type", "description", "items"} for each in parameters["properties"].values())


FRESH_PROCESS = """
import asyncio, logging, sys
sys.path.insert(0, sys.argv[1])
import test_server
print(asyncio.run(test_server.listed(test_server.EXECUTOR, sys.argv[2])))
print(asyncio.run(test_server.sent(test_server.EVERYTHING, sys.argv[2])))
root = logging.getLogger()
print(root.handlers, root.level)
"""


@pytest.fixture(scope="module")
def processes() -> list[str]:
    """What two new processes with other hash seeds print: the executor's tools, and how logging is set up after."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FRESH_PROCESS, str(GOLDEN.parent), mode],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, mode in [("1", "auto"), ("4242", "legacy")]
    ]
    printed = [process.communicate(timeout=50)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return printed


async def test_every_process_writes_the_same_bytes(processes):
    text = await listed(EXECUTOR)
    assert [printed.splitlines()[0] for printed in processes] == [text, text]
    whole = await sent(EVERYTHING)
    assert [printed.splitlines()[1] for printed in processes] == [whole, whole]


def test_building_a_server_leaves_the_programs_logging_alone(processes):
    assert {printed.splitlines()[2] for printed in processes} == {f"[] {logging.WARNING}"}


@ERAS
async def test_tools_are_listed_in_one_order_with_schemas_that_forbid_the_unknown(mode):
    async with Client(build_server(Grants(FAMILIES), workspace=NoRoots()), mode=mode) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == [name for name in TOOLS if name not in DECIDING]
    assert all(tool.input_schema["additionalProperties"] is False for tool in tools)
    assert all(tool.output_schema is None for tool in tools)


async def test_a_task_has_few_of_the_git_tools():
    names = [entry["function"]["name"] for entry in json.loads(await listed(EXECUTOR))]
    git = ["git_commit", "git_diff", "git_log", "git_restore", "git_status"]
    assert [name for name in names if name.startswith("git_")] == git


async def test_annotations_tell_readers_from_writers():
    async with Client(build_server(Grants(FAMILIES), workspace=NoWorkspace())) as client:
        hints = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
    readers = {name for name, hint in hints.items() if hint.read_only_hint}
    assert readers == {
        "read_file", "list_files", "search_files", "read_files", "read_media", "list_folder", "show_tree", "file_info",
        "git_status", "git_diff", "git_log", "task_list", "task_status", "task_wait", "task_report", "task_diff",
    }  # fmt: skip
    assert {name for name, hint in hints.items() if hint.destructive_hint} == {
        "write_file", "edit_file", "edit_files", "delete_file", "git_restore", "run_command", "start_command",
        "stop_command", "task_cancel",
    }  # fmt: skip
    assert all(hint.open_world_hint is False for hint in hints.values())
    told = {name: hint.model_dump(exclude_none=True) for name, hint in hints.items()}  # no default is sent
    assert told["read_file"] == {"read_only_hint": True, "open_world_hint": False}
    assert told["move_file"] == {"destructive_hint": False, "open_world_hint": False}


async def test_read_only_grants_register_no_tool_that_writes():
    text = await listed(Grants(FAMILIES, read_only=True))
    names = [entry["function"]["name"] for entry in json.loads(text)]
    assert names == sorted(
        ["read_file", "list_files", "search_files", "read_files", "read_media", "list_folder", "show_tree", "file_info",
         "git_status", "git_diff", "git_log",
         "task_list", "task_status", "task_wait", "task_report", "task_diff"]
    )  # fmt: skip


async def test_no_crew_and_no_family_can_decide_what_waits_for_approval():
    for grants in (EXECUTOR, PLANNER, Grants(FAMILIES)):
        assert not any(grants.permit(name, writes=True) for name in DECIDING)
    for grants in (EXECUTOR, PLANNER):
        assert "task_" not in await listed(grants)
    allowed = Grants(frozenset({"tasks"}), allow=frozenset({"task_list", "task_approve"}))
    names = [entry["function"]["name"] for entry in json.loads(await listed(allowed))]
    assert names == ["task_approve", "task_list"]
    assert not Grants(frozenset({"files"}), allow=DECIDING).permit("task_approve", writes=True)
    assert not Grants(frozenset({"tasks"}), read_only=True, allow=DECIDING).permit("task_approve", writes=True)


async def test_grants_are_cut_by_allow_and_deny():
    text = await listed(
        Grants(frozenset({"files"}), allow=frozenset({"read_file", "write_file"}), deny=frozenset({"write_file"}))
    )
    assert [entry["function"]["name"] for entry in json.loads(text)] == ["read_file"]


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ({"families": frozenset({"file"})}, "'files'"),
        ({"families": FAMILIES, "deny": frozenset({"run_comand"})}, "'run_command'"),
        ({"families": FAMILIES, "allow": frozenset({"readfile"})}, "'read_file'"),
    ],
)
def test_a_misspelt_grant_is_an_error(arguments, nearest):
    with pytest.raises(ValueError, match=f"did you mean {nearest}"):
        Grants(**arguments)


def test_tools_that_need_a_workspace_are_not_built_without_one():
    with pytest.raises(ValueError, match="files, git, shell: these tools need a workspace"):
        build_server(EXECUTOR)


@ERAS
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        (
            "read_file",
            {"file_path": "a"},
            "error[unknown_argument]: read_file has no argument 'file_path' (did you mean 'path'?); "
            "it takes path, start_line, end_line",
        ),
        ("git_status", {"x": 1}, "error[unknown_argument]: git_status has no argument 'x'; it takes none"),
        ("write_file", {"path": "a"}, "error[missing_argument]: write_file needs 'content' (text)"),
        ("write_file", {"path": "a", "content": None}, "error[missing_argument]: write_file needs 'content' (text)"),
        ("write_file", {"path": "a", "content": {"a": 1}}, 'error[bad_argument]: content must be text, not {"a": 1}'),
        (
            "read_file",
            {"path": "a", "start_line": "top"},
            'error[bad_argument]: start_line must be a whole number, not "top"',
        ),
        (
            "read_file",
            {"path": "a", "start_line": True},
            "error[bad_argument]: start_line must be a whole number, not true",
        ),
        ("read_file", {"path": "a", "end_line": 1.5}, "error[bad_argument]: end_line must be a whole number, not 1.5"),
        (
            "run_command",
            {"command": "true", "timeout_seconds": "inf"},
            'error[bad_argument]: timeout_seconds must be a number, not "inf"',
        ),
        (
            "read_file",
            {"path": "a\0b"},
            "error[bad_argument]: path holds a character that is not text (NUL or a lone surrogate)",
        ),
        (
            "task_submit",
            {"text": "a", "repo": "r", "checks": "make"},
            'error[bad_argument]: checks must be a list of texts, not "make"',
        ),
    ],
)
async def test_wrong_arguments_are_answered_with_one_sentence(mode, name, arguments, answer):
    async with Client(build_server(Grants(FAMILIES), workspace=NoWorkspace()), mode=mode) as client:
        result = await client.call_tool(name, arguments)
    assert result.is_error
    assert result.content[0].text == answer


@ERAS
async def test_an_unknown_tool_is_answered_with_the_nearest(mode):
    async with Client(build_server(PLANNER, workspace=NoWorkspace()), mode=mode) as client:
        result = await client.call_tool("read_files", {})
    assert result.is_error
    assert result.content[0].text == (
        "error[unknown_tool]: there is no tool 'read_files' (did you mean 'read_file'?); "
        "there are read_file, list_files, search_files, git_diff, git_log"
    )


async def test_a_number_in_quotes_and_an_optional_argument_left_empty_are_understood(session):
    async with session() as tools:
        text = await tools("read_file", path="long.txt", start_line="2", end_line=2.0)
        assert text == "long.txt lines 2-2 of 5000\nline 2\n"
        assert await tools("read_file", path="README.md", start_line=None) == "README.md lines 1-1 of 1\n# Sums\n"
        assert await tools("search_files", pattern="# Sums", path="", glob="") == "README.md:1: # Sums"


async def test_an_answer_is_bounded_and_text_whatever_comes_out_of_the_box():
    class Hostile:
        roots = ("/workspace",)

        async def read(self, *arguments, **keywords):
            raise FileError("not_found", "\ud800" + "x" * 10**6)

    workspace = NoWorkspace()
    workspace.files = Hostile()
    async with Client(build_server(PLANNER, workspace=workspace)) as client:
        result = await client.call_tool("read_file", {"path": "a"})
    text = result.content[0].text
    assert text.startswith("error[not_found]: ?xxx")
    assert len(text.encode()) <= MOST_BYTES + 100


@ERAS
@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (GitError("git died"), "error[git]: git died"),
        (BoxError("no room"), "error[box]: no room"),
        (WorkspaceError("it is gone"), "error[workspace]: it is gone"),
        (ZeroDivisionError("secret"), "error[internal]: read_file failed inside the harness; try another way"),
    ],
)
async def test_a_failure_keeps_its_code_and_an_unforeseen_one_its_secrets(mode, error, answer, caplog):
    class Failing:
        roots = ("/workspace",)

        async def read(self, *arguments, **keywords):
            raise error

    workspace = NoWorkspace()
    workspace.files = Failing()
    async with Client(build_server(PLANNER, workspace=workspace), mode=mode) as client:
        result = await client.call_tool("read_file", {"path": "a"})
    assert (result.is_error, result.content[0].text) == (True, answer)
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged == (["tool read_file failed: ZeroDivisionError: secret"] if "internal" in answer else [])
    assert all(record.exc_info is None for record in caplog.records if record.levelno >= logging.ERROR)


@ERAS
async def test_an_answer_is_sent_once_and_as_text(session, mode):
    async with session(mode=mode) as tools:
        result = await tools.client.call_tool("read_file", {"path": "long.txt"})
    assert [content.type for content in result.content] == ["text"]
    assert result.structured_content is None
    assert not result.is_error


def test_the_contract_and_the_grants_cost_no_import_of_mcp():
    modules = "nightcrew_tools.contract, nightcrew_tools.grants, nightcrew_tools.schema"
    script = f"import sys, {modules}; print('mcp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


if __name__ == "__main__":
    import asyncio

    GOLDEN.write_text(asyncio.run(listed(Grants(FAMILIES))) + "\n")
    GOLDEN_LIST.write_text(asyncio.run(sent(EVERYTHING)) + "\n")
