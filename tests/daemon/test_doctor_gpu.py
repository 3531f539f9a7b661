"""What `nightcrew doctor` says of cards, drivers and SGLang, and of the door for MCP clients."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fakes import nvml
from fakes.nvml import FakeCard, machine
from nightcrew.cli.doctor import Check
from nightcrew.cli.doctor_gpu import gpu_checks
from nightcrew.cli.doctor_mcp import mcp_check
from nightcrew.config import Config, McpSettings
from nightcrew.serving import embedded, engine, gpus
from nightcrew.serving.engine import Engine, NoEngine, nvcc_release, read_engine
from nightcrew.serving.gpus import NoNvml, has_card, is_wsl, read_machine

pytestmark = pytest.mark.timeout(20)

SGLANG = Engine(python="3.11.9", sglang="0.5.23", torch="2.14.1", cuda=(13, 0))
HOPPER = FakeCard("NVIDIA H100 80GB HBM3", 79.65, 79.1, (9, 0))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A machine with SGLang, room and memory; no WSL2, no compiler."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(engine, "read_engine", lambda _python: SGLANG)
    monkeypatch.setattr(engine, "nvcc_release", lambda _environ: None)
    monkeypatch.setattr(gpus, "is_wsl", lambda: False)
    monkeypatch.setattr(gpus, "has_card", lambda: True)
    monkeypatch.setattr(embedded, "available_memory", lambda: 100 * nvml.GIB)
    return Config(home=tmp_path / "home")


def lines(config: Config, name: str) -> list[Check]:
    return [check for check in gpu_checks(config) if check.name == name]


def test_a_card_is_shown_with_what_is_free_on_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    library = machine(monkeypatch, HOPPER, FakeCard(free_gib=40.2, processes=(4711, 4712)))
    first, second = lines(config, "gpu")
    assert (first.level, first.text) == (
        "ok",
        "0: NVIDIA H100 80GB HBM3, 79.1 of 79.7 GiB free, compute capability 9.0",
    )
    assert second.level == "warn"
    assert "(processes 4711, 4712)" in second.fix and "--gpu-gib 40" in second.fix
    assert library.open == 0


def test_a_machine_without_a_card_is_no_fault_and_gets_one_line(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "has_card", lambda: False)
    monkeypatch.setattr("pynvml.nvmlLib", None)

    def absent(_name: str) -> None:
        raise OSError("cannot open shared object file")

    monkeypatch.setattr("pynvml.CDLL", absent)
    assert [(check.name, check.level) for check in gpu_checks(config)] == [("gpu", "ok")]
    monkeypatch.setattr(gpus, "has_card", lambda: True)
    (line,) = gpu_checks(config)
    assert line.level == "warn" and "there is no NVIDIA driver" in line.text and "nvidia-driver" in line.fix


@pytest.mark.parametrize(
    ("code", "why", "remedy"),
    [
        (nvml.MISMATCH, "two versions", "restart the machine"),
        (nvml.NOT_LOADED, "driver answers", "modprobe nvidia"),
        (nvml.NO_PERMISSION, "driver answers", "/dev/nvidia"),
    ],
)
def test_a_driver_that_does_not_work_is_told_apart(
    config: Config, monkeypatch: pytest.MonkeyPatch, code: int, why: str, remedy: str
) -> None:
    machine(monkeypatch, init=code)
    (line,) = gpu_checks(config)
    assert line.level == "warn" and why in line.text and remedy in line.fix


def test_without_the_library_doctor_says_how_to_install_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (line,) = gpu_checks(config)
    assert line.level == "warn" and line.fix == "pip install 'nightcrew[serving]'"


def test_an_old_driver_is_told_which_one_sglangs_cuda_needs(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, HOPPER, driver="570.86.10", cuda=12080)
    (line,) = lines(config, "driver")
    assert line.level == "warn"
    assert line.text == "570.86.10, for CUDA up to 12.8; SGLang's PyTorch 2.14.1 has CUDA 13.0"
    assert "580.65 or newer" in line.fix
    machine(monkeypatch, HOPPER, driver="580.95.05", cuda=13000)
    assert lines(config, "driver")[0].level == "ok"


def test_sglang_is_shown_or_how_to_get_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, HOPPER)
    (line,) = lines(config, "sglang")
    assert line.level == "ok" and line.text.startswith("0.5.23, PyTorch 2.14.1 (")
    monkeypatch.setattr(engine, "read_engine", lambda _python: Engine("3.11.9", "", "", None))
    (line,) = lines(config, "sglang")
    assert line.level == "warn" and f"uv venv {config.home}/sglang" in line.fix

    def absent(python: Path) -> Engine:
        raise NoEngine(f"{python} is not there")

    monkeypatch.setattr(engine, "read_engine", absent)
    (line,) = lines(config, "sglang")
    assert line.level == "warn" and "is not there" in line.text and "[serving]" in line.fix


def test_a_blackwell_card_wants_a_compiler_that_knows_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, HOPPER)
    assert lines(config, "nvcc") == []
    machine(monkeypatch, FakeCard())
    (line,) = lines(config, "nvcc")
    assert line.level == "warn" and "12.9 or newer" in line.fix and "FLASHINFER_CUDA_ARCH_LIST=12.0f" in line.fix
    monkeypatch.setattr(engine, "nvcc_release", lambda _environ: (12, 8))
    assert "nvcc 12.8" in lines(config, "nvcc")[0].text
    monkeypatch.setattr(engine, "nvcc_release", lambda _environ: (13, 0))
    assert lines(config, "nvcc")[0].level == "ok"


def test_windows_takes_its_share_and_loading_needs_memory(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, FakeCard())
    monkeypatch.setattr(gpus, "is_wsl", lambda: True)
    assert any("WSL2" in check.text and check.level == "warn" for check in lines(config, "gpu"))
    assert lines(config, "memory")[0].level == "ok"
    monkeypatch.setattr(embedded, "available_memory", lambda: 8 * nvml.GIB)
    assert lines(config, "memory")[0].level == "warn"
    assert str(config.home.parent / "hf/hub") in lines(config, "weights")[0].text


def test_what_an_interpreter_has_is_read_without_importing_it(tmp_path: Path) -> None:
    site = tmp_path / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    for name, version in (("sglang", "0.5.23"), ("torch", "2.14.1"), ("nvidia_cuda_runtime", "13.0.96")):
        (site / f"{name}-{version}.dist-info").mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        (site / f"{name}-{version}.dist-info/METADATA").write_text(text)
    (site / "sglang.py").write_text("raise SystemExit('imported')")
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
    found = read_engine(python)
    assert (found.sglang, found.torch, found.cuda) == ("0.5.23", "2.14.1", (13, 0))
    with pytest.raises(NoEngine, match="is not there"):
        read_engine(tmp_path / "bin/python4")
    other = tmp_path / "bin/other"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    with pytest.raises(NoEngine, match="no Python that answers"):
        read_engine(other)


def test_the_compiler_is_asked_for_its_release(tmp_path: Path) -> None:
    assert nvcc_release({"CUDA_HOME": str(tmp_path), "PATH": ""}) is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.9, V12.9.86'\n")
    (tmp_path / "bin/nvcc").chmod(0o755)
    assert nvcc_release({"CUDA_HOME": str(tmp_path), "PATH": ""}) == (12, 9)


def test_cards_and_windows_are_seen_without_a_driver(tmp_path: Path) -> None:
    assert not has_card(tmp_path)
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x040300\n")
    assert not has_card(tmp_path), "its sound device alone"
    (device / "class").write_text("0x030200\n")
    assert has_card(tmp_path)
    (tmp_path / "version").write_text("Linux version 5.15.167.4-microsoft-standard-WSL2")
    assert is_wsl(tmp_path / "version") and not is_wsl(tmp_path / "none")


def test_a_card_that_does_not_tell_its_capability_is_still_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    library = machine(monkeypatch, HOPPER)
    monkeypatch.setattr(library, "nvmlDeviceGetCudaComputeCapability", lambda *_: nvml.NO_PERMISSION)
    (card,) = read_machine().cards
    assert (card.name, card.capability) == ("NVIDIA H100 80GB HBM3", "")
    library = machine(monkeypatch, HOPPER)
    monkeypatch.setattr(library, "nvmlDeviceGetCount_v2", lambda _count: nvml.NO_PERMISSION)
    with pytest.raises(NoNvml):
        read_machine()


# --- the door for MCP clients


def door(tmp_path: Path, **settings) -> Check:
    return mcp_check(Config(home=tmp_path, mcp=McpSettings(**settings)))


@pytest.fixture
def project(open_tmp: Path) -> Path:
    project = open_tmp / "shop"
    project.mkdir()
    if os.geteuid() == 0:
        os.chown(project, 65534, 65534)
    return project


def test_a_door_that_is_closed_is_no_fault_unless_somebody_meant_to_open_it(tmp_path: Path) -> None:
    assert door(tmp_path).level == "ok"
    assert door(tmp_path, token_file=tmp_path / "token").level == "warn"


def test_a_door_that_can_be_opened_is_shown(tmp_path: Path, project: Path) -> None:
    line = door(tmp_path, listen="127.0.0.1:8642", roots=(project,))
    assert line.level == "ok"
    assert line.text == (f"http://127.0.0.1:8642/mcp: files, git, shell, tasks over {project}; no token is asked for")
    token = tmp_path / "new/token"
    assert f"makes {token}" in door(tmp_path, listen="8642", token_file=token).text
    assert not token.parent.exists(), "looking makes nothing"


def test_what_would_keep_the_service_from_starting_fails(tmp_path: Path, project: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length full me\n")
    token.chmod(0o644)
    wrong = {
        "is no address": door(tmp_path, listen="somewhere"),
        "a token is needed": door(tmp_path, listen="0.0.0.0:8642"),
        "others may read it": door(tmp_path, listen="8642", token_file=token),
        str(project / "gone"): door(tmp_path, listen="8642", roots=(project / "gone",)),
        "'filez'": door(tmp_path, listen="8642", roots=(project,), tools=("filez",)),
        "cannot be made": door(tmp_path, listen="8642", token_file=token / "below"),
    }
    for said, line in wrong.items():
        assert line.level == "fail" and said in line.text, line
        assert "nightcrew up" in line.fix
    token.chmod(0o600)
    assert door(tmp_path, listen="0.0.0.0:8642", token_file=token, host_names=("box.lan",)).level == "ok"
