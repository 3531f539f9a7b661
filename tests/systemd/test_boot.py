"""The units under a real systemd, process 1 of its own namespaces: from the installation to the end of a task.

`make boot` runs this; without NIGHTCREW_BOOT it is skipped, and with it, where no systemd can be booted, it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator

import pytest

from fakes.house import ACTING, FIX, PLANNING, make_repository, plan
from fakes.nested import Machine, booted, why_not

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif("NIGHTCREW_BOOT" not in os.environ, reason="NOT BOOTED: `make boot` does"),
]

KEY = "sk-of-the-credential-1"
CONFIG = """
crew = "scripted"
concurrency = 1
[crews.scripted.planner]
base_url = "http://127.0.0.1:9999/v1"
model = "scripted"
api_key_credential = "scripted"
"""
MODEL = """
[Service]
Environment=LD_LIBRARY_PATH=/opt/python/lib
ExecStart=/opt/python/bin/python3 -S /opt/checkout/tests/fakes/scripted_server.py /srv/script.json --port 9999
"""
DROP_IN = """
[Service]
ReadWritePaths=/srv/shop
WatchdogSec=4
RestartSec=100ms
"""


def script() -> dict:
    def answers(*replies) -> list[dict]:
        return [{"text": reply.text, "tool_calls": [list(one) for one in reply.tool_calls]} for reply in replies]

    rules = [{"when": PLANNING, "answers": answers(plan())}, {"when": ACTING, "answers": answers(*FIX)}]
    return {"rules": rules, "api_key": KEY, "delay": 1.0, "models": ["scripted"]}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    assert why_not() is None, f"NOT BOOTED: {why_not()}"
    with booted() as machine:
        machine.write("/srv/script.json", json.dumps(script()))
        machine.write("/etc/systemd/system/model.service", MODEL)
        machine.write("/etc/systemd/system/nightcrew.service.d/own.conf", DROP_IN)
        machine.write("/etc/nightcrew/config.toml", CONFIG)
        machine.write("/etc/nightcrew/credentials/scripted", KEY, 0o600)
        (machine.root / "etc/nightcrew/credentials").chmod(0o700)
        source = make_repository(tmp_path_factory.mktemp("boot") / "shop")
        shutil.copytree(source, machine.root / "srv/shop")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "model.service")
        installed = machine.nightcrew("service", "install", "--no-start", "--json")
        assert json.loads(installed.stdout)["failed"] == []
        machine.run("chown", "-R", "nightcrew:nightcrew", "/srv/shop")
        machine.run("systemctl", "start", "nightcrew.service")
        yield machine


def drop(machine: Machine, name: str) -> None:
    text = "---\nrepo: /srv/shop\n---\n# Fix mean()\n\nmean([1, 2, 3]) must be 2.\n"
    machine.write(f"/var/lib/nightcrew/inbox/{name}.md", text)
    machine.run("chown", "nightcrew:", f"/var/lib/nightcrew/inbox/{name}.md")


def delivered(machine: Machine, name: str) -> bool:
    report = machine.root / f"var/lib/nightcrew/outbox/{name}.report.md"
    if not report.exists():
        return False
    assert report.read_text().startswith("# Delivered and verified"), report.read_text()
    return True


def status(machine: Machine) -> str:
    return machine.show("nightcrew.service", "StatusText")


def restarts(machine: Machine) -> int:
    return int(machine.show("nightcrew.service", "NRestarts"))


def test_the_installed_service_is_ready_and_says_what_it_does(machine: Machine) -> None:
    assert machine.show("nightcrew.service", "ActiveState") == "active"
    machine.until(lambda: status(machine) == "idle: nothing is queued", "the status")
    said = json.loads(machine.nightcrew("service", "status", "--json").stdout)
    assert said["active"] and said["systemd"] and said["drop_ins"]
    main = int(machine.show("nightcrew.service", "MainPID"))
    facts = machine.run("cat", f"/proc/{main}/status").stdout
    assert "\nCapEff:\t0000000000000000\n" in facts
    assert "\nNoNewPrivs:\t1\n" in facts
    assert "\nUid:\t0\t" not in facts


def test_a_dropped_task_is_delivered_from_a_box_under_the_hardening(machine: Machine) -> None:
    drop(machine, "first")
    machine.until(lambda: "step 1 of 1" in status(machine), "a status that says the step")
    assert status(machine).startswith("1 running: first ")
    machine.until(lambda: delivered(machine, "first"), "the report", 120)
    listing = ("git", "-c", "safe.directory=*", "-C", "/srv/shop", "branch", "--list", "nightcrew/*")
    assert machine.run(*listing).stdout.count("nightcrew/") == 1


def test_a_killed_service_is_started_again_and_the_task_goes_on(machine: Machine) -> None:
    before = restarts(machine)
    drop(machine, "killed")
    machine.until(lambda: "killed" in status(machine) and "step" in status(machine), "the task at work")
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "nightcrew.service")
    machine.until(lambda: delivered(machine, "killed"), "the report", 120)
    assert restarts(machine) == before + 1
    assert "was cut off and goes on" in machine.log("-u", "nightcrew.service")


def test_a_frozen_service_is_killed_by_the_watchdog_and_started_again(machine: Machine) -> None:
    before = restarts(machine)
    machine.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "nightcrew.service")
    machine.until(lambda: restarts(machine) == before + 1, "the restart")
    machine.until(lambda: machine.show("nightcrew.service", "ActiveState") == "active", "it is back")
    assert "Watchdog timeout" in machine.log("-u", "nightcrew.service")


def test_a_reload_takes_a_changed_configuration(machine: Machine) -> None:
    main = machine.show("nightcrew.service", "MainPID")
    machine.write("/etc/nightcrew/config.toml", CONFIG.replace("concurrency = 1", "concurrency = 2"))
    machine.run("systemctl", "reload", "nightcrew.service")
    machine.until(lambda: "at once: concurrency" in machine.log("-u", "nightcrew.service"), "what was read")
    machine.write("/etc/nightcrew/config.toml", "concurrency = nothing")
    machine.run("systemctl", "reload", "nightcrew.service")
    machine.until(lambda: "the old one stays" in status(machine), "the refusal")
    machine.write("/etc/nightcrew/config.toml", CONFIG)
    machine.run("systemctl", "reload", "nightcrew.service")
    machine.until(lambda: "the old one stays" not in status(machine), "the end of it")
    assert machine.show("nightcrew.service", "MainPID") == main


def test_a_stop_in_the_middle_of_a_task_is_quick_and_the_next_start_goes_on(machine: Machine) -> None:
    drop(machine, "stopped")
    machine.until(lambda: "stopped" in status(machine) and "step" in status(machine), "the task at work")
    began = time.monotonic()
    machine.run("systemctl", "stop", "nightcrew.service")
    assert time.monotonic() - began < 15
    assert machine.show("nightcrew.service", "Result") == "success"
    machine.run("systemctl", "start", "nightcrew.service")
    machine.until(lambda: delivered(machine, "stopped"), "the report", 120)


def test_a_client_at_the_socket_starts_the_service(machine: Machine) -> None:
    machine.run("systemctl", "stop", "nightcrew.service")
    machine.run("systemctl", "start", "nightcrew.socket")
    ask = "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8642, timeout=60); "
    ask += "c.request('GET', '/mcp'); print(c.getresponse().status)"
    environ = ["env", "LD_LIBRARY_PATH=/opt/python/lib", "/opt/python/bin/python3", "-S", "-c", ask]
    assert machine.run(*environ).stdout.strip() in ("400", "405", "406")
    assert machine.show("nightcrew.service", "ActiveState") == "active"


def test_the_journal_has_one_line_of_json_an_event_and_no_key(machine: Machine) -> None:
    lines = machine.log("-u", "nightcrew.service", "-o", "cat").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    ended = [event for event in events if event.get("event") == "task_ended"]
    assert len(ended) == 3 and all(event["task"] for event in ended)
    assert KEY not in "\n".join(lines)


def test_uninstalling_leaves_the_data_and_says_where(machine: Machine) -> None:
    gone = machine.nightcrew("service", "uninstall")
    assert "tasks and results stay in /var/lib/nightcrew" in gone.stderr
    assert machine.show("nightcrew.service", "ActiveState") == "inactive"
    assert not (machine.root / "etc/systemd/system/nightcrew.service").exists()
    assert delivered(machine, "stopped")
