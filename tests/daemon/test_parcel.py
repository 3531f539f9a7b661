"""The file by which a task moves: it is read as it was written, and everything else is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from nightcrew.service import parcel
from nightcrew.service.parcel import EVENTS, Manifest, ParcelRefused, open_parcel, write_parcel

COMMIT = "c" * 40
MANIFEST = Manifest(
    task="6fpevs1cq",
    name="fix",
    ended=False,
    machine="there",
    at="2026-01-01T00:00:00.000Z",
    nightcrew="0.1.0",
    base_commit="b" * 40,
    tree="a" * 40,
    commits=(COMMIT,),
    files={},
)
PACK = f"objects/{COMMIT}.pack"
CONTENTS = {EVENTS: b'{"seq":1}\n', PACK: b"PACK" + bytes(3000)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fix.tar"
    write_parcel(path, MANIFEST, CONTENTS)
    return path


def refused(file: Path, why: str) -> None:
    with pytest.raises(ParcelRefused, match=why):
        open_parcel(file)


def entries(file: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(file) as archive:
        return [(entry, archive.extractfile(entry).read()) for entry in archive]


def rewrite(file: Path, found: list[tuple[tarfile.TarInfo, bytes]], kind: int = tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(file, "w", format=kind) as archive:
        for entry, content in found:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_it_is_read_as_it_was_written_and_any_tar_can_look_into_it(file: Path):
    found = open_parcel(file)
    with found.copied(PACK) as copy:
        assert copy.read() == CONTENTS[PACK]
    assert found.read(EVENTS) == CONTENTS[EVENTS]
    assert found.manifest.model_copy(update={"files": {}}) == MANIFEST
    found.close()
    assert [entry.name for entry, _ in entries(file)] == ["manifest.json", EVENTS, PACK]
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_would_not_be_read_again_is_not_written(tmp_path: Path):
    for name in ("../evil", "/etc/passwd", "objects/x.pack", "events.jsonl/x", "results/evil"):
        with pytest.raises(ParcelRefused, match="no place"):
            write_parcel(tmp_path / "x", MANIFEST, {name: b""})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "name", ["../../etc/cron.d/x", "/etc/passwd", "objects/../../x.pack", "results/report.md/", "manifest.json/../x"]
)
def test_a_name_that_has_no_place_in_it_is_refused(file: Path, name: str):
    found = entries(file)
    found.append((tarfile.TarInfo(name), b"x"))
    rewrite(file, found)
    refused(file, "has no place in it")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_folders_and_devices_are_refused(file: Path, kind: bytes):
    found = entries(file)
    evil = tarfile.TarInfo("results/patch")
    evil.type, evil.linkname = kind, "/etc/passwd"
    rewrite(file, [*found, (evil, b"")])
    refused(file, "plain files")


def test_extended_headers_are_refused(file: Path):
    found = entries(file)
    found[1][0].pax_headers = {"comment": "x" * 3000}
    rewrite(file, found, tarfile.PAX_FORMAT)
    refused(file, "extensions|no place")


def test_a_changed_byte_anywhere_is_found(file: Path):
    whole = file.read_bytes()
    for place in range(0, whole.index(b"PACK") + 3100, 97):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            found = open_parcel(file)
        except ParcelRefused:
            continue
        # Only what means nothing may differ: owners, times, the padding behind a file.
        assert found.manifest.model_copy(update={"files": {}}) == MANIFEST or place < 2048
        assert found.read(EVENTS) == CONTENTS[EVENTS]
        assert found.read(PACK) == CONTENTS[PACK]
        found.close()


def test_a_file_that_is_cut_off_padded_or_none_at_all_is_refused(file: Path, tmp_path: Path):
    whole = file.read_bytes()
    for size in (0, 1, 511, 512, 1500, 2600, len(CONTENTS[PACK])):
        file.write_bytes(whole[:size])
        refused(file, "cut off|no tar")
    file.write_bytes(whole + b"more")
    refused(file, "behind its end")
    file.write_bytes(whole + bytes(50_000))
    refused(file, "behind its end")
    file.write_bytes(gzip.compress(os.urandom(2000)))
    refused(file, "no tar archive|a number")
    file.unlink()
    refused(file, "cannot be read")
    os.mkfifo(file)
    refused(file, "it is no file")
    (tmp_path / "link").symlink_to("/etc/passwd")
    refused(tmp_path / "link", "cannot be read")


def test_the_same_name_twice_and_sizes_over_the_limit_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch):
    found = entries(file)
    whole = file.read_bytes()
    rewrite(file, [*found, found[1]])
    refused(file, "twice")
    file.write_bytes(whole)
    monkeypatch.setattr(parcel, "_LIMITS", tuple((pattern, min(most, 2000)) for pattern, most in parcel._LIMITS))
    refused(file, "more than")


@pytest.mark.parametrize("field", ["task", "name"])
@pytest.mark.parametrize("name", ["../../evil", "/evil", "", ".", "a/b", "a\n", "é", "x" * 129])
def test_a_task_that_could_not_name_its_files_is_refused(field: str, name: str):
    with pytest.raises(ValidationError):
        Manifest.model_validate({**MANIFEST.model_dump(), field: name})


def test_a_manifest_that_says_otherwise_than_what_is_there_is_refused(file: Path):
    found = entries(file)
    said = json.loads(found[0][1])

    def saying(**changes: object) -> None:
        rewrite(file, [(found[0][0], json.dumps(said | changes).encode()), *found[1:]])

    for changes, why in (
        ({"files": {}}, "what its manifest says"),
        ({"commits": []}, "lacks"),
        ({"ended": True}, "ended"),
        ({"task": "../x"}, "pattern"),
        ({"commits": ["../x"]}, "lacks"),
        ({"version": 2}, "Input should be 1"),
        ({"more": 1}, "Extra inputs"),
        ({"files": said["files"] | {EVENTS: {"size": 10, "sha256": "0" * 64}}}, "damaged"),
    ):
        saying(**changes)
        refused(file, why)
    rewrite(file, found[1:])
    refused(file, "does not begin with manifest")
