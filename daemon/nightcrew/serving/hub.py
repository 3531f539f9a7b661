"""The hub (huggingface.co, or a mirror that speaks its API), by its own client: what a repository has, and its bytes.

The client's own downloads begin anew after a crash, whatever had come (it gives every partial file a new name), so only
its requests are used, and the files are put together here. The one module that imports it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, errors, hf_hub_url
from huggingface_hub.file_download import http_get  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.utils.tqdm import tqdm
from pydantic import SecretStr

from nightcrew.errors import PullError
from nightcrew.serving.snapshots import File, Listing

# Or it would tell the hub about this machine's programs, and ask it for a list of them first.
constants.HF_HUB_DISABLE_TELEMETRY = True


@dataclass(frozen=True)
class Hub:
    """The hub's address, and who asks."""

    endpoint: str
    token: SecretStr | None = None

    def look(self, repo: str) -> Listing:
        """What the repository has now. Raises `PullError`."""
        with self._told(repo):
            api = HfApi(endpoint=self.endpoint, token=self._secret)
            info = api.model_info(repo, files_metadata=True, timeout=60)
            return Listing(repo, info.sha or "", tuple(map(_file, info.siblings or ())))

    def fetch(self, listing: Listing, file: File, target: Path, tell: Callable[[int], None]) -> None:
        """Bring `target` from what it has to the whole file; `tell` hears of new bytes, and of lost ones as negative.

        Raises `PullError`, and whatever `tell` raises; what has come until then stays.
        """
        with self._told(listing.repo), _Sink(target, tell) as sink:
            url = hf_hub_url(listing.repo, file.name, revision=listing.commit, endpoint=self.endpoint)
            # Compressed bytes could not be resumed.
            headers = {**build_hf_headers(token=self._secret), "Accept-Encoding": "identity"}
            http_get(url, sink, resume_size=sink.tell(), headers=headers, expected_size=file.size, tqdm_class=_Silent)

    @property
    def _secret(self) -> str | bool:
        # False keeps the client from looking for a token by itself.
        return self.token.get_secret_value() if self.token else False

    @contextmanager
    def _told(self, repo: str) -> Generator[None]:
        """The client's errors as sentences."""
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            yield
        except errors.GatedRepoError:
            raise PullError(self._gated(repo)) from None
        except errors.RepositoryNotFoundError:
            raise PullError(
                f"{self.endpoint} has no {repo}, or shows it only to accounts that may see it: look at "
                f"{self.endpoint}/{repo}, and set HF_TOKEN when it is yours"
            ) from None
        except errors.OfflineModeIsEnabled:
            raise PullError("HF_HUB_OFFLINE forbids the hub: unset it, or take a mirror by --from DIR") from None
        except errors.HfHubHTTPError as error:
            raise PullError(f"{self.endpoint}: {repo}: {_first_line(error)}; try again later") from None
        except httpx2.HTTPError as error:
            raise PullError(
                f"{self.endpoint} cannot be reached ({type(error).__name__}: {error}); what has come stays: try again, "
                "set https_proxy or HF_ENDPOINT, or take a mirror by --from DIR"
            ) from None

    def _gated(self, repo: str) -> str:
        page = f"{self.endpoint}/{repo}"
        if self.token is None:
            return f"{repo} is given only to who accepts its licence: accept it at {page}, then set HF_TOKEN"
        return f"{repo}: the account of HF_TOKEN has not accepted its licence, or not been admitted yet: see {page}"


class _Sink(FileIO):
    """A partial file that says what comes."""

    def __init__(self, path: Path, tell: Callable[[int], None]) -> None:
        super().__init__(path, "ab")
        self._tell = tell
        self.seek(0, 2)

    def write(self, piece: Any, /) -> int:
        written = super().write(piece)
        self._tell(written)
        return written

    def truncate(self, size: int | None = None, /) -> int:
        before = self.seek(0, 2)
        after = super().truncate(size if size is not None else 0)
        self._tell(after - before)
        return after


class _Silent(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """The progress is shown by who asked for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # pyright: ignore[reportUnknownMemberType]


def _file(entry: RepoSibling) -> File:
    digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
    return File(entry.rfilename, entry.size or 0, digest or "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
