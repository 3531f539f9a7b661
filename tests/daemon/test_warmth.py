"""Tasks that share a prefix: the first request of the first one goes alone until its reply begins."""

from __future__ import annotations

import anyio
import pytest

from fakes.scripted_server import Answer, ScriptedServer
from nightcrew.agent.prompts import message
from nightcrew.agent.warmth import FRESH_SECONDS, Warmth
from nightcrew.config import RoleSettings
from nightcrew.crew import Role
from nightcrew.errors import ModelError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def prompt(task: str, context: str = "# Repository") -> list[str]:
    return [message("system", "You plan work"), message("user", f"{context}\n\n# Task\n{task}")]


async def ask(warmth: Warmth, server: ScriptedServer, messages: list[str]) -> str:
    settings = RoleSettings(base_url=server.url, model="scripted", patience_seconds=0)
    async with warmth.open("planner", Role(settings, None)) as client:
        return (await client.chat(messages)).content


async def test_siblings_wait_for_the_first_reply_to_begin_and_then_read_the_cache() -> None:
    async with ScriptedServer(lambda _: Answer(text="x" * 200, delay=0.2, pause=0.02)) as server:
        warmth = Warmth()
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(ask, warmth, server, prompt(f"task {number}"))
    first, *others = sorted(server.requests, key=lambda request: request.received)
    assert first.first_byte is not None and first.finished is not None
    assert all(first.first_byte <= other.received < first.finished for other in others), "begun, not ended"
    assert first.cached_tokens == 0
    assert all(other.cached_tokens > other.prompt_tokens / 2 for other in others)


async def test_another_repository_another_model_and_later_turns_wait_for_nobody() -> None:
    async with ScriptedServer(lambda _: Answer(text="hm", delay=0.3)) as server:
        warmth = Warmth()
        async with anyio.create_task_group() as group:
            group.start_soon(ask, warmth, server, prompt("one"))
            await server.until(lambda: len(server.requests) == 1)
            group.start_soon(ask, warmth, server, prompt("two", "# Another repository"))
            turn = [*prompt("three"), message("assistant", "yes"), message("user", "go on")]
            group.start_soon(ask, warmth, server, turn)
            await server.until(lambda: len(server.requests) == 3)
            assert all(request.first_byte is None for request in server.requests)


async def test_a_first_request_that_fails_or_is_cancelled_holds_nobody_up() -> None:
    answers = [Answer(status=400), Answer(fault="hang"), Answer(text="fine")]
    async with ScriptedServer(lambda _: answers.pop(0)) as server:
        warmth = Warmth()
        with pytest.raises(ModelError):
            await ask(warmth, server, prompt("one"))
        async with anyio.create_task_group() as group:
            group.start_soon(ask, warmth, server, prompt("two"))
            await server.until(lambda: len(server.requests) == 2)
            group.cancel_scope.cancel()
        assert await ask(warmth, server, prompt("three")) == "fine"


async def test_nobody_waits_longer_than_so_long() -> None:
    answers = [Answer(fault="hang"), Answer(text="fine")]
    async with ScriptedServer(lambda _: answers.pop(0)) as server:
        warmth = Warmth(wait_seconds=0.05)
        async with anyio.create_task_group() as group:
            group.start_soon(ask, warmth, server, prompt("one"))
            await server.until(lambda: len(server.requests) == 1)
            assert await ask(warmth, server, prompt("two")) == "fine"
            group.cancel_scope.cancel()


async def test_a_prefix_is_warm_for_a_while_and_not_for_ever() -> None:
    clock, order = Clock(), list[str]()
    warmth = Warmth(clock=clock)

    async def begin(name: str, until: anyio.Event | None = None) -> None:
        async with warmth.beginning("prefix") as began:
            order.append(name)
            if until is not None:
                await until.wait()
            began()
            order.append(f"{name} began")

    await begin("first")
    let_go = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(begin, "second", let_go)
        await anyio.wait_all_tasks_blocked()
        await begin("third")
        let_go.set()
    assert order[2:5] == ["second", "third", "third began"], "it is warm: nobody waits"
    order.clear()
    clock.seconds += FRESH_SECONDS
    let_go = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(begin, "fourth", let_go)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(begin, "fifth")
        await anyio.wait_all_tasks_blocked()
        assert order == ["fourth"]
        let_go.set()
    assert order == ["fourth", "fourth began", "fifth", "fifth began"]
