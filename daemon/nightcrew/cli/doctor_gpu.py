"""What `nightcrew doctor` says of serving models here: cards, driver, SGLang, and room for weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightcrew.cli.doctor import Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nightcrew.config import Config
    from nightcrew.serving.engine import Engine
    from nightcrew.serving.gpus import Card, Machine

_GIB = 2**30
_BLACKWELL = "12.0"
_NVCC = (12, 9)
_DRIVERS = {12: "525.60", 13: "580.65"}
"""The first Linux driver of each CUDA (NVIDIA's CUDA release notes, table of minor version compatibility)."""
_ROOM_GIB = 64.0
_MEMORY_GIB = 16.0


def gpu_checks(config: Config) -> Iterator[Check]:
    """The lines, the card first; one line alone on a machine that has none, which is no fault."""
    from nightcrew.config import environment
    from nightcrew.serving.gpus import NoNvml, has_card, is_wsl, read_machine

    try:
        machine = read_machine()
    except NoNvml as error:
        if has_card():
            yield Check("gpu", "warn", f"there is an NVIDIA card, but {error.why}", error.remedy or _no_driver())
        else:
            yield Check("gpu", "ok", "none that could serve models: they have to be served elsewhere")
        return
    yield from map(_card, machine.cards)
    if not machine.cards:
        yield Check("gpu", "ok", f"the driver {machine.driver} shows no card")
        return
    if is_wsl():
        fix = "plan with what is free: nightcrew crew plan NAME --gpu-gib, and give WSL2 memory in .wslconfig"
        yield Check("gpu", "warn", "WSL2: Windows keeps up to about 16 GiB of a large card for itself", fix)
    engine = _engine(config)
    yield _driver(machine, engine)
    yield from _sglang(config, engine)
    if any(card.capability == _BLACKWELL for card in machine.cards):
        yield _compiler(environment())
    yield _room(environment())
    yield from _memory()


def _no_driver() -> str:
    return "install NVIDIA's driver (Debian: apt-get install nvidia-driver), then restart"


def _card(card: Card) -> Check:
    text = f"{card.id}: {card.name}, {card.free_gib:.1f} of {card.total_gib:.1f} GiB free"
    text += f", compute capability {card.capability}" if card.capability else ""
    if card.free_gib < 0.9 * card.total_gib:
        who = f" (processes {', '.join(map(str, card.processes))})" if card.processes else ""
        fix = (
            f"a plan for the whole card needs what is in use{who}: stop it, or plan with --gpu-gib {card.free_gib:.0f}"
        )
        return Check("gpu", "warn", text, fix)
    return Check("gpu", "ok", text)


def _engine(config: Config) -> Engine | str:
    """What the interpreter for servers has, or why it cannot be asked."""
    from nightcrew.serving.assembly import python_of
    from nightcrew.serving.engine import NoEngine, read_engine

    try:
        return read_engine(python_of(config))
    except NoEngine as error:
        return str(error)


def _driver(machine: Machine, engine: Engine | str) -> Check:
    text = f"{machine.driver}, for CUDA up to {_dotted(machine.cuda)}"
    if isinstance(engine, str) or engine.cuda is None or engine.cuda[0] <= machine.cuda[0]:
        return Check("driver", "ok", text)
    needed = _DRIVERS.get(engine.cuda[0])
    newer = f"{needed} or newer" if needed else "a newer one"
    fix = f"install {newer}, or a PyTorch built for CUDA {machine.cuda[0]} beside SGLang"
    return Check("driver", "warn", f"{text}; SGLang's PyTorch {engine.torch} has CUDA {_dotted(engine.cuda)}", fix)


def _sglang(config: Config, engine: Engine | str) -> Iterator[Check]:
    from nightcrew.serving.assembly import python_of

    python = python_of(config)
    make = f"uv venv {config.home}/sglang && uv pip install --python {config.home}/sglang/bin/python sglang"
    if isinstance(engine, str):
        yield Check("sglang", "warn", engine, f"correct `python` under [serving], or make one: {make}")
    elif not engine.sglang:
        yield Check("sglang", "warn", f"is not installed beside {python}", f"an environment of its own: {make}")
    else:
        torch = f", PyTorch {engine.torch}" if engine.torch else ", no PyTorch"
        yield Check("sglang", "ok", f"{engine.sglang}{torch} ({python})")


def _compiler(environ: Mapping[str, str]) -> Check:
    from nightcrew.serving.engine import nvcc_release

    found = nvcc_release(environ)
    what = f"nvcc {_dotted(found)}" if found else "no nvcc"
    if found is not None and found >= _NVCC:
        return Check("nvcc", "ok", f"{_dotted(found)} compiles kernels for compute capability {_BLACKWELL}")
    fix = (
        f"install CUDA's compiler {_dotted(_NVCC)} or newer (cuda-nvcc) and let CUDA_HOME name it; a server that you "
        "start yourself also wants FLASHINFER_CUDA_ARCH_LIST=12.0f"
    )
    text = f"{what}: kernels for compute capability {_BLACKWELL} are compiled at the first start"
    return Check("nvcc", "warn", text, fix)


def _room(environ: Mapping[str, str]) -> Check:
    import shutil

    from nightcrew.cli.doctor import nearest
    from nightcrew.config import hub_dir

    folder = hub_dir(environ)
    free = shutil.disk_usage(nearest(folder)).free / _GIB
    fix = "make room, or set HF_HOME to a larger disk; `nightcrew crew pull NAME --dry-run` says how much a crew needs"
    return Check("weights", "ok" if free > _ROOM_GIB else "warn", f"{free:.0f} GiB free at {folder}", fix)


def _memory() -> Iterator[Check]:
    from nightcrew.serving.embedded import available_memory

    free = available_memory()
    if free is not None:
        fix = "loading weights and the servers themselves need more: stop something else"
        level = "ok" if free > _MEMORY_GIB * _GIB else "warn"
        yield Check("memory", level, f"{free / _GIB:.0f} GiB free", fix)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
