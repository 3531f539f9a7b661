from __future__ import annotations

import base64
from contextlib import asynccontextmanager

import anyio
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from fakes.gateway import FakeGateway
from nightcrew_tools import changes
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState
from nightcrew_tools.grants import Grants
from nightcrew_tools.resources import file_path, file_uri
from nightcrew_tools.session import Offer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
EVERYTHING = Grants(frozenset({"files", "tasks"}))
PNG = b"\x89PNG\r\n\x1a\n\0\0"


@pytest.fixture
async def gateway() -> FakeGateway:
    made = FakeGateway()
    view = await made.submit(TaskRequest(title="Round once", text="Do it", repo="/srv/shop"), origin="test")
    ended = {"state": TaskState.ENDED, "outcome": Outcome.DELIVERED}
    made.views[view.id] = view.model_copy(update=ended)
    made.reports[view.id] = "# Report\n"
    made.diffs[view.id] = "diff --git a/x b/x\n"
    return made


@asynccontextmanager
async def connected(workspace, gateway, mode="auto", grants=EVERYTHING, **options):
    async with Offer(grants, workspace, gateway).server() as server, Client(server, mode=mode, **options) as client:
        yield client


@ERAS
async def test_roots_and_reports_are_listed(workspace, gateway, mode):
    async with connected(workspace, gateway, mode) as client:
        listed = {str(one.uri): one for one in (await client.list_resources()).resources}
        templates = {one.uri_template for one in (await client.list_resource_templates()).resource_templates}
    assert set(listed) == {"file:///workspace", "nightcrew://tasks/t1/report"}
    assert listed["nightcrew://tasks/t1/report"].title == "Round once"
    assert templates == {
        "file:///{+path}",
        "nightcrew://tasks/{task}/report",
        "nightcrew://tasks/{task}/patch",
        "nightcrew://tasks/{task}/journal",
    }


@ERAS
async def test_files_are_read_as_what_they_are(workspace, gateway, mode):
    await workspace.files.write("naïve name.txt", "ü\n")
    await workspace.box.run(["/usr/bin/python3", "-c", f"open('pic.png','wb').write({PNG!r})"])
    async with connected(workspace, gateway, mode) as client:

        async def read(uri):
            (content,) = (await client.read_resource(uri)).contents
            return content

        text = await read(file_uri("/workspace/naïve name.txt"))
        picture = await read("file:///workspace/pic.png")
        folder = await read("file:///workspace/src")
        code = await read("file://localhost/workspace/src/sums.py")
    assert (text.text, text.mime_type) == ("ü\n", "text/plain")
    assert (base64.b64decode(picture.blob), picture.mime_type) == (PNG, "image/png")
    assert folder.text.splitlines() == ["src/deep/", "src/sums.py"]
    assert code.text.startswith("def add")
    assert code.mime_type == "text/x-python"


@ERAS
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///etc/passwd", "outside"),
        ("file:///workspace/../etc/passwd", "outside"),
        ("file:///workspace/%2e%2e/etc/passwd", "outside"),
        ("file:///workspace/none.txt", "there is no"),
        ("file://other/workspace/README.md", "this machine"),
        ("nightcrew://tasks/t9/report", "t9"),
        ("nightcrew://tasks/t1/secrets", "t1/secrets"),
        ("http://example.org/", "example.org"),
    ],
)
async def test_what_is_not_there_is_an_error_that_says_so(workspace, gateway, mode, uri, words):
    async with connected(workspace, gateway, mode) as client:
        with pytest.raises(MCPError, match=words):
            await client.read_resource(uri)


async def test_a_file_that_is_too_large_is_for_the_tools(workspace, gateway):
    await workspace.box.run("head -c 2000000 /dev/zero > large")
    async with connected(workspace, gateway) as client:
        with pytest.raises(MCPError, match="bytes"):
            await client.read_resource("file:///workspace/large")


@ERAS
async def test_tasks_are_read_by_their_kinds(workspace, gateway, mode):
    async with connected(workspace, gateway, mode) as client:
        found = {}
        for kind in ("report", "patch", "journal"):
            (content,) = (await client.read_resource(f"nightcrew://tasks/t1/{kind}")).contents
            found[kind] = (content.text, content.mime_type)
    assert found == {
        "report": ("# Report\n", "text/markdown"),
        "patch": ("diff --git a/x b/x\n", "text/x-diff"),
        "journal": ('{"task": "t1"}\n', "application/jsonl"),
    }


async def test_a_session_without_files_or_tasks_has_no_resources_of_theirs(workspace, gateway):
    async with connected(workspace, gateway, grants=Grants(frozenset({"tasks"}))) as client:
        assert [str(one.uri) for one in (await client.list_resources()).resources] == ["nightcrew://tasks/t1/report"]
        with pytest.raises(MCPError):
            await client.read_resource("file:///workspace/README.md")
    async with connected(workspace, gateway, grants=Grants(frozenset({"files"}))) as client:
        assert [str(one.uri) for one in (await client.list_resources()).resources] == ["file:///workspace"]
        with pytest.raises(MCPError):
            await client.read_resource("nightcrew://tasks/t1/report")


@ERAS
async def test_addresses_are_completed(workspace, gateway, mode):
    async with connected(workspace, gateway, mode) as client:

        async def complete(template, name, value):
            ref = ResourceTemplateReference(type="ref/resource", uri=template)
            return (await client.complete(ref, {"name": name, "value": value})).completion.values

        assert await complete("file:///{+path}", "path", "work") == ["workspace"]
        assert await complete("file:///{+path}", "path", "workspace/s") == ["workspace/src"]
        assert await complete("file:///{+path}", "path", "workspace/src/") == [
            "workspace/src/deep",
            "workspace/src/sums.py",
        ]
        assert await complete("file:///{+path}", "path", "etc/pass") == []
        assert await complete("nightcrew://tasks/{task}/report", "task", "t") == ["t1"]
        assert (
            await client.complete(
                PromptReference(type="ref/prompt", name="review_branch"), {"name": "task", "value": ""}
            )
        ).completion.values == ["t1"]


@ERAS
async def test_prompts_carry_what_was_asked_for(workspace, gateway, mode):
    async with connected(workspace, gateway, mode) as client:
        names = [one.name for one in (await client.list_prompts()).prompts]
        written = await client.get_prompt("write_task", {"goal": "round {once}", "repo": "/srv/shop"})
        review = await client.get_prompt("review_branch", {"task": "t1"})
    assert names == ["write_task", "review_branch"]
    assert "round {once}" in written.messages[0].content.text
    assert "/srv/shop" in written.messages[0].content.text
    assert "task t1" in review.messages[0].content.text


@pytest.mark.filterwarnings("ignore:resources/")  # the client's own word that the 2025 era ends
async def test_a_client_of_2025_hears_of_a_file_that_it_watches(workspace, gateway, monkeypatch):
    monkeypatch.setattr(changes, "POLL_SECONDS", 0.05)
    told = anyio.Event()
    uris: list[str] = []

    async def listen(message):
        uri = getattr(getattr(message, "params", None), "uri", None)
        if uri is not None:
            uris.append(str(uri))
            told.set()

    async with connected(workspace, gateway, "legacy", message_handler=listen) as client:
        await client.subscribe_resource("file:///workspace/README.md")
        with anyio.fail_after(20):
            while not told.is_set():  # the first look may come after the first change
                await workspace.files.append("README.md", "more\n")
                await anyio.sleep(0.1)
        await client.unsubscribe_resource("file:///workspace/README.md")
    assert set(uris) == {"file:///workspace/README.md"}


async def test_a_client_of_2026_hears_of_files_and_of_the_list(workspace, gateway, monkeypatch):
    monkeypatch.setattr(changes, "POLL_SECONDS", 0.05)
    heard: set[str] = set()
    async with (
        connected(workspace, gateway, "2026-07-28") as client,
        client.listen(resource_subscriptions=["file:///workspace/README.md"], resources_list_changed=True) as events,
    ):
        await anyio.sleep(0.3)  # until both were looked at once
        await workspace.files.append("README.md", "more\n")
        gateway.views["t2"] = gateway.views["t1"].model_copy(update={"id": "t2"})
        with anyio.fail_after(20):
            async for event in events:
                heard.add(type(event).__name__)
                if len(heard) == 2:
                    break
    assert heard == {"ResourceUpdated", "ResourcesListChanged"}


@pytest.mark.filterwarnings("ignore:resources/")
async def test_watching_has_a_bound(workspace, gateway, monkeypatch):
    monkeypatch.setattr(changes, "MOST_WATCHED", 2)
    async with connected(workspace, gateway, "legacy") as client:
        for name in ("a", "b"):
            await client.subscribe_resource(f"file:///workspace/{name}")
        with pytest.raises(MCPError, match="at most 2"):
            await client.subscribe_resource("file:///workspace/c")


@pytest.mark.parametrize("path", ["/srv/a b", "/srv/ü/#?", "/srv/%41"])
def test_an_address_means_its_path(path):
    assert file_path(file_uri(path)) == path
