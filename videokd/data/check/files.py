"""Each file of an index beside its row: is it there, is it the same, does it still decode?

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from videokd.data.check.findings import Finding, Kind
from videokd.data.readers import open_video
from videokd.data.scan import scan
from videokd.data.scan.inspection import (
    DEFAULT_READERS,
    ScanFailure,
    Scanned,
    ScanResult,
    check_readers,
    inspect_video,
    video_bytes,
    video_digest,
)
from videokd.errors import UnreadableVideo
from videokd.types import VideoRecord

NUM_CONTENT_FRAMES = 5
"""Frames that stand for a video's content: the first, the last, and three evenly between."""

FRAMES = "frames"
"""The reader whose videos are folders."""

_NOT_EXACT = "no reader is exact: "
"""How `inspect_video` begins where the file decodes, but not alike through the one reader."""

FPS_TOLERANCE = 1e-6
"""Relative. The index stores the rate in full, so that only another file gives another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedVideo(ScanResult):
    """A video that decodes, with a digest of its pictures."""

    content: str
    """SHA-256 over size, number of frames and a few frames' pixels, 16 hex digits. Two files with
    the same packets in different containers have the same; a re-encoded copy has not."""


@dataclass(frozen=True, slots=True)
class FilesReport:
    """What looking at the files gave."""

    findings: list[Finding]
    digests: list[str]
    """Of each record's file as it is now; empty where it is not known."""
    contents: list[str]
    """`CheckedVideo.content` of each record's file; empty where it is not known."""


def content_digest(path: Path, reader: str, num_frames: int, frame_ids: Sequence[int]) -> str:
    """SHA-256 over number of frames, size and the pixels of some frames, 16 hex digits.

    Raises:
        UnreadableVideo: one of the frames does not decode.
    """
    digest = hashlib.sha256(str(num_frames).encode())
    with open_video(path, reader, num_frames=num_frames) as video:
        frames = video.read(np.asarray(frame_ids, dtype=np.int64))
    digest.update(str(frames.shape).encode())
    digest.update(np.ascontiguousarray(frames).tobytes())
    return digest.hexdigest()[:16]


def inspect_content(path: Path, *, known: Mapping[Path, tuple[str, float]]) -> Iterator[Scanned]:
    """What `inspect_video` says of a file and its reader, and a digest of the pictures.

    The pictures are PyAV's whichever reader the index names, so that they are the same in all
    containers.

    Args:
        path: the video.
        known: video -> reader and frames per second as the index says them.
    """
    reader, fps = known[path]
    readers = None if reader == FRAMES else (reader,)
    latest: Scanned | None = None
    # What was indexed as damaged is to be found as it was.
    for latest in inspect_video(path, frames_fps=fps, keep_damaged=True, readers=readers):
        yield latest
    if not isinstance(latest, ScanResult):
        return
    last = latest.num_frames - 1
    ids = sorted({i * last // (NUM_CONTENT_FRAMES - 1) for i in range(NUM_CONTENT_FRAMES)})
    try:
        content = content_digest(path, FRAMES if path.is_dir() else "pyav", latest.num_frames, ids)
    except UnreadableVideo as error:
        yield ScanFailure(path, f"frames do not decode a second time: {error.reason}")
        return
    values = {field.name: getattr(latest, field.name) for field in fields(ScanResult)}
    yield CheckedVideo(**values, content=content)


def check_files(
    records: Sequence[VideoRecord],
    *,
    num_processes: int,
    quick: bool,
    time_limit_seconds: float = 120.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> FilesReport:
    """Look at every file: decode it again in a process of its own, or (`quick`) only read it."""
    if quick:
        return _compare_bytes(records, num_processes, on_progress)
    readers = {record.reader for record in records} - {FRAMES}
    check_readers(sorted(readers) or DEFAULT_READERS)
    found = scan(
        [record.path for record in records],
        num_processes=num_processes,
        time_limit_seconds=time_limit_seconds,
        on_progress=on_progress,
        inspect=partial(inspect_content, known={r.path: (r.reader, r.fps) for r in records}),
    )
    findings: list[Finding] = []
    for record, result in zip(records, found, strict=True):
        findings.extend(_compare(record, result))
    return FilesReport(
        findings,
        [result.digest if isinstance(result, ScanResult) else "" for result in found],
        [result.content if isinstance(result, CheckedVideo) else "" for result in found],
    )


def _compare_bytes(
    records: Sequence[VideoRecord],
    num_processes: int,
    on_progress: Callable[[int, int], None] | None,
) -> FilesReport:
    """Hashing lets other threads run, so that threads are enough here."""
    findings: list[Finding] = []
    digests: list[str] = []
    with ThreadPoolExecutor(num_processes) as pool:
        for found, digest in pool.map(_look, records):
            findings.extend(found)
            digests.append(digest)
            if on_progress is not None:
                on_progress(len(digests), len(records))
    return FilesReport(findings, digests, [""] * len(records))


def _look(record: VideoRecord) -> tuple[list[Finding], str]:
    """Findings and digest of one file that is read and not decoded."""
    try:
        if found := _not_there(record):
            return [found], ""
        size, digest = video_bytes(record.path), video_digest(record.path)
    except UnreadableVideo as error:
        return [_finding("unreadable", record, error.reason)], ""
    except OSError as error:
        return [_finding("unreadable", record, error.strerror or type(error).__name__)], ""
    return _changes(record, size, digest), digest


def _compare(record: VideoRecord, result: Scanned) -> list[Finding]:
    """A row of the index and what decoding its file again gave."""
    if isinstance(result, ScanFailure):
        changes: list[Finding] = []
        try:
            if found := _not_there(record):
                return [found]
            changes = _changes(record, video_bytes(record.path), video_digest(record.path))
        except (OSError, UnreadableVideo):
            pass  # that is why it does not decode
        # A file that was cut or overwritten is named as such besides.
        changes = [finding for finding in changes if finding.severity == "error"]
        kind: Kind = "reader" if result.reason.startswith(_NOT_EXACT) else "unreadable"
        return [*changes, _finding(kind, record, result.reason.removeprefix(_NOT_EXACT))]
    changes = _changes(record, result.bytes, result.digest)
    has_changed = any(finding.severity == "error" for finding in changes)
    if not has_changed:
        changes.extend(_disagreements(record, result))
    if result.note:
        # The index holds the intact start of the file that was scanned, not of this one.
        changes.append(_finding("unreadable" if has_changed else "incomplete", record, result.note))
    return changes


def _not_there(record: VideoRecord) -> Finding | None:
    if not record.path.exists():
        return _finding("missing", record, "no such file")
    if record.path.is_file() and record.path.stat().st_size == 0:
        return _finding("empty", record, "the file has 0 bytes")
    return None


def _changes(record: VideoRecord, size: int, digest: str) -> list[Finding]:
    """What tells a file's bytes from those that were scanned."""
    if record.bytes and size < record.bytes:
        return [_finding("truncated", record, f"{size} of the {record.bytes} bytes it had")]
    if record.bytes and size > record.bytes:
        return [_finding("changed", record, f"{size} bytes, where it had {record.bytes}")]
    if not record.digest:
        return [_finding("unverified", record, "its row has no digest")]
    if digest != record.digest:
        return [_finding("changed", record, f"as long as before, digest {digest} now")]
    return []


def _disagreements(record: VideoRecord, found: ScanResult) -> list[Finding]:
    """The same bytes, but the index says something else about them."""
    pairs = {
        "frames": (record.num_frames, found.num_frames),
        "height": (record.height, found.height),
        "width": (record.width, found.width),
    }
    told = [
        f"{there} {name}, the index says {said}"
        for name, (said, there) in pairs.items()
        if said != there
    ]
    if abs(found.fps / record.fps - 1) > FPS_TOLERANCE:
        told.append(f"{found.fps:g} fps, the index says {record.fps:g}")
    return [_finding("disagrees", record, "; ".join(told))] if told else []


def _finding(kind: Kind, record: VideoRecord, message: str) -> Finding:
    return Finding(kind, message, (record.path,))
