"""What kind of file some bytes are: by how they begin, else by the file's name.

Signatures are those of the IANA registrations and the WHATWG MIME Sniffing Standard, section 6.
"""

from __future__ import annotations

import mimetypes

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"%PDF-", "application/pdf"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
    (0, b"\x7fELF", "application/x-elf"),
)
_NAMES = mimetypes.MimeTypes()  # the built-in table alone: the machine's own would make answers differ


def mime_type(data: bytes, path: str) -> str:
    """The MIME type of a file. A picture is only what is one by its bytes, in a format that models take."""
    for at, signature, kind in _SIGNATURES:
        if data.startswith(signature, at) and not (
            kind in {"image/webp", "audio/wav"} and not data.startswith(b"RIFF")
        ):
            return kind
    named = _NAMES.guess_type(path, strict=True)[0]
    return named if named is not None and not named.startswith("image/") else "application/octet-stream"
