"""The files of a cache: where rows lie, and which of them are there.

An epoch's steps are cut into chunks; each process of the run that writes has one shard of a chunk:

    cache.json                               what the cache is of, see `manifest`
    e0003-s000100-r1of2.npy                  rows of the clips that process 1 of 2 saw in the steps
                                             from 100 on of epoch 3, as a NumPy structured array
    e0003-s000100-r1of2.draws.gz             their draws, a line of JSON each, in the same order
    e0003-s000100-r1of2.unreadable.json      videos that did not decode, if any: {id: why}

The rows are written last: a shard whose rows are there is whole. A chunk is there when all shards
of one number of processes are, so another number can go on where an earlier one stopped, and any
number reads: rows are found by (video id, repeat).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from videokd.errors import UserError
from videokd.files import read_text, write_text, written_beside
from videokd.types import Draw

ROWS, DRAWS, UNREADABLE = ".npy", ".draws.gz", ".unreadable.json"
_NAME = re.compile(r"e(\d+)-s(\d+)-r(\d+)of(\d+)\.npy")


class Chunk(NamedTuple):
    """Neighbouring steps of an epoch."""

    epoch: int
    start: int
    """First step, counted within the epoch."""


@dataclass(frozen=True, order=True)
class Shard:
    """The part of a chunk that one process saw."""

    chunk: Chunk
    rank: int
    world_size: int

    @property
    def stem(self) -> str:
        """What its files are called before their suffixes."""
        epoch, start = self.chunk
        return f"e{epoch:04d}-s{start:06d}-r{self.rank}of{self.world_size}"


def draw_digest(draw: Draw) -> int:
    """64 bits of SHA-256 over all that the draw says."""
    return int.from_bytes(hashlib.sha256(draw.to_json().encode()).digest()[:8], "little")


def write_shard(
    folder: Path,
    shard: Shard,
    *,
    rows: NDArray[np.void],
    draws: Sequence[Draw],
    unreadable: Mapping[int, str],
) -> None:
    """Write all files of a shard, the rows last and onto the disk before they have their name."""
    lines = "".join(draw.to_json() + "\n" for draw in draws)
    with written_beside(folder / (shard.stem + DRAWS)) as part:
        # No time of writing inside: the same draws are the same bytes.
        part.write_bytes(gzip.compress(lines.encode(), mtime=0))
    if unreadable:
        write_text(folder / (shard.stem + UNREADABLE), json.dumps(dict(unreadable)) + "\n")
    with written_beside(folder / (shard.stem + ROWS)) as part, part.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def find_shards(folder: Path) -> list[Shard]:
    """The whole shards of a folder, in order."""
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    numbers = (tuple(map(int, match.groups())) for match in found if match)
    return sorted(Shard(Chunk(epoch, start), rank, of) for epoch, start, rank, of in numbers)


def whole_chunks(shards: Iterable[Shard]) -> dict[Chunk, list[Shard]]:
    """The chunks of which every process's shard is there."""
    together: dict[tuple[Chunk, int], list[Shard]] = {}
    for shard in shards:
        together.setdefault((shard.chunk, shard.world_size), []).append(shard)
    return {chunk: some for (chunk, of), some in together.items() if len(some) == of}


def remove_leftovers(folder: Path, chunks: Mapping[Chunk, Sequence[Shard]]) -> None:
    """Remove what lies in the folder beside the whole chunks: of writers that were interrupted."""
    kept = {shard.stem for some in chunks.values() for shard in some}
    for path in folder.iterdir():
        is_ours = path.name.endswith((ROWS, DRAWS, UNREADABLE)) or path.name.endswith(".part")
        if is_ours and path.name.split(".")[0] not in kept:
            path.unlink(missing_ok=True)


def open_rows(folder: Path, shard: Shard, row_type: np.dtype[np.void]) -> NDArray[np.void]:
    """The rows of a shard, mapped into memory.

    Raises:
        UserError: it is not as it was written.
    """
    rows = _mapped(folder, shard)
    if rows.dtype != row_type or rows.ndim != 1:
        path = folder / (shard.stem + ROWS)
        raise UserError(f"{path}: its rows are not what cache.json says; {how_to_mend(folder)}")
    return np.asarray(rows) if not len(rows) else rows


def num_rows(folder: Path, shard: Shard) -> int:
    """Clips of a shard, as its file says.

    Raises:
        UserError: the file is damaged.
    """
    return len(_mapped(folder, shard))


def _mapped(folder: Path, shard: Shard) -> NDArray[np.void]:
    path = folder / (shard.stem + ROWS)
    try:
        rows: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:  # an empty file is an EOFError
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable ({reason}); {how_to_mend(folder)}") from None
    return rows


def read_draws(folder: Path, shard: Shard) -> list[Draw]:
    """The draws of a shard's rows, in their order.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / (shard.stem + DRAWS)
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({error}); {how_to_mend(folder)}") from None
    return [Draw.from_json(line) for line in lines]


def read_unreadable(folder: Path, shard: Shard) -> dict[int, str]:
    """Videos that did not decode when the shard was made, and why."""
    path = folder / (shard.stem + UNREADABLE)
    if not path.is_file():
        return {}
    try:
        return {int(video_id): str(why) for video_id, why in json.loads(read_text(path)).items()}
    except (ValueError, AttributeError):
        raise UserError(f"{path}: not readable as JSON; {how_to_mend(folder)}") from None


def num_bytes_in(folder: Path) -> int:
    """Of all files of the cache, as they lie there."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def how_to_mend(folder: Path) -> str:
    """The next step after damage."""
    return f"remove it and run `videokd cache` with --out {folder} again: what is whole is kept"
