"""A task with a network: the set-up reaches what is allowed, the model only if the task says so, checks never."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.house import FIX, House, call, git, house, script
from fakes.outside import Names, World
from fakes.scripted_server import Answer, Rule, Script
from nightcrew.config import NetworkSettings
from nightcrew_tools.contract import Limits, Outcome
from nightcrew_workspaces import egress

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

FETCH = (
    "python3 -c 'import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1], timeout=10).read())'"
)
LIBRARY = b"def helper():\n    return 'from outside'\n"
OFFLINE = (
    "import os, socket, sys\n"
    "assert not any('proxy' in name.lower() for name in os.environ)\n"
    "assert not os.path.exists('/run/egress')\n"
    "assert socket.socket().connect_ex(('127.0.0.1', 3128)) != 0\n"
)


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world is called mirror.test: what is on a box's own loopback, tools do not ask a proxy for."""
    monkeypatch.setattr(egress, "_look_up", Names(mirror_test=["127.0.0.1"]))


def network(world: World, *more: str) -> NetworkSettings:
    return NetworkSettings.model_validate({"allow": (f"mirror.test:{world.plain}", *more), "private": ["127.0.0.1/32"]})


def called(home: House, name: str) -> list[str]:
    """The answers that the model got from a tool."""
    record = home.journal.record(home.journal.tasks()[0].id)
    return [ran.message for ran in record.tools_run if ran.name == name]


def fields(world: World, **more: object) -> dict[str, object]:
    """A task whose set-up leaves files in the worktree and in HOME, and whose checks need both and have no network."""
    url = f"http://mirror.test:{world.plain}"
    return {
        "network": {"hosts": [f"mirror.test:{world.plain}"]},
        "setup": [
            f"{FETCH} {url}/library > 'fetched [1].py' && mkdir -p deps && cp 'fetched [1].py' deps/outside.py",
            f"{FETCH} {url}/home > ~/kept && echo broken > stats.py.orig && echo '# built' >> test_stats.py",
        ],
        "checks": [
            "PYTHONPATH=deps python3 -c 'import outside, stats; assert stats.mean([1, 2, 3]) == 2' && cat ~/kept",
            f'python3 -c "{OFFLINE}"',
        ],
        **more,
    }


async def test_a_set_up_installs_and_the_checks_run_with_it_and_without_a_network(open_tmp: Path) -> None:
    tried = call(
        "run_command",
        command="python3 -c 'import sys; sys.path.append(\"deps\"); import outside; print(outside.helper())'",
    )
    direct = call("run_command", command=f'python3 -c "{OFFLINE}" && echo no network; git status --short; cat ~/kept')
    async with World(LIBRARY) as world, house(open_tmp, script(tried, direct, *FIX), network=network(world)) as home:
        record = await home.run(**fields(world))
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.checks_after
        # The model had what the set-up installed, in the worktree and in its home, and no way out itself.
        first, second = called(home, "run_command")[:2]
        assert "from outside" in first
        assert "no network" in second
        assert "def helper" in second
        assert "deps" not in second
        assert "test_stats.py" not in second
        # What the set-up left is no part of the result.
        branch = home.branches()[0]
        assert git(home.repository, "diff", "--name-only", f"main..{branch}").split() == ["stats.py"]
        # Before, once in the worktree, after: three set-ups of two requests each, and one line for the host.
        assert len(world.requests) == 6
        (use,) = record.hosts.values()
        assert (use.host, use.port, use.connections) == ("mirror.test", world.plain, 6)
        assert use.sent == sum(map(len, world.requests))
        assert f"`mirror.test:{world.plain}`" in home.report(record)
        assert not list(home.config.home.rglob("egress-*"))


async def test_another_host_is_a_403_a_failed_set_up_and_a_line_in_the_report(open_tmp: Path) -> None:
    async with World() as world, house(open_tmp, script(), network=network(world, "other.test")) as home:
        record = await home.run(
            **fields(world, setup=[f"{FETCH} http://evil.example/secret"], limits=Limits(attempts=1))
        )
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert "403: Forbidden (Nightcrew: evil.example:80 is refused" in record.checks_before.results[0].output  # type: ignore[union-attr]
        assert "A box asked for what it may not reach: " in home.report(record)
        assert "evil.example:80" in home.report(record)
        assert not world.requests


async def test_a_model_has_the_network_only_when_the_task_says_so(open_tmp: Path) -> None:
    async with World(LIBRARY) as world:
        url = f"http://mirror.test:{world.plain}/loop"
        tried = call("run_command", command=f"{FETCH} {url}; {FETCH} http://evil.example/")
        async with house(open_tmp, script(tried, *FIX), network=network(world)) as home:
            wanted = {"hosts": [f"mirror.test:{world.plain}"], "during": "loop"}
            record = await home.run(network=wanted, checks=["python3 -m unittest -q", f'python3 -c "{OFFLINE}"'])
            assert record.ended is not None
            assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
            answer = called(home, "run_command")[0]
            assert "def helper" in answer
            assert "403" in answer
            assert [use.host for use in record.hosts.values() if not use.allowed] == ["evil.example"]
            assert "through the proxy in their environment" in record.conversations["executor/1"][1]


async def test_a_small_crews_candidates_are_checked_without_the_network_of_its_loop(open_tmp: Path) -> None:
    answers = Script(
        (
            Rule("You choose which file", (Answer('{"file": "stats.py", "problem": "off by one"}'),)),
            Rule("total += value\n<|fim_suffix|>", (Answer("    return total / len(values)"),)),
            Rule("<|fim_prefix|>", (Answer("    pass"),)),
        )
    )
    async with World() as world, house(open_tmp, answers, network=network(world), dialect=("infill",)) as home:
        wanted = {"hosts": [f"mirror.test:{world.plain}"], "during": "loop"}
        record = await home.run(network=wanted, checks=["python3 -m unittest -q", f'python3 -c "{OFFLINE}"'])
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason


async def test_a_network_that_the_configuration_no_longer_allows_ends_the_task(open_tmp: Path) -> None:
    async with World() as world, house(open_tmp, script()) as home:
        record = await home.run(**fields(world))
        assert record.ended is not None
        assert record.ended.outcome is Outcome.FAILED
        assert "this machine allows no network" in record.ended.reason


async def test_the_bytes_of_a_task_are_counted_over_all_its_phases(open_tmp: Path) -> None:
    async with World(b"x" * 700_000) as world:
        settings = network(world).model_copy(update={"download_mib": 1})
        async with house(open_tmp, script(), network=settings) as home:
            record = await home.run(
                network={"hosts": None},
                setup=[f"{FETCH} http://mirror.test:{world.plain}/ > big"],
                checks=["python3 -m unittest -q"],
                limits=Limits(attempts=1),
            )
            assert record.ended is not None
            assert record.ended.outcome is Outcome.UNVERIFIED
            assert sum(use.received for use in record.hosts.values()) <= 1 << 20
            assert any("network.download_mib" in use.why for use in record.hosts.values())
