"""What a task may reach: never more than the machine's operator allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcrew.agent import wayout
from nightcrew.agent.ledger import Ledger
from nightcrew.config import Config, NetworkSettings, load_config
from nightcrew.delivery import report_json
from nightcrew.delivery.report import report_markdown, size
from nightcrew.domain import HostUse
from nightcrew.errors import ConfigError, NetworkRefused, TaskFileError
from nightcrew.events import NetworkUsed, Recorded, TaskSubmitted
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord, fold
from nightcrew.network import machine_allows, outside, task_may
from nightcrew.service.door import validate
from nightcrew_tools.contract import TaskNetwork, TaskRequest
from nightcrew_workspaces.egress import Visit
from nightcrew_workspaces.registries import REGISTRIES

SETTINGS = NetworkSettings(allow=("pip", "*.example.org", "mirror.lan:8080"), groups={"docs": ("docs.example.org",)})


def test_nothing_is_allowed_where_the_operator_allowed_nothing() -> None:
    assert machine_allows(NetworkSettings()).rules == ()
    for wanted in (TaskNetwork(), TaskNetwork(hosts=("pip",)), TaskNetwork(hosts=())):
        with pytest.raises(NetworkRefused, match=r"allows no network.*`allow` under \[network\]"):
            task_may(NetworkSettings(), wanted)


def test_a_task_that_names_no_host_gets_what_the_machine_allows() -> None:
    assert task_may(SETTINGS, TaskNetwork()) == machine_allows(SETTINGS)


def test_a_task_gets_the_hosts_that_it_names_and_no_others() -> None:
    may = task_may(SETTINGS, TaskNetwork(hosts=("docs", "mirror.lan")))
    assert may.allows("docs.example.org", 443)
    assert may.allows("mirror.lan", 8080)
    assert not may.allows("mirror.lan", 443)
    assert not may.allows("other.example.org", 443)
    assert not may.allows(REGISTRIES["pip"][0], 443)


@pytest.mark.parametrize("host", ["npm", "evil.example", "*.example.net", "example.org", "mirror.lan:443"])
def test_a_task_that_names_more_is_refused_as_a_whole_and_the_key_is_named(host: str) -> None:
    with pytest.raises(NetworkRefused, match=r"does not allow .*`allow` under \[network\]"):
        task_may(SETTINGS, TaskNetwork(hosts=("pip", host)))


def test_the_operators_proxy_is_used_only_when_the_configuration_says_so() -> None:
    environ = {"https_proxy": "http://proxy.example:3128"}
    assert outside(NetworkSettings(), environ).upstream is None
    upstream = outside(NetworkSettings(proxy="environment"), environ).upstream
    assert upstream is not None
    assert (upstream.host, upstream.port) == ("proxy.example", 3128)
    with pytest.raises(NetworkRefused, match="the environment has none of https_proxy"):
        outside(NetworkSettings(proxy="environment"), {})
    with pytest.raises(NetworkRefused, match=r"network\.proxy: an upstream proxy is written"):
        outside(NetworkSettings(proxy="environment"), {"https_proxy": "socks5://proxy.example"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('allow = ["http://a.example"]', "network.allow"),
        ('allow = ["*"]', "network.allow"),
        ('private = ["10.0.0.1/8"]', "network.private"),
        ('proxy = "https://proxy.example"', "network.proxy"),
        ('groups = {"a.b" = ["a.example"]}', "network.groups"),
        ('groups = {"a" = []}', "network.groups"),
        ("upload_mib = 0", "network.upload_mib"),
        ("deny = []", "network.deny: unknown key"),
    ],
)
def test_a_wrong_network_in_the_configuration_names_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[network]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_config({"NIGHTCREW_CONFIG": str(path), "NIGHTCREW_HOME": str(tmp_path)})
    assert complaint in str(caught.value)


@pytest.mark.anyio
async def test_the_door_refuses_a_network_that_is_not_allowed(tmp_path: Path) -> None:
    request = TaskRequest(title="a", text="a", repo="https://git.example/a", network=TaskNetwork(hosts=("npm",)))
    with pytest.raises(TaskFileError, match=r"`network`: this machine does not allow .* in /.*config\.toml"):
        await validate(Config(home=tmp_path, network=SETTINGS), request)
    allowed = request.model_copy(update={"network": TaskNetwork(hosts=("pip",))})
    await validate(Config(home=tmp_path, network=SETTINGS), allowed)


# What is told of it afterwards


def use(host: str, *, allowed: bool = True, **values: object) -> HostUse:
    return HostUse.model_validate({"host": host, "port": 443, "allowed": allowed, **values})


def record(*uses: HostUse, network: TaskNetwork | None = None) -> TaskRecord:
    request = TaskRequest(title="a", text="a", repo="/a", network=network or TaskNetwork())
    events = [
        TaskSubmitted(request=request, name="a", origin="cli"),
        *(NetworkUsed(during="setup", hosts=(one,)) for one in uses),
    ]
    at = "2026-01-01T00:00:00.000Z"
    return fold(Recorded(task="t", seq=number, at=at, event=event) for number, event in enumerate(events, 1))


def test_a_host_that_was_asked_for_several_times_is_one_with_its_sums() -> None:
    told = record(
        use("a.example"),
        use("a.example", connections=2, sent=10, received=100, address="192.0.2.1"),
        use("a.example", connections=1, sent=1, received=1, why="too slow"),
        use("a.example", allowed=False, why="no", connections=1),
    )
    reached, refused = told.hosts.values()
    assert (reached.connections, reached.sent, reached.received) == (3, 11, 101)
    assert (reached.address, reached.why) == ("192.0.2.1", "too slow")
    assert (refused.allowed, refused.connections) == (False, 1)


def test_the_report_lists_what_was_reached_and_has_a_line_for_what_was_refused() -> None:
    told = record(
        use("a.example", connections=2, sent=2048, received=3 << 20, address="192.0.2.1"),
        use("evil.example", allowed=False, why="the task's `network` does not name it", connections=1),
        HostUse(host="", port=0, allowed=False, why="no HTTP"),
    )
    report = report_markdown(told, patch="")
    assert "## What was reached" in report
    assert "| `a.example:443` | `192.0.2.1` | 2 | 2.0 KiB | 3.0 MiB |  |" in report
    assert "- A box asked for what it may not reach: " in report
    assert "evil.example:443 (the task's" in report
    values = report_json(told, patch="")
    assert [one["host"] for one in values["hosts"]] == ["a.example", "evil.example", ""]  # type: ignore[index, union-attr]


def test_a_report_of_a_task_without_a_network_does_not_speak_of_one() -> None:
    told = record().__class__(**{**record().__dict__, "request": TaskRequest(title="a", text="a", repo="/a")})
    assert "What was reached" not in report_markdown(told, patch="")


def test_sizes_are_written_as_people_write_them() -> None:
    assert [size(count) for count in (0, 1023, 1024, 5 << 20, 3 << 29)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "1.5 GiB",
    ]


def test_refused_hosts_take_no_places_of_reached_ones_and_what_is_not_journalled_is_not_reached(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        request = TaskRequest(title="t", text="t", repo="/r")
        task = journal.submit(request, origin="test", name_hint="t").task
        record = journal.claim_task(task, "w")
        assert record is not None
        log = wayout._Log(ledger := Ledger(journal, record), "setup")
        for number in range(wayout.MOST_HOSTS + 5):
            log(Visit("CONNECT", f"{number}.evil.test", 443, allowed=False, why="no", ended=True))
        for number in range(wayout.MOST_HOSTS):
            log(Visit("CONNECT", f"{number}.good.test", 443, allowed=True))
        with pytest.raises(wayout.TooManyHosts, match="one more"):
            log(Visit("CONNECT", "last.good.test", 443, allowed=True))
        log(Visit("CONNECT", "0.good.test", 443, allowed=True, sent=7, ended=True))
        log.sum_up()
        hosts = journal.record(task).hosts
        assert len(hosts) == 2 * wayout.MOST_HOSTS
        assert sum(use.sent for use in hosts.values()) == 7 and ledger.record.hosts == hosts
