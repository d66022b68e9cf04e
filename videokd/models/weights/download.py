"""Published files, fetched once and checked against the digest that their authors give."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from torch import hub

from videokd.errors import UserError
from videokd.files import written_beside
from videokd.models.catalog.nouns import ModelEntry, PublishedFile

OnProgress = Callable[[int, int], None]
"""`on_progress(done, total)`, in bytes."""

_CHUNK_BYTES = 1 << 20
_SECONDS_OF_SILENCE = 30


def published_weights(
    entry: ModelEntry, *, folder: Path | None = None, on_progress: OnProgress | None = None
) -> Path:
    """The file with the published weights of a network, downloaded where it is not there yet.

    It is written beside its place and renamed, so that a transfer that breaks off leaves nothing.

    Args:
        entry: of the catalogue.
        folder: where it lies or goes to; None is the folder of `torch.hub`'s checkpoints
            (`TORCH_HOME` moves it), where files that torchvision has downloaded already lie.
        on_progress: called after each MiB, where the server tells the size.

    Raises:
        UserError: no weights are published, the server does not answer (the message names the
            address and where to put the file by hand), or the file is not what its digest says.
    """
    if entry.weights is None:
        raise UserError(f"{entry.name}: no weights are published; train it, or give a file")
    file = entry.weights
    path = place_of(file, folder)
    if path.is_file():
        _refuse_other_bytes(path, _digest_of(path), file, advice=f"remove {path} to download it")
        return path
    with written_beside(path) as part:
        _refuse_other_bytes(
            path, _fetch(file.url, part, path, on_progress), file, advice="try again"
        )
    return path


def place_of(file: PublishedFile, folder: Path | None = None) -> Path:
    """Where a published file lies once it is downloaded.

    Under the name that its address ends in; where no digest is published, under its whole path,
    for `kinetics/SLOW_8x8_R50.pyth` and `ssv2/SLOW_8x8_R50.pyth` are two files.
    """
    parts = urlsplit(file.url).path.strip("/").split("/")
    name = parts[-1] if file.sha256_prefix is not None else "__".join(parts)
    return (folder if folder is not None else Path(hub.get_dir()) / "checkpoints") / name


def _fetch(url: str, part: Path, path: Path, on_progress: OnProgress | None) -> str:
    """Write what `url` answers to `part`; returns its SHA-256."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: only http and https addresses are downloaded")
    broken = urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError
    try:
        with (
            urllib.request.urlopen(url, timeout=_SECONDS_OF_SILENCE) as response,  # noqa: S310
            part.open("wb") as file,
        ):
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            done, digest = _copy(response, file, total, on_progress)
    except broken as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{url} cannot be downloaded ({reason}); put the file there by hand: {path}"
        ) from None
    if total is not None and done != total:
        raise UserError(
            f"{url} broke off after {done} of {total} bytes; try again, or put the file there by "
            f"hand: {path}"
        )
    return digest


def _copy(
    response: BinaryIO, file: BinaryIO, total: int | None, on_progress: OnProgress | None
) -> tuple[int, str]:
    """Copy chunk by chunk: bytes and SHA-256 of what was copied."""
    sha256 = hashlib.sha256()
    done = 0
    while chunk := response.read(_CHUNK_BYTES):
        file.write(chunk)
        sha256.update(chunk)
        done += len(chunk)
        if on_progress is not None and total:
            on_progress(done, total)
    return done, sha256.hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_other_bytes(path: Path, digest: str, file: PublishedFile, *, advice: str) -> None:
    if file.sha256_prefix is None or digest.startswith(file.sha256_prefix):
        return
    raise UserError(
        f"{path}: its SHA-256 starts with {digest[: len(file.sha256_prefix)]}, that of {file.url} "
        f"with {file.sha256_prefix}; {advice}"
    )
