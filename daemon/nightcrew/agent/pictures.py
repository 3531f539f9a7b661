"""The pictures that came with a task, as the first message to a model that takes pictures carries them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from nightcrew.errors import AttachmentRefused
from nightcrew_tools.contract import TaskRequest
from nightcrew_workspaces.workspace import Workspace


def picture_parts(request: TaskRequest, workspace: Workspace) -> list[Mapping[str, object]]:
    """Parts as OpenAI's API has them, the same bytes each time. Raises `AttachmentRefused`: one is not as it came."""
    digests = {one.path: (one.sha256, one.image) for one in request.attachments}
    parts: list[Mapping[str, object]] = []
    for path in request.images:
        digest, kind = digests[path]
        data = _read(workspace.attachments, path, digest)
        url = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _read(folder: Path | None, path: str, digest: str) -> bytes:
    try:
        data = (folder / path).read_bytes() if folder is not None else b""
    except OSError as error:
        raise AttachmentRefused(f"{path} cannot be read ({error.strerror}); submit the task again") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise AttachmentRefused(f"{path} is not what came with the task; submit the task again")
    return data
