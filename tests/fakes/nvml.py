"""NVIDIA's management library, as a shared library would answer: put below the real `pynvml`, which fills C pointers.

with machine(monkeypatch, FakeCard(...), driver="580.95.05", cuda=13000): ... read_machine() ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pynvml
import pytest

SUCCESS, NO_PERMISSION, INSUFFICIENT_SIZE, NOT_LOADED, MISMATCH = 0, 4, 7, 9, 18
GIB = 2**30


@dataclass(frozen=True)
class FakeCard:
    name: str = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
    total_gib: float = 95.59
    free_gib: float = 94.97
    capability: tuple[int, int] = (12, 0)
    processes: tuple[int, ...] = ()


class FakeLibrary:
    """What `libnvidia-ml.so.1` exports, as far as it is used; each function returns an error code."""

    def __init__(self, cards: tuple[FakeCard, ...], driver: str, cuda: int, init: int) -> None:
        self._cards, self._driver, self._cuda, self._init = cards, driver, cuda, init
        self.open = 0

    def nvmlInitWithFlags(self, _flags: int) -> int:
        self.open += self._init == SUCCESS
        return self._init

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return SUCCESS

    def nvmlErrorString(self, code: int) -> bytes:
        return f"NVML error {code}".encode()

    def nvmlSystemGetDriverVersion(self, text: Any, _size: Any) -> int:
        text.value = self._driver.encode()
        return SUCCESS

    def nvmlSystemGetCudaDriverVersion_v2(self, version: Any) -> int:
        version._obj.value = self._cuda
        return SUCCESS

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self._cards)
        return SUCCESS

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        self._handles = getattr(self, "_handles", {})
        self._handles[id(handle._obj)] = index.value
        return SUCCESS

    def _card(self, handle: Any) -> FakeCard:
        return self._cards[self._handles[id(handle)]]

    def nvmlDeviceGetName(self, handle: Any, text: Any, _size: Any) -> int:
        text.value = self._card(handle).name.encode()
        return SUCCESS

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        card = self._card(handle)
        memory._obj.total, memory._obj.free = int(card.total_gib * GIB), int(card.free_gib * GIB)
        memory._obj.used = memory._obj.total - memory._obj.free
        return SUCCESS

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = self._card(handle).capability
        return SUCCESS

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, entries: Any) -> int:
        processes = self._card(handle).processes
        count._obj.value = len(processes)
        if entries is None:
            return INSUFFICIENT_SIZE if processes else SUCCESS
        for entry, pid in zip(entries, processes, strict=False):
            entry.pid = pid
        return SUCCESS


def machine(
    monkeypatch: pytest.MonkeyPatch,
    *cards: FakeCard,
    driver: str = "580.95.05",
    cuda: int = 13000,
    init: int = SUCCESS,
) -> FakeLibrary:
    """Lets `pynvml` find this library until the test ends."""
    library = FakeLibrary(cards, driver, cuda, init)
    monkeypatch.setattr(pynvml, "CDLL", lambda _name: library)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return library
