"""The cards of this machine, as NVIDIA's management library (NVML) reports them; it needs no CUDA."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
INSTALL = "pip install 'nightcrew[serving]'"


@dataclass(frozen=True)
class Card:
    """One card. Sizes are in GiB, as the driver counts them: PyTorch sees a little less."""

    id: int
    """Its number as nvidia-smi gives it, which is the order of the PCI bus."""
    name: str
    total_gib: float
    free_gib: float
    capability: str
    """Compute capability, such as `12.0`; empty where the driver does not tell."""
    processes: tuple[int, ...] = ()
    """Those that compute on it."""


@dataclass(frozen=True)
class Machine:
    """What the driver says."""

    driver: str
    cuda: tuple[int, int]
    """The newest CUDA that it takes."""
    cards: tuple[Card, ...]


class NoNvml(Exception):
    """The cards cannot be read: says why, and what to do."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


def read_machine(nvml: Any = None) -> Machine:
    """Ask the driver. `nvml` is the module `pynvml` where another is not given. Raises `NoNvml`."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            raise NoNvml("the driver's library cannot be asked: nvidia-ml-py is not installed", INSTALL) from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NoNvml(_sentence(error, nvml), _remedy(error, nvml)) from None
    try:
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        return Machine(
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            cuda=(cuda // 1000, cuda % 1000 // 10),
            cards=tuple(_card(nvml, number) for number in range(nvml.nvmlDeviceGetCount())),
        )
    except nvml.NVMLError as error:
        raise NoNvml(_sentence(error, nvml), _remedy(error, nvml)) from None
    finally:
        nvml.nvmlShutdown()


def _card(nvml: Any, number: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        capability = "{}.{}".format(*nvml.nvmlDeviceGetCudaComputeCapability(handle))
        processes = tuple(process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except nvml.NVMLError:  # old drivers, and WSL2 for the processes
        capability, processes = "", ()
    return Card(
        id=number,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_gib=round(memory.total / GIB, 2),
        free_gib=round(memory.free / GIB, 2),
        capability=capability,
        processes=processes,
    )


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _sentence(error: Any, nvml: Any) -> str:
    if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return "there is no NVIDIA driver"
    if error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "the driver's library and its kernel module are of two versions"
    return f"the driver answers: {error}"


def _remedy(error: Any, nvml: Any) -> str:
    if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return ""
    if error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "restart the machine: the driver was updated while its module was loaded"
    if error.value == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return "load the kernel module (modprobe nvidia), or install the driver again for this kernel"
    if error.value == nvml.NVML_ERROR_NO_PERMISSION:
        return "let this user open /dev/nvidia*"
    return "see whether nvidia-smi runs for this user"


def has_card(root: Path = Path("/")) -> bool:
    """Whether there seems to be an NVIDIA card at all, driver or not: its device files, or it stands on the PCI bus."""
    if (root / "dev/nvidiactl").exists() or (root / "dev/dxg").exists():
        return True
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
            kind = (device / "class").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):  # NVIDIA; a display controller
            return True
    return False


def is_wsl(version: Path = Path("/proc/version")) -> bool:
    """Whether this is Linux under Windows."""
    try:
        return re.search("microsoft", version.read_text(encoding="utf-8"), re.IGNORECASE) is not None
    except OSError:
        return False
