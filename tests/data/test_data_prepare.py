"""Videos encoded anew for training speed: the same frames, the sources untouched, resumable."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from numbered_video import numbers_of, write_numbered
from PIL import Image

from videokd.cli import main
from videokd.data import prepare as preparing
from videokd.data.index import Index, read_index, write_index
from videokd.data.prepare import PrepareConfig, PrepareReport, encoding, format_report, gain
from videokd.data.prepare.encoding import Encoder, OutputFault, encoded_size
from videokd.data.prepare.gain import Gain, clip_seconds, measure_gain
from videokd.data.prepare.places import targets_of
from videokd.data.prepare.verifying import psnr_db, verify
from videokd.data.readers import open_video
from videokd.data.scan.inspection import ScanFailure, ScanResult, inspect_video
from videokd.errors import ConfigError, UnreadableVideo, UserError
from videokd.types import ClassNames, VideoRecord

CLASSES = ClassNames(["left", "right"])


def scanned(path: Path, **values: object) -> VideoRecord:
    result = list(inspect_video(path))[-1]
    assert isinstance(result, ScanResult)
    record = VideoRecord(
        path=path,
        labels=(0,),
        num_frames=result.num_frames,
        fps=result.fps,
        height=result.height,
        width=result.width,
        reader=result.reader,
        bytes=result.bytes,
        digest=result.digest,
    )
    return replace(record, **values)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Five kinds of video, in two folders, with labels, groups and splits."""
    root = tmp_path_factory.mktemp("source")
    (root / "videos" / "a").mkdir(parents=True)
    (root / "videos" / "b").mkdir()
    folder = root / "videos"
    gaps = np.cumsum([100 + 100 * (i % 3 == 0) for i in range(40)]).tolist()
    records = [
        scanned(
            write_numbered(folder / "a" / "b_frames.mp4", 60, gop=60, max_b_frames=3),
            labels=(1,),
            group="s1",
            split="train1;test2",
        ),
        scanned(write_numbered(folder / "a" / "turned.mp4", 30, quarter_turns=1), split="train1"),
        scanned(write_numbered(folder / "b" / "uneven.mkv", 40, stamps=gaps), labels=(0, 1)),
        scanned(write_numbered(folder / "b" / "hidden.mp4", 40, hidden=8, gop=10), labels=()),
        scanned(write_numbered(folder / "b" / "odd.avi", 20, codec="mpeg4", size=(66, 97))),
    ]
    write_index(root / "all.csv", records, CLASSES)
    return read_index(root / "all.csv")


@pytest.fixture(scope="module")
def prepared(
    source: Index, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Index, PrepareReport, dict[Path, tuple[bytes, int]]]:
    before = contents_of(source)
    out = tmp_path_factory.mktemp("prepared") / "new"
    report = preparing.prepare_videos(source.path, out, num_processes=2)
    return read_index(out / "index.csv"), report, before


@pytest.fixture(autouse=True)
def _gains_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `prepared`, which is made before this; each time costs a process."""
    monkeypatch.setattr(preparing, "measure_gain", lambda _pairs: ())


@pytest.fixture
def one(tmp_path: Path) -> Index:
    """A video of 12 frames."""
    (tmp_path / "videos").mkdir()
    record = scanned(write_numbered(tmp_path / "videos" / "one.mp4", 12))
    write_index(tmp_path / "one.csv", [record], CLASSES)
    return read_index(tmp_path / "one.csv")


def contents_of(index: Index) -> dict[Path, tuple[bytes, int]]:
    return {r.path: (r.path.read_bytes(), r.path.stat().st_mtime_ns) for r in index.records}


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_frame_i_stays_frame_i_with_its_labels(source: Index, prepared) -> None:
    index, report, _ = prepared
    assert len(index) == len(source) == report.num_videos == 5
    assert index.classes == source.classes
    for old, new in zip(source.records, index.records, strict=True):
        same = ("labels", "group", "split", "num_frames")
        assert [getattr(new, k) for k in same] == [getattr(old, k) for k in same]
        assert new.fps == pytest.approx(old.fps, rel=1e-6)
        with open_video(new.path, new.reader, num_frames=new.num_frames) as video:
            shuffled = np.random.default_rng(0).permutation(new.num_frames)
            first = 8 if new.path.stem == "hidden" else 0
            assert numbers_of(video.read(shuffled)) == (shuffled + first).tolist()


def test_new_files_are_upright_even_and_have_short_gops(source: Index, prepared) -> None:
    index, _, _ = prepared
    sizes = {r.path.stem: (r.height, r.width) for r in index.records}
    assert sizes == {
        "b_frames": (64, 96),
        "turned": (64, 96),
        "uneven": (64, 96),
        "hidden": (64, 96),
        "odd": (66, 98),  # 97 is odd
    }
    for record in index.records:
        assert record == scanned(
            record.path, **{k: getattr(record, k) for k in ("labels", "group", "split", "reader")}
        )
        with av.open(str(record.path)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            assert stream.codec_context.pix_fmt == "yuv420p"
        keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        assert keys == list(range(0, record.num_frames, PrepareConfig().gop))
        stamps = [packet.pts for packet in packets]
        assert stamps == sorted(stamps)  # no B-frames
        assert len(set(np.diff(stamps))) == 1  # a constant rate


def test_the_sources_stay_as_they_are(source: Index, prepared) -> None:
    index, _, before = prepared
    assert contents_of(source) == before
    out = index.path.parent
    assert files_below(out) == [
        "a/b_frames.mp4",
        "a/turned.mp4",
        "b/hidden.mp4",
        "b/odd.mp4",
        "b/uneven.mp4",
        "index.classes.txt",
        "index.csv",
        "prepare.jsonl",
    ]
    assert not (out / ".partial").exists()


def test_the_report_says_what_it_buys(source: Index, prepared) -> None:
    index, report, _ = prepared
    assert (report.num_kept, report.failures) == (0, ())
    assert report.bytes_before == sum(record.bytes for record in source.records)
    assert report.bytes_after == sum(record.path.stat().st_size for record in index.records)
    assert 30 <= report.min_psnr_db <= report.median_psnr_db < 99
    assert [one.sampling for one in report.gains] == ["dense 8x8", "8 segments"]
    assert all(one.before > 0 and one.after > 0 for one in report.gains)
    document = json.loads(json.dumps(report.as_dict()))
    assert list(document) == [
        "index",
        "num_videos",
        "num_kept",
        "failures",
        "bytes_before",
        "bytes_after",
        "min_psnr_db",
        "median_psnr_db",
        "gains",
    ]


def test_a_second_run_keeps_what_verifies(source: Index, prepared, tmp_path: Path) -> None:
    index, _, _ = prepared
    out = index.path.parent
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    damaged = out / "a" / "turned.mp4"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    (out / "b" / "odd.mp4").unlink()
    report = preparing.prepare_videos(source.path, out, num_processes=1)
    assert (report.num_kept, report.num_videos) == (3, 5)
    again = {p.name for p, when in stamps.items() if p.stat().st_mtime_ns != when}
    assert again == {"turned.mp4", "odd.mp4"}
    assert read_index(out / "index.csv").records == index.records  # the same bytes each time


def test_other_settings_are_refused_in_one_line(source: Index, prepared) -> None:
    out = prepared[0].path.parent
    with pytest.raises(UserError, match=r"was prepared with gop \d+ \(now 9\), quality .* \(now 7"):
        preparing.prepare_videos(source.path, out, config=PrepareConfig(gop=9, quality=7))


def test_a_source_that_changed_is_prepared_again(one: Index, tmp_path: Path) -> None:
    source = one.records[0].path
    write_numbered(source, 20)
    with pytest.raises(UserError, match=r"none of the 1 videos .* it changed since it was scanned"):
        preparing.prepare_videos(one.path, tmp_path / "new")
    assert (tmp_path / "new" / "index.failed.csv").read_text().startswith("path,reason\n")
    write_index(one.path, [scanned(source)], CLASSES)
    assert preparing.prepare_videos(one.path, tmp_path / "new").num_kept == 0
    write_numbered(source, 25)
    write_index(one.path, [scanned(source)], CLASSES)
    report = preparing.prepare_videos(one.path, tmp_path / "new")
    assert report.num_kept == 0
    assert read_index(report.index).records[0].num_frames == 25
    assert not (tmp_path / "new" / "index.failed.csv").exists()


@pytest.mark.parametrize(
    ("size", "config", "expected"),
    [
        ((480, 640), {}, (256, 342)),  # 341.3
        ((640, 480), {}, (342, 256)),
        ((240, 320), {}, (240, 320)),
        ((240, 320), {"upscale": True}, (256, 342)),
        ((241, 321), {}, (240, 322)),
        ((1080, 1920), {"short_side_px": 255}, (254, 454)),
        ((1, 1), {}, (2, 2)),
        ((300, 3000), {}, (256, 2560)),
    ],
)
def test_sizes_are_even_and_never_larger_unless_asked(
    size: tuple[int, int], config: dict, expected: tuple[int, int]
) -> None:
    record = VideoRecord(Path("/v.mp4"), (), 9, 25.0, *size, "pyav")
    assert encoded_size(record, PrepareConfig(**config)) == expected


def test_h264_too(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    record = scanned(write_numbered(tmp_path / "v" / "one.mp4", 30, fps=30, max_b_frames=2))
    write_index(tmp_path / "x.csv", [replace(record, fps=30000 / 1001)], CLASSES)
    config = PrepareConfig(codec="h264", quality=20, gop=6, short_side_px=32)
    report = preparing.prepare_videos(tmp_path / "x.csv", tmp_path / "new", config=config)
    new = read_index(report.index).records[0]
    assert (new.height, new.width, new.fps) == (32, 48, 30000 / 1001)
    with av.open(str(new.path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_a_folder_of_frames_becomes_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "frames" / "clip.v1"
    folder.mkdir(parents=True)
    video = write_numbered(tmp_path / "v.mp4", 21)
    with open_video(video, "pyav", num_frames=21) as reader:
        for i, pixels in enumerate(reader.read(np.arange(21))):
            Image.fromarray(pixels).save(folder / f"img_{i + 1:05d}.jpg", quality=95)
    found = list(inspect_video(folder, frames_fps=12.5))[-1]
    assert isinstance(found, ScanResult), found
    record = replace(scanned(video), path=folder, reader="frames", fps=12.5)
    record = replace(record, bytes=found.bytes, digest=found.digest)
    write_index(tmp_path / "x.csv", [record], CLASSES)
    report = preparing.prepare_videos(tmp_path / "x.csv", tmp_path / "new")
    new = read_index(report.index).records[0]
    assert (new.path.name, new.num_frames, new.fps) == ("clip.v1.mp4", 21, 12.5)
    with open_video(new.path, new.reader, num_frames=21) as reader:
        assert numbers_of(reader.read(np.arange(21))) == list(range(21))


def test_names_that_would_meet_keep_their_endings() -> None:
    names = ["a/v.avi", "a/v.mp4", "a/w.avi", "b/v.avi", "b/V.webm"]
    records = [VideoRecord(Path("/d") / n, (), 9, 25.0, 9, 9, "pyav") for n in names]
    assert [str(t) for t in targets_of(records, Path("/o"))] == [
        "/o/a/v.avi.mp4",
        "/o/a/v.mp4.mp4",
        "/o/a/w.mp4",
        "/o/b/v.avi.mp4",
        "/o/b/V.webm.mp4",
    ]


def refused(source: Index, out: Path, match: str) -> None:
    before = contents_of(source)
    with pytest.raises(UserError, match=match):
        preparing.prepare_videos(source.path, out)
    assert contents_of(source) == before


def test_places_that_are_refused(source: Index, tmp_path: Path) -> None:
    videos = source.path.parent / "videos"
    refused(source, videos, "where the sources are; choose a folder outside")
    refused(source, videos / "new", "where the sources are; choose a folder outside")
    refused(source, videos / "a", "where the sources are; choose a folder outside")
    refused(source, source.path.parent, "is not empty, and not from an earlier run")
    refused(source, source.path, "a file is there already")
    assert not (videos / "new").exists()
    (tmp_path / "link").symlink_to(videos / "a")
    refused(source, tmp_path / "link", "link: is a link, and nothing is written through links")
    refused(source, tmp_path / "link" / "new", "where the sources are")


@pytest.mark.parametrize("name", ["a", "prepare.jsonl", ".partial"])
def test_nothing_is_written_through_links(source: Index, name: str, tmp_path: Path) -> None:
    out = tmp_path / "new"
    out.mkdir()
    (out / "prepare.jsonl").write_text("")
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(source.path.parent / "videos" / "a")
    refused(source, out, "is a link, and nothing is written through links")


def test_a_link_in_the_place_of_a_new_file_is_replaced_not_followed(
    one: Index, tmp_path: Path
) -> None:
    out, kept = tmp_path / "new", tmp_path / "kept.mp4"
    kept.write_bytes(b"mine")
    out.mkdir()
    (out / "prepare.jsonl").write_text("")
    (out / "one.mp4").symlink_to(kept)
    preparing.prepare_videos(one.path, out)
    assert kept.read_bytes() == b"mine"
    assert not (out / "one.mp4").is_symlink()


def test_a_manifest_cut_off_in_the_middle_of_a_line_goes_on(one: Index, tmp_path: Path) -> None:
    out = tmp_path / "new"
    preparing.prepare_videos(one.path, out)
    manifest = out / "prepare.jsonl"
    whole = manifest.read_text()
    manifest.write_text(whole[: whole.rindex("{") + 30])
    assert preparing.prepare_videos(one.path, out).num_kept == 0
    assert manifest.read_text() == whole
    manifest.write_text("no json\n")
    with pytest.raises(UserError, match="is not the manifest of prepared videos"):
        preparing.prepare_videos(one.path, out)


def test_two_runs_at_once_are_refused(source: Index, tmp_path: Path) -> None:
    out = tmp_path / "new"
    out.mkdir()
    holder = (
        "import fcntl, sys, time\n"
        f"file = open({str(out / 'prepare.jsonl')!r}, 'a+')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process prepares videos there"):
            preparing.prepare_videos(source.path, out)
    finally:
        process.kill()
        process.communicate()


class CrashingEncoder(Encoder):
    """Dies, hangs or meets a full disk as the source's name says; runs in worker processes."""

    def __call__(self, path: Path) -> Iterator[ScanResult | ScanFailure]:
        for report in super().__call__(path):
            if path.stem == "crash":
                os.abort()
            if path.stem == "hang":
                time.sleep(600)
            if path.stem == "full":
                yield OutputFault(path, os.strerror(errno.ENOSPC))
                return
            yield report


def test_a_source_that_crashes_or_hangs_is_left_out_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    names = ["crash", "fine", "hang", "lost", "cut", "last"]
    records = [scanned(write_numbered(folder / f"{name}.mp4", 12)) for name in names]
    records[4] = replace(records[4], num_frames=13)
    (folder / "lost.mp4").unlink()
    write_index(tmp_path / "x.csv", records, CLASSES)
    monkeypatch.setattr(preparing, "Encoder", CrashingEncoder)
    progress: list[tuple[int, int]] = []
    report = preparing.prepare_videos(
        tmp_path / "x.csv",
        tmp_path / "new",
        time_limit_seconds=6,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert {f.path.stem: f.reason for f in report.failures} == {
        "crash": "crash: the decoder ended by SIGABRT",
        "hang": "hang: no answer in 6 s",
        "lost": "no such file",
        "cut": "it shows 12 frames, the index says 13; index it again",
    }
    assert [r.path.stem for r in read_index(report.index).records] == ["fine", "last"]
    assert progress == [(i + 1, 6) for i in range(6)]
    failed = (tmp_path / "new" / "index.failed.csv").read_text().splitlines()
    assert failed[0] == "path,reason"
    assert len(failed) == 5
    assert "left out: " in format_report(report)
    assert files_below(tmp_path / "new") == [
        "fine.mp4",
        "index.classes.txt",
        "index.csv",
        "index.failed.csv",
        "last.mp4",
        "prepare.jsonl",
    ]


def test_a_full_disk_ends_the_run_in_one_line_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    records = [scanned(write_numbered(folder / f"{name}.mp4", 12)) for name in ("a", "full", "z")]
    write_index(tmp_path / "x.csv", records, CLASSES)
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "Encoder", CrashingEncoder)
        with pytest.raises(UserError, match="cannot be written: No space left on device; run it"):
            preparing.prepare_videos(tmp_path / "x.csv", tmp_path / "new")
    assert files_below(tmp_path / "new") == ["a.mp4", "prepare.jsonl"]
    assert not (tmp_path / "new" / ".partial").exists()
    assert preparing.prepare_videos(tmp_path / "x.csv", tmp_path / "new").num_kept == 1


def test_a_file_that_cannot_grow_ends_the_command_in_one_line(one: Index, tmp_path: Path) -> None:
    write_index(one.path, [scanned(write_numbered(one.records[0].path, 150))], CLASSES)
    limited = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from videokd.cli import main\nmain(sys.argv[1:])\n"
    )
    command = [sys.executable, "-B", "-c", limited, "data", "prepare", one.path, tmp_path / "new"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stderr.splitlines() == [
        f"videokd: {tmp_path}/new/one.mp4: cannot be written: File too large; run it again to go on"
    ]
    assert ended.returncode == 1
    assert files_below(tmp_path / "new") == ["prepare.jsonl"]


def test_errors_of_the_place_and_of_the_video_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = scanned(write_numbered(tmp_path / "v.mp4", 12))
    (tmp_path / "new").mkdir()
    encoder = Encoder(
        {record.path: (record, tmp_path / "n.mp4")}, PrepareConfig(), tmp_path / "new"
    )

    def outcome(error: Exception) -> list:
        def failing(*_: object, **__: object) -> Iterator[None]:
            raise error
            yield

        monkeypatch.setattr(encoding, "encode", failing)
        return list(encoder(record.path))[-1:]

    full = av.error.OSError(errno.ENOSPC, "No space left on device")
    assert outcome(full) == [OutputFault(tmp_path / "n.mp4", "No space left on device")]
    assert outcome(OSError(errno.ENOSPC, "No space left on device")) == outcome(full)
    odd = av.error.ArgumentError(errno.EINVAL, "Invalid argument")
    assert isinstance(outcome(odd)[0], ScanFailure)
    assert outcome(odd)[0].reason.startswith("cannot be encoded: ")
    assert not isinstance(outcome(odd)[0], OutputFault)


def test_an_interrupted_run_leaves_whole_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    records = [scanned(write_numbered(folder / f"{i:02d}.mp4", 120, gop=50)) for i in range(12)]
    write_index(tmp_path / "x.csv", records, CLASSES)
    out = tmp_path / "new"
    command = [
        sys.executable,
        "-m",
        "videokd",
        "data",
        "prepare",
        str(tmp_path / "x.csv"),
        str(out),
    ]
    process = subprocess.Popen([*command, "--num-processes", "1"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(out.glob("*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(2)
    errors = process.communicate(timeout=60)[1].decode()
    assert (process.returncode, errors.splitlines()[-1]) == (130, "videokd: interrupted")
    finished = sorted(out.glob("*.mp4"))
    assert 0 < len(finished) < 12
    for path in finished:
        assert isinstance(list(inspect_video(path))[-1], ScanResult)
    recorded = len((out / "prepare.jsonl").read_text().splitlines()) - 1
    assert set(files_below(out)) == {"prepare.jsonl", *(path.name for path in finished)}
    assert not (out / ".partial").exists()
    report = preparing.prepare_videos(tmp_path / "x.csv", out)
    assert (report.num_videos, report.num_kept) == (12, recorded)


@pytest.fixture
def encoded(tmp_path: Path) -> tuple[VideoRecord, ScanResult, dict[int, np.ndarray]]:
    """A video whose every frame differs widely from its neighbours."""
    record = scanned(write_numbered(tmp_path / "v.mp4", 40))
    kept: dict[int, np.ndarray] = {}
    for _ in encoding.encode(record, tmp_path / "n.mp4", PrepareConfig(), size=(64, 96), kept=kept):
        pass
    return record, list(inspect_video(tmp_path / "n.mp4"))[-1], kept


def test_verification_passes_what_is_right(encoded) -> None:
    record, found, kept = encoded
    assert 30 < verify(found, record, kept, size=(64, 96)) < 60


@pytest.mark.parametrize("shift", [-1, 1])
def test_verification_refuses_a_shift_by_one_frame(encoded, shift: int) -> None:
    record, found, kept = encoded
    shifted = {i + shift: thumb for i, thumb in kept.items()}
    shifted = {i: shifted.get(i, thumb) for i, thumb in kept.items()}
    with pytest.raises(UnreadableVideo, match=r"frame \d+ is another one"):
        verify(found, record, shifted, size=(64, 96))


def test_verification_refuses_another_count_size_or_look(encoded) -> None:
    record, found, kept = encoded
    with pytest.raises(UnreadableVideo, match="40 frames of 64x96 px instead of 40 of 64x98"):
        verify(found, record, kept, size=(64, 98))
    with pytest.raises(UnreadableVideo, match=r"shows 39 frames .* instead of 40"):
        verify(replace(found, num_frames=39), record, kept, size=(64, 96))
    darker = {i: thumb // 2 for i, thumb in kept.items()}
    with pytest.raises(UnreadableVideo, match="dB like its source, and 30 dB are asked for"):
        verify(found, record, darker, size=(64, 96))


def test_a_quality_below_the_floor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    record = scanned(write_numbered(tmp_path / "v" / "v.mp4", 20))
    write_index(tmp_path / "x.csv", [record], CLASSES)
    with pytest.raises(UserError, match=r"only \d+\.\d dB like its source.*smaller quality number"):
        preparing.prepare_videos(
            tmp_path / "x.csv", tmp_path / "new", config=PrepareConfig(codec="h264", quality=51)
        )


def test_psnr() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(black, black) == 99
    assert psnr_db(black, black + 255) == pytest.approx(0)
    assert psnr_db(black, black + 10) == pytest.approx(20 * np.log10(25.5))


def test_clips_are_measured_in_turn_on_the_same_frames(
    encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, found, _ = encoded
    new = replace(record, path=found.path)
    seen: list[tuple[str, tuple[int, ...]]] = []
    clock = itertools.count()

    class Video:
        def __init__(self, path: Path, *_: object, **__: object) -> None:
            self.path = path

        def __enter__(self) -> Video:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, ids: np.ndarray) -> None:
            seen.append((self.path.name, tuple(ids.tolist())))
            for _ in range(1 if self.path == new.path else 4):
                next(clock)

    monkeypatch.setattr(gain, "open_video", Video)
    monkeypatch.setattr(gain, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    affinity = os.sched_getaffinity(0)
    try:
        seconds = clip_seconds([(record, new)], 3)
    finally:
        os.sched_setaffinity(0, affinity)
    assert seconds == {n: ([5.0] * 3, [2.0] * 3) for n in ("dense 8x8", "8 segments")}
    assert [name for name, _ in seen] == ["v.mp4", "n.mp4"] * 8
    assert [ids for _, ids in seen[::2]] == [ids for _, ids in seen[1::2]]


def write_panned(path: Path) -> Path:
    """10 s of 340x256 px at 30 fps: a view that moves over a large picture, with sensor noise."""
    generator = np.random.default_rng(0)
    picture = np.zeros((512, 680, 3))
    for cells in (4, 16, 64, 170):  # from large shapes to fine ones
        coarse = generator.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        picture += np.asarray(Image.fromarray(coarse).resize((680, 512), Image.Resampling.BICUBIC))
    options = {"preset": "medium", "crf": "23", "g": "250", "threads": "1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = 256, 340, "yuv420p"
        for i in range(300):
            top, left = round(128 + 120 * np.sin(i / 40)), round(170 + 160 * np.cos(i / 60))
            view = picture[top : top + 256, left : left + 340] / 4
            noisy = np.clip(view + generator.normal(0, 2, view.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(noisy, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.slow
def test_a_long_gop_becomes_several_times_as_fast(tmp_path: Path) -> None:
    """Thresholds far below what was measured (see the documentation): machines are shared."""
    (tmp_path / "v").mkdir()
    record = scanned(write_panned(tmp_path / "v" / "long.mp4"))
    write_index(tmp_path / "x.csv", [record], CLASSES)
    report = preparing.prepare_videos(tmp_path / "x.csv", tmp_path / "new")
    new = read_index(report.index).records[0]
    dense, segments = measure_gain([(record, new)], num_rounds=15)
    assert dense.ratio > 2
    assert segments.ratio > 3
    assert report.bytes_after < 16 * report.bytes_before


def test_a_measuring_process_that_is_lost_gives_no_figures(encoded) -> None:
    record, _, _ = encoded
    assert Gain("dense 8x8", 10.0, 45.0).ratio == 4.5
    broken = replace(record, path=Path("/dev/null"))
    with pytest.raises(UnreadableVideo, match="/dev/null"):
        measure_gain([(broken, broken)], num_rounds=1)


def test_settings_out_of_range_are_refused(
    source: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="less than or equal to 51"):
        PrepareConfig(quality=52)
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", str(source.path), str(tmp_path / "n"), "--quality", "32"])
    assert ended.value.code == ConfigError.exit_status
    assert "mpeg4" in capsys.readouterr().err


def test_the_command_line(
    source: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", str(source.path), str(out), "--json", "--short-side-px", "32"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_videos"] == 5
    assert document["index"] == str(out / "index.csv")
    sizes = {(r.height, r.width) for r in read_index(out / "index.csv").records}
    assert sizes == {(32, 48)}
