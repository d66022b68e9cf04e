"""`videokd cache`: a teacher's outputs for every draw of a recipe, once, onto the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from videokd.data.loading import TrainLoader
from videokd.engine.trust import check_teachers
from videokd.errors import ConfigError, UserError
from videokd.files import check_place
from videokd.first_weights import InitConfig
from videokd.progress import Report, hush, say, show_progress
from videokd.recipe import (
    Device,
    RunConfig,
    TeacherParts,
    build_with_teacher,
    create_fabric,
    without_pretraining,
)
from videokd.recipe.cached import cache_identity, cached_teachers
from videokd.recipe.teachers import Cacheable
from videokd.teacher_cache.contents import Contents
from videokd.teacher_cache.manifest import (
    MANIFEST,
    Manifest,
    TeacherSide,
    first_difference,
    read_manifest,
    write_manifest,
)
from videokd.teacher_cache.shards import (
    Chunk,
    find_shards,
    num_bytes_in,
    num_rows,
    read_unreadable,
    remove_leftovers,
    whole_chunks,
)
from videokd.teacher_cache.wanted import contents_for, wanted_by
from videokd.teacher_cache.writing import (
    Part,
    Teach,
    all_chunks,
    alone_in,
    steps_of,
    steps_per_chunk,
    teach_with,
    write_chunks,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BYTES_PER_DRAW = 400
"""About what a draw takes, compressed; for the estimate alone."""


@dataclass(frozen=True)
class CacheOutcome:
    """What `videokd cache` ends with."""

    folder: Path
    num_epochs: int
    num_clips: int
    num_bytes: int
    """Of all files, as they lie on the disk."""
    bytes_per_clip: int
    """Of a row, without its draw."""
    contents: str
    """What a row holds, in words."""
    num_unreadable: int
    """Videos that did not decode, in whatever epoch."""
    seconds: float
    """Of this call."""
    already_done: bool
    """Nothing was left to write."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return vars(self) | {"folder": str(self.folder)}


def cache_teacher(
    config: RunConfig,
    folder: Path | None = None,
    *,
    num_epochs: int | None = None,
    top_k: int | None = None,
    command: str = "videokd cache",
    device: Device = "auto",
    insist: bool = False,
    quiet: bool = False,
) -> CacheOutcome:
    """Write what the teacher says to every draw of the recipe; whole parts are never made again.

    Args:
        config: the student's recipe, with its teacher.
        folder: of the cache; None: `teacher.cache`.
        num_epochs: how many; None: `train.epochs`. A cache that is there may grow.
        top_k: the largest logits instead of all.
        command: what to type for this again; it is kept beside the cache.
        device: where to compute.
        insist: go on with a teacher at chance. It is checked here, before the first clip is
            written, and no more when a student reads.
        quiet: no progress.

    Raises:
        UserError: a mistake in recipe or data, the student's part of them too; a folder with
            another cache; outputs that float16 does not hold; too little room.
    """
    folder, config = _folder_and_teacher(config, folder)
    check_place(folder, is_folder=True)
    num_epochs = config.train.epochs if num_epochs is None else num_epochs
    if num_epochs < 1:
        raise ConfigError("train.epochs is 0, so there are no draws to cache; give --epochs")
    started = time.monotonic()
    fabric = create_fabric(device, config.train.precision, cpu_threads=config.train.cpu_threads)
    loader, parts = _as_training_would(config, fabric)
    assert parts.teaching is not None, "it is known to be a trained one"
    teach = teach_with(parts.teaching, num_parts=config.train.accumulate, device=fabric.device)
    contents = _contents(config, loader, teach, top_k=top_k)
    wanted = _manifest(
        config,
        parts,
        contents,
        fabric,
        num_steps=loader.steps_per_epoch,
        num_epochs=num_epochs,
        command=command,
    )
    with _held(folder, is_first=fabric.is_global_zero):
        plan = _plan(folder, wanted, config) if fabric.is_global_zero else (wanted, [])
        manifest, missing = fabric.broadcast(plan)  # what the first process found
        tell = hush if quiet or not fabric.is_global_zero else say
        if len(missing) == len(all_chunks(manifest)):
            check_teachers(
                fabric,
                parts.teaching.online,
                loader,
                batch_size=config.train.batch_size,
                num_parts=config.train.accumulate,
                insist=insist,
                say=tell,
            )
        if missing:
            tell(_announcement(folder, manifest, missing, config))
        with show_progress(f"cache {folder.name}", quiet=quiet) as report:
            loader.quarantine(_unreadable(folder))  # as a run that goes on: not opened again
            write_chunks(
                folder,
                manifest,
                missing,
                loader=loader,
                teach=teach,
                part=Part(fabric.global_rank, fabric.world_size),
                max_unreadable_pct=config.data.max_unreadable_pct,
                on_step=_counter(report, manifest, missing),
            )
        fabric.barrier()
    return _outcome(folder, manifest, seconds=time.monotonic() - started, already_done=not missing)


def _folder_and_teacher(config: RunConfig, folder: Path | None) -> tuple[Path, RunConfig]:
    """Where to write, and the recipe with its teacher as it would be run."""
    cached_teachers(config)  # refuses what cannot be cached
    assert isinstance(config.teacher, Cacheable)
    if folder is None:
        folder = config.teacher.cache
    if folder is None:
        raise ConfigError("nobody says where the cache is to be; give --out, or teacher.cache")
    if not config.uses_teacher:
        raise ConfigError(
            "all distillation terms have weight 0, so nothing would be read from a cache; give one "
            "a weight"
        )
    online = config.teacher.model_copy(update={"cache": None, "cache_reuse": False})
    return folder, config.model_copy(update={"teacher": online})


def _as_training_would(config: RunConfig, fabric: Fabric) -> tuple[TrainLoader, TeacherParts]:
    """Clips and teacher of the student's training, all of which is built: what it would refuse is
    refused before the teacher is run over all draws.

    First weights change no shape and may have to be downloaded: they are left out.
    """
    first = {"init": InitConfig(), "model": without_pretraining(config.model)}
    with torch.random.fork_rng(devices=[]):  # networks are made on the CPU
        trainer, parts = build_with_teacher(config.model_copy(update=first), fabric)
    return trainer.loader, parts


def _manifest(
    config: RunConfig,
    parts: TeacherParts,
    contents: Contents,
    fabric: Fabric,
    *,
    num_steps: int,
    num_epochs: int,
    command: str,
) -> Manifest:
    """What the cache is to be, with `num_steps` an epoch."""
    return Manifest(
        made_of=cache_identity(config),
        student_input=config.model.input,
        index=str(config.data.index),
        teacher=TeacherSide(
            inputs={name: given.spec for name, given in parts.inputs.items()},
            tap_shapes=dict(parts.tap_shapes or {}),
            pooled_dim=parts.pooled_dim or 0,
            precision=f"{_precision(fabric)} on {fabric.device.type}",
        ),
        contents=contents,
        num_epochs=num_epochs,
        steps_per_epoch=num_steps,
        steps_per_chunk=steps_per_chunk(
            contents,
            clips_per_step=config.train.batch_size // fabric.world_size,
            steps_per_epoch=num_steps,
        ),
        command=command,
    )


def _contents(
    config: RunConfig, loader: TrainLoader, teach: Teach, *, top_k: int | None
) -> Contents:
    """What a row holds, as the first batch shows; it is seen again when it is written."""
    batch = next(loader.batches(0, 1))
    _, output = next(iter(teach(batch, 0)))
    return contents_for(wanted_by(config.objective), output, top_k=top_k)


def _plan(folder: Path, wanted: Manifest, config: RunConfig) -> tuple[Manifest, list[Chunk]]:
    """What is written, and which of it is missing; afterwards `cache.json` is there.

    Raises:
        UserError: the folder holds another cache or something else; there is too little room.
    """
    manifest = _claimed(folder, wanted)
    there = whole_chunks(find_shards(folder))
    remove_leftovers(folder, there)
    missing = [chunk for chunk in all_chunks(manifest) if chunk not in there]
    needed = _num_bytes(manifest, missing, config)
    if needed > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"{folder}: about {said_bytes(needed)} would be written and {said_bytes(free)} are "
            "free; take fewer --epochs, --logits top-10, or another place"
        )
    write_manifest(folder, manifest)
    return manifest, missing


def _claimed(folder: Path, wanted: Manifest) -> Manifest:
    """What the folder is to hold: as wanted, or more where it holds more epochs already."""
    if not (folder / MANIFEST).is_file():
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if others:
            raise UserError(f"{folder}: is no cache and holds {others[0]}; choose another folder")
        return wanted
    held = read_manifest(folder)
    for name in ("made_of", "contents", "steps_per_epoch"):
        mine, theirs = (one.model_dump(mode="json")[name] for one in (wanted, held))
        if said := first_difference(mine, theirs, "" if name == "made_of" else name):
            raise UserError(
                f"{folder}: holds a cache of other settings or files ({said}); choose another "
                "folder, or remove this one"
            )
    if held.teacher.precision != wanted.teacher.precision:
        raise UserError(
            f"{folder}: was begun in {held.teacher.precision}, this is {wanted.teacher.precision}; "
            "go on where it was begun, or remove it"
        )
    more = max(held.num_epochs, wanted.num_epochs)
    # As it was begun: chunks are cut alike, whatever the number of processes.
    return held.model_copy(update={"num_epochs": more, "command": wanted.command})


def _unreadable(folder: Path) -> dict[int, str]:
    """Videos that did not decode in whatever part of the cache, and why."""
    shards = find_shards(folder)
    return {k: why for shard in shards for k, why in read_unreadable(folder, shard).items()}


@contextmanager
def _held(folder: Path, *, is_first: bool) -> Iterator[None]:
    """The folder is there and no other command writes to it; the first process sees to that."""
    if not is_first:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        yield


def _num_clips(manifest: Manifest, chunks: Sequence[Chunk], config: RunConfig) -> int:
    """Clips of these chunks, over all processes."""
    num_steps = sum(len(steps_of(chunk, manifest)) for chunk in chunks)
    return num_steps * config.train.batch_size


def _num_bytes(manifest: Manifest, chunks: Sequence[Chunk], config: RunConfig) -> int:
    """About what these chunks will take."""
    per_clip = manifest.contents.bytes_per_clip + _BYTES_PER_DRAW
    return _num_clips(manifest, chunks, config) * per_clip


def _announcement(
    folder: Path, manifest: Manifest, missing: Sequence[Chunk], config: RunConfig
) -> str:
    there = len(all_chunks(manifest)) - len(missing)
    begun = f" ({there} of {there + len(missing)} parts are there)" if there else ""
    return (
        f"{folder}: {manifest.num_epochs} epochs, {_num_clips(manifest, missing, config)} clips to "
        f"write{begun}, each {manifest.contents.described()}: "
        f"{manifest.contents.bytes_per_clip} bytes, about "
        f"{said_bytes(_num_bytes(manifest, missing, config))} with the draws"
    )


def _counter(report: Report, manifest: Manifest, missing: Sequence[Chunk]) -> Callable[[int], None]:
    """Progress in steps, those that are there already counted as done."""
    total = manifest.num_epochs * manifest.steps_per_epoch
    done = total - sum(len(steps_of(chunk, manifest)) for chunk in missing)
    report(done, total, "")

    def step(_num_clips: int) -> None:
        nonlocal done
        done += 1
        report(done, total, "")

    return step


def _outcome(
    folder: Path, manifest: Manifest, *, seconds: float, already_done: bool
) -> CacheOutcome:
    """What lies in the folder, counted there."""
    return CacheOutcome(
        folder=folder,
        num_epochs=manifest.num_epochs,
        num_clips=sum(num_rows(folder, shard) for shard in find_shards(folder)),
        num_bytes=num_bytes_in(folder),
        bytes_per_clip=manifest.contents.bytes_per_clip,
        contents=manifest.contents.described(),
        num_unreadable=len(_unreadable(folder)),
        seconds=seconds,
        already_done=already_done,
    )


def _precision(fabric: Fabric) -> str:
    """What the teacher's outputs are computed in."""
    return "bf16" if "bf16" in fabric._precision.precision else "fp32"


def said_bytes(count: int) -> str:
    """`1536` -> `1.5 KiB`."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
