"""Reading a cache: the rows of a step's draws, and a teacher made of them.

Letters: **B** videos of a part of a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videokd.engine.teaching import Teaching
from videokd.errors import UserError
from videokd.teacher_cache.contents import Contents
from videokd.teacher_cache.manifest import Manifest, first_difference, read_manifest
from videokd.teacher_cache.rows import output_of
from videokd.teacher_cache.shards import (
    Chunk,
    Shard,
    draw_digest,
    find_shards,
    how_to_mend,
    open_rows,
    read_draws,
    read_unreadable,
    whole_chunks,
)
from videokd.teacher_cache.wanted import Wanted
from videokd.types import ClipBatch, Draw, ModelOutput

Key = tuple[int, int]
"""(video id, repeat)."""

_OPEN_CHUNKS = 2
"""A run reads one after the other; accumulated parts of a step lie in the same."""


class TeacherCache:
    """A folder that `videokd cache` made.

    Raises:
        UserError: there is none, it is damaged, or not finished.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._chunks = whole_chunks(find_shards(folder))
        num_wanted = self.manifest.num_epochs * self.manifest.chunks_per_epoch
        if len(self._chunks) < num_wanted:
            raise UserError(
                f"{folder}: {len(self._chunks)} of {num_wanted} parts are there; finish it with "
                f"`{self.manifest.command}`"
            )
        self._open: OrderedDict[Chunk, _Rows] = OrderedDict()

    @property
    def contents(self) -> Contents:
        """What is kept of each clip."""
        return self.manifest.contents

    def digest(self, num_epochs: int) -> str:
        """Of what decides the rows that a training of so many epochs reads, 16 hex digits.

        The files themselves are not read. A cache that has grown beyond them is the same.
        """
        said = self.manifest.model_dump(mode="json", include={"made_of", "contents", "teacher"})
        said["num_epochs"] = min(num_epochs, self.manifest.num_epochs)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def unreadable(self) -> dict[int, dict[int, str]]:
        """Epoch -> videos that did not decode in it, and why."""
        found: dict[int, dict[int, str]] = {}
        for chunk, shards in self._chunks.items():
            for shard in shards:
                if reasons := read_unreadable(self.folder, shard):
                    found.setdefault(chunk.epoch, {}).update(reasons)
        return found

    def check(self, made_of: dict[str, Any], wanted: Wanted) -> None:
        """Refuse a cache of another recipe, teacher or index, or of too little.

        Raises:
            ConfigError: a tap that the teacher does not have.
            UserError: it is.
        """
        if said := first_difference(made_of, self.manifest.made_of):
            raise UserError(
                f"{self.folder}: the cache was made with other settings or files ({said}); give "
                "teacher.cache one that was made with this recipe, or make it with `videokd cache`"
            )
        wanted.check_names(self.manifest.teacher.tap_shapes)
        if missing := wanted.lacking(self.contents):
            raise UserError(
                f"{self.folder}: the objective needs {missing}, which the cache does not hold; "
                "make it again with this recipe"
            )

    def rows(
        self, draws: Sequence[Draw], *, step: int, fields: Sequence[str] | None = None
    ) -> NDArray[np.void]:
        """The rows of draws of a global step; with fewer epochs here, they begin anew.

        Args:
            draws: of that step, as the loader made them.
            step: from 0.
            fields: of a row that are read; None: all.

        Raises:
            UserError: a draw is not here, or is not what it was when the cache was made.
        """
        manifest = self.manifest
        epoch, position = divmod(step, manifest.steps_per_epoch)
        start = position - position % manifest.steps_per_chunk
        chunk = self._chunk(Chunk(epoch % manifest.num_epochs, start))
        return chunk.rows(draws, fields or self.contents.row_type.names or ())

    def draws(self, epoch: int) -> dict[Key, Draw]:
        """All draws of an epoch, as they were made."""
        shards = [s for chunk, some in self._chunks.items() if chunk.epoch == epoch for s in some]
        found = [draw for shard in shards for draw in read_draws(self.folder, shard)]
        return {(draw.video_id, draw.repeat): draw for draw in found}

    def _chunk(self, chunk: Chunk) -> _Rows:
        if chunk not in self._open:
            self._open[chunk] = _Rows(self.folder, self._chunks[chunk], self.contents)
            if len(self._open) > _OPEN_CHUNKS:
                self._open.popitem(last=False)
        return self._open[chunk]


class _Rows:
    """The rows of a chunk, in the files of all processes that wrote it."""

    def __init__(self, folder: Path, shards: Sequence[Shard], contents: Contents) -> None:
        self._folder = folder
        self._shards = shards
        self._row_type = contents.row_type
        self._parts = [open_rows(folder, shard, self._row_type) for shard in shards]
        self._places: dict[Key, tuple[int, int]] = {}
        self._digests: list[NDArray[np.uint64]] = []
        for number, part in enumerate(self._parts):
            keys = zip(part["video_id"].tolist(), part["repeat"].tolist(), strict=True)
            self._places |= {key: (number, row) for row, key in enumerate(keys)}
            self._digests.append(np.array(part["draw"]))

    def rows(self, draws: Sequence[Draw], fields: Sequence[str]) -> NDArray[np.void]:
        """One row a draw, of these fields."""
        row_type = np.dtype([(name, self._row_type[name]) for name in fields])
        rows = np.empty(len(draws), dtype=row_type)
        parts = [part[list(fields)] for part in self._parts]  # views: only what is kept is read
        for position, draw in enumerate(draws):
            number, row = self._place(draw)
            rows[position] = parts[number][row]
        return rows

    def _place(self, draw: Draw) -> tuple[int, int]:
        place = self._places.get((draw.video_id, draw.repeat))
        if place is None:
            raise UserError(
                f"{self._folder}: has no row for clip {draw.repeat} of video {draw.video_id} in "
                f"this part of epoch {draw.entropy[1]}; {how_to_mend(self._folder)}"
            )
        number, row = place
        if int(self._digests[number][row]) != draw_digest(draw):
            kept = read_draws(self._folder, self._shards[number])[row]
            raise UserError(
                f"{self._folder}: clip {draw.repeat} of video {draw.video_id} is drawn otherwise "
                f"than when the cache was made ({_difference(draw, kept)}); if a video that it is "
                "mixed with cannot be read now, bring it back, else make the cache again"
            )
        return place


def _difference(mine: Draw, theirs: Draw) -> str:
    return first_difference(json.loads(mine.to_json()), json.loads(theirs.to_json())) or "damaged"


class CachedTeacher(Teaching):
    """What a teacher said when the cache was made, for the very same draws."""

    def __init__(self, cache: TeacherCache, *, device: torch.device) -> None:
        self.cache = cache
        self.device = device
        self._contents = cache.contents

    def keep_taps(self, names: Collection[str]) -> None:
        """Read no others."""
        taps = {name: shape for name, shape in self.cache.contents.taps.items() if name in names}
        self._contents = self.cache.contents.model_copy(update={"taps": taps})

    def output(
        self,
        batch: ClipBatch,
        part: ClipBatch,
        *,
        videos: range,
        step: int,
        clips: torch.Tensor,  # noqa: ARG002 - what the teacher saw is known by its draw
    ) -> ModelOutput:
        """One output a video, as the teacher gave it, rounded to float16."""
        draws = batch.draws[videos.start : videos.stop]
        assert len(draws) == part.num_videos
        rows = self.cache.rows(draws, step=step, fields=self._contents.row_type.names)
        return output_of(rows, self._contents, self.device)
