"""Videos encoded anew for training speed: short side, key frames close together, a quick codec.

Frame i of a prepared video is frame i of its source. Nothing here imports torch.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from videokd.data.annotations import absolute
from videokd.data.index import read_index, write_index
from videokd.data.prepare.encoding import Encoder, OutputFault, PrepareConfig, PreparedVideo
from videokd.data.prepare.gain import Gain, measure_gain
from videokd.data.prepare.manifest import Manifest, Prepared, open_manifest
from videokd.data.prepare.places import MANIFEST, STAGING, check_out, targets_of
from videokd.data.scan import scan
from videokd.data.scan.inspection import ScanFailure, Scanned
from videokd.errors import UserError
from videokd.files import file_digest, write_listing
from videokd.types import VideoRecord

__all__ = ["Gain", "PrepareConfig", "PrepareReport", "format_report", "prepare_videos"]


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What a run made, and what that buys."""

    index: Path
    """The index of the prepared videos."""
    num_videos: int
    """Videos in it."""
    num_kept: int
    """Videos of it that an earlier run had finished."""
    failures: tuple[ScanFailure, ...]
    """Sources that were left out."""
    bytes_before: int
    """Of the sources of the videos in the index."""
    bytes_after: int
    min_psnr_db: float
    """Of the worst sampled frame of all videos, against its source at the new size."""
    median_psnr_db: float
    """Median over videos of each one's worst sampled frame."""
    gains: tuple[Gain, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain["index"] = str(self.index)
        plain["failures"] = [{"path": str(f.path), "reason": f.reason} for f in self.failures]
        plain["gains"] = [gain.as_dict() for gain in self.gains]
        return plain


def prepare_videos(
    index_csv: Path | str,
    out: Path | str,
    *,
    config: PrepareConfig | None = None,
    num_processes: int = 1,
    time_limit_seconds: float = 120.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Encode every video of an index anew below `out`, and index the new files as `out/index.csv`.

    Labels, groups, splits and class names stay; frame i stays frame i; the picture is upright in
    the file. The rate is constant: the mean that the index of the sources says. A source that
    cannot be encoded and verified is left out and stands in `out/index.failed.csv`. A run that was
    interrupted leaves finished videos and no others, and the next one goes on with the rest.

    Args:
        index_csv: the index of the sources.
        out: a new folder, or one that an earlier run with the same settings wrote.
        config: how to encode.
        num_processes: processes that encode, one video each at a time.
        time_limit_seconds: how long a process may be silent on one video.
        on_progress: called with (videos done, videos to encode).

    Raises:
        UserError: `out` is no place to write to (see `check_out`) or was made with other settings,
            the disk is full, or no video can be encoded.
    """
    index, config, folder = read_index(index_csv), config or PrepareConfig(), absolute(out)
    records = list(index.records)
    targets = targets_of(records, folder)
    check_out(folder, records, targets)
    with open_manifest(folder / MANIFEST, config.model_dump(mode="json")) as manifest:
        kept = _still_good(records, targets, manifest, folder, num_processes)
        todo = {
            record.path: (record, target)
            for record, target in zip(records, targets, strict=True)
            if record.path not in kept
        }
        run = partial(
            scan,
            num_processes=num_processes,
            time_limit_seconds=time_limit_seconds,
            on_progress=on_progress,
        )
        made, failures = _encode_all(todo, config, manifest, run, folder)
        write_listing(
            folder / "index.failed.csv",
            ("path", "reason"),
            [(str(failure.path), failure.reason) for failure in failures],
        )
        finished = kept | made
        pairs = [
            (record, _prepared_record(record, finished[record.path], folder))
            for record in records
            if record.path in finished
        ]
        if not pairs:
            raise UserError(
                f"{folder}: none of the {len(records)} videos can be prepared; the first: "
                f"{failures[0].path}: {failures[0].reason}"
            )
        write_index(folder / "index.csv", [after for _, after in pairs], index.classes)
    worst = [finished[before.path].psnr_db for before, _ in pairs]
    return PrepareReport(
        index=folder / "index.csv",
        num_videos=len(pairs),
        num_kept=len(kept),
        failures=tuple(failures),
        bytes_before=sum(before.bytes for before, _ in pairs),
        bytes_after=sum(after.bytes for _, after in pairs),
        min_psnr_db=min(worst),
        median_psnr_db=statistics.median(worst),
        gains=measure_gain(pairs),
    )


def _still_good(
    records: Sequence[VideoRecord],
    targets: Sequence[Path],
    manifest: Manifest,
    folder: Path,
    num_processes: int,
) -> dict[Path, Prepared]:
    """Source -> its finished file, where both are as they were when that was made."""

    def is_good(record: VideoRecord, target: Path) -> bool:
        entry = manifest.finished.get(str(record.path))
        return (
            entry is not None
            and entry.source_digest == record.digest
            and entry.num_frames == record.num_frames
            and math.isclose(entry.fps, record.fps, rel_tol=1e-3)  # a file stores it rounded
            and entry.target == target.relative_to(folder).as_posix()
            and target.is_file()
            and not target.is_symlink()
            and target.stat().st_size == entry.bytes
            and file_digest(target) == entry.digest
        )

    with ThreadPoolExecutor(num_processes) as pool:
        good = list(pool.map(is_good, records, targets))
    return {
        record.path: manifest.finished[str(record.path)]
        for record, is_kept in zip(records, good, strict=True)
        if is_kept
    }


def _encode_all(
    todo: Mapping[Path, tuple[VideoRecord, Path]],
    config: PrepareConfig,
    manifest: Manifest,
    run: Callable[..., list[Scanned]],
    folder: Path,
) -> tuple[dict[Path, Prepared], list[ScanFailure]]:
    """Encode each in a worker process; what is finished is in the manifest at once."""
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir()
    made: dict[Path, Prepared] = {}

    def keep(found: Scanned) -> None:
        if isinstance(found, OutputFault):
            raise UserError(
                f"{found.path}: cannot be written: {found.reason}; run it again to go on"
            )
        if isinstance(found, PreparedVideo):
            made[found.source] = _entry(found, folder)
            manifest.add(made[found.source])

    try:
        found = run(list(todo), inspect=Encoder(todo, config, staging), on_found=keep)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return made, [result for result in found if isinstance(result, ScanFailure)]


def _entry(found: PreparedVideo, folder: Path) -> Prepared:
    return Prepared(
        source=str(found.source),
        source_digest=found.source_digest,
        target=found.path.relative_to(folder).as_posix(),
        num_frames=found.num_frames,
        fps=found.fps,
        height=found.height,
        width=found.width,
        reader=found.reader,
        bytes=found.bytes,
        digest=found.digest,
        psnr_db=found.psnr_db,
    )


def _prepared_record(source: VideoRecord, entry: Prepared, folder: Path) -> VideoRecord:
    """The row of a prepared video: its own file, its source's labels, group and split."""
    return replace(
        source,
        path=folder / entry.target,
        num_frames=entry.num_frames,
        fps=entry.fps,
        height=entry.height,
        width=entry.width,
        reader=entry.reader,
        bytes=entry.bytes,
        digest=entry.digest,
    )


def format_report(report: PrepareReport) -> str:
    """The report as lines of text, without a newline at the end."""
    lines = [
        f"{report.num_videos} videos, {report.num_kept} of them from an earlier run: {report.index}"
    ]
    lines += [f"left out: {failure.path}: {failure.reason}" for failure in report.failures[:5]]
    if report.failures:
        failed = report.index.with_name("index.failed.csv")
        lines.append(f"{len(report.failures)} left out: {failed}")
    ratio = report.bytes_after / report.bytes_before if report.bytes_before else float("nan")
    lines.append(
        f"bytes          {report.bytes_before} before, {report.bytes_after} after, "
        f"{ratio:.2f} times as many"
    )
    lines.append(
        f"likeness       {report.min_psnr_db:.1f} dB in the worst sampled frame, median over "
        f"videos {report.median_psnr_db:.1f} dB"
    )
    lines += [
        f"{gain.sampling:<14} {gain.before:.1f} clips/s before, {gain.after:.1f} after, "
        f"{gain.ratio:.1f} times as fast (one core, file to RGB frames)"
        for gain in report.gains
    ]
    if not report.gains:
        lines.append("clips/s        not measured: a decoder ended the measuring process")
    return "\n".join(lines)
