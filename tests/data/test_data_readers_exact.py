"""Frame i is the i-th presented: a reader gives it for every i, or the scan does not choose it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered_video import numbers_of, write_numbered

from videokd.data.readers import PyAVReader, open_video, pyav_reader
from videokd.data.readers.packets import Jumps, Packets
from videokd.data.readers.torchcodec_reader import torchcodec_decoder
from videokd.data.scan.inspection import ScanResult, inspect_video
from videokd.errors import UnreadableVideo, UserError

NUM_FRAMES = 50
VFR = [100 * i + i * i % 7 * 9 for i in range(NUM_FRAMES)]
X265_CLOSED = {"x265-params": "open-gop=0:log-level=none"}

FILES = {
    "no_b.mp4": {},
    "b_frames.mp4": {"max_b_frames": 3},
    "b_pyramid.mkv": {"max_b_frames": 5, "options": {"x264-params": "b-pyramid=normal:b-adapt=0"}},
    "variable_rate.mp4": {"max_b_frames": 2, "stamps": VFR},
    "variable_rate_no_b.mp4": {"stamps": VFR},
    "one_gop.mp4": {"gop": 250, "max_b_frames": 3},
    "open_gop.mp4": {"max_b_frames": 3, "options": {"x264-params": "open-gop=1:b-adapt=0"}},
    "edit_list.mp4": {"hidden": 9, "max_b_frames": 2},
    "edit_list_no_b.mp4": {"hidden": 9},
    "fragmented.mp4": {
        "max_b_frames": 2,
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "odd_size.mp4": {"pix_fmt": "yuv444p", "size": (63, 101)},
    "turned_1.mp4": {"quarter_turns": 1},
    "turned_2.mp4": {"quarter_turns": 2},
    "turned_3.mp4": {"quarter_turns": 3},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4.mp4": {"codec": "mpeg4", "gop": 2},
    "mpeg4_b.avi": {"codec": "mpeg4", "max_b_frames": 2},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "hevc_open.mp4": {"codec": "libx265", "max_b_frames": 3},
    "hevc_closed.mp4": {"codec": "libx265", "max_b_frames": 3, "options": X265_CLOSED},
    "vp9.webm": {"codec": "libvpx-vp9"},
}
OPEN = {"open_gop.mp4", "mpeg4_b.avi", "hevc_open.mp4"}
NOT_FOR = {
    "decord": OPEN | {"edit_list.mp4", "edit_list_no_b.mp4"},
    "torchcodec": OPEN,
    "pyav": set[str](),
}
"""Reader -> files for which the scan does not choose it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exact")


def made(folder: Path, name: str) -> tuple[Path, int, int]:
    """The file, its number of frames, and the number that the first of them carries."""
    path = folder / name
    if not path.exists():
        write_numbered(path, NUM_FRAMES, **FILES[name])
    hidden = FILES[name].get("hidden", 0)
    return path, NUM_FRAMES - hidden, hidden


def id_lists(n: int) -> list[list[int]]:
    """Single, sorted, unsorted and repeated."""
    generator = np.random.default_rng(0)
    drawn = [generator.choice(n, size, replace=False).tolist() for size in (2, 3, 8, 8)]
    unsorted = [n - 1, 0, 7, 7, 30, 13, 25, 24, 1, 30]
    singles = [[i] for i in range(n)]
    return [list(range(n)), unsorted, *drawn, *map(sorted, drawn), *singles]


def needs(reader: str) -> None:
    if reader == "torchcodec":
        try:
            torchcodec_decoder()
        except UserError as error:
            pytest.skip(str(error))


@pytest.mark.parametrize("reader", ["decord", "pyav", "torchcodec"])
@pytest.mark.parametrize("name", FILES)
def test_a_reader_is_exact_or_the_scan_does_not_choose_it(
    name: str, reader: str, folder: Path
) -> None:
    needs(reader)
    path, n, first = made(folder, name)
    found = list(inspect_video(path, readers=(reader,)))[-1]
    assert isinstance(found, ScanResult) == (name not in NOT_FOR[reader]), found
    if not isinstance(found, ScanResult):
        assert reader in found.reason
        return
    assert (found.reader, found.num_frames) == (reader, n)
    height, width = FILES[name].get("size", (64, 96))
    assert (found.height, found.width) == (height, width)
    for ids in id_lists(n):
        with open_video(path, reader, num_frames=n) as video:
            assert video.num_frames == n
            frames = video.read(np.array(ids))
            assert (frames.dtype, frames.shape) == (np.uint8, (len(ids), height, width, 3))
            assert numbers_of(frames) == [first + i for i in ids]
            assert numbers_of(video.read(np.array(ids[:1]))) == [first + ids[0]]  # and back again


@pytest.mark.parametrize("name", FILES)
def test_the_default_path_is_exact(name: str, folder: Path) -> None:
    path, n, first = made(folder, name)
    found = list(inspect_video(path))[-1]
    assert isinstance(found, ScanResult)
    assert found.num_frames == n
    with open_video(path, found.reader, num_frames=n) as video:
        for ids in id_lists(n):
            assert numbers_of(video.read(np.array(ids))) == [first + i for i in ids]


@pytest.mark.parametrize("name", sorted(NOT_FOR["decord"]))
def test_that_decord_is_refused_is_no_idle_caution(name: str, folder: Path) -> None:
    path, n, first = made(folder, name)
    wrong = 0
    for ids in id_lists(n):
        try:
            with open_video(path, "decord", num_frames=NUM_FRAMES) as video:
                wrong += numbers_of(video.read(np.array(ids))) != [first + i for i in ids]
        except (UnreadableVideo, AssertionError):
            wrong += 1
    assert wrong


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_large", [False, True])
def test_pyav_gives_the_same_pixels_however_little_it_decodes(
    name: str, is_large: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, n, _ = made(folder, name)
    with PyAVReader(path) as video:
        whole = video.read(np.arange(n))
    if is_large:
        monkeypatch.setattr(pyav_reader, "MAX_KEPT_BYTES", 0)
    generator = np.random.default_rng(1)
    for size in (1, 2, 4, 8) * 4:
        ids = np.sort(generator.choice(n, size, replace=False))
        with PyAVReader(path, num_frames=n) as video:
            np.testing.assert_array_equal(video.read(ids), whole[ids])
            np.testing.assert_array_equal(video.read(ids[:1]), whole[ids[:1]])


JUMPING = sorted(FILES.keys() - {"mpeg4_b.avi"})


@pytest.mark.parametrize("name", JUMPING)
def test_pyav_jumps_where_each_packet_is_one_frame(name: str, folder: Path) -> None:
    path, n, _ = made(folder, name)
    with PyAVReader(path) as video:
        assert not video.jumps  # nobody has counted its frames
    with PyAVReader(path, num_frames=n - 1) as video:
        assert not video.jumps  # not the file that was scanned
    with PyAVReader(path, num_frames=n) as video:
        assert video.jumps
        video.read(np.array([n - 1, 0]))
        assert video.jumps  # and nothing went wrong with it


def test_pyav_reads_b_frames_of_avi_from_the_start(folder: Path) -> None:
    path, n, _ = made(folder, "mpeg4_b.avi")
    with PyAVReader(path, num_frames=n) as video:
        assert not video.jumps  # their order of presentation is a guess


def num_decoded(path: Path, ids: list[int], n: int) -> int:
    """Frames that the decoder gave for these ids."""
    counts = []

    class Counting(PyAVReader):
        def _fresh_decoder(self):
            context = super()._fresh_decoder()

            class Context:
                def decode(self, packet):
                    frames = context.decode(packet)
                    counts.append(len(frames))
                    return frames

                def __setattr__(self, name, value):
                    setattr(context, name, value)

            return Context()

    with Counting(path, num_frames=n) as video:
        assert numbers_of(video.read(np.array(ids))) == ids
    return sum(counts)


def test_pyav_decodes_no_more_than_it_must(folder: Path) -> None:
    plain = write_numbered(folder / "long.mp4", 240, gop=12, max_b_frames=0)
    assert num_decoded(plain, [30], 240) == 7  # 24 to 30
    assert num_decoded(plain, [30, 35, 230], 240) == 12 + 3  # 24 to 35, 228 to 230
    one_gop = {"gop": 250, "max_b_frames": 3, "options": {"x264-params": "b-adapt=0:b-pyramid=0"}}
    with_b = write_numbered(folder / "long_b.mp4", 240, **one_gop)
    # One in four is a P-frame (0, 4, 8 ...); of the B-frames only the one that is wanted.
    assert num_decoded(with_b, [40], 240) == 11
    # 44 is decoded for 41, and never asked for: it is presented later.
    assert num_decoded(with_b, [41], 240) == 11 + 1
    avi = write_numbered(folder / "long.avi", 240, codec="mpeg4", gop=12)
    assert num_decoded(avi, [230], 240) == 3


@pytest.mark.parametrize(
    ("name", "num_read"), [("mpeg4.mp4", 2 + 1), ("mpeg4.avi", None), ("b_frames.mp4", NUM_FRAMES)]
)
def test_pyav_reads_no_more_packets_than_it_must(
    name: str, num_read: int | None, folder: Path
) -> None:
    """The index of an MP4 or AVI says it all where frames are shown in the order of decoding."""
    path, n, first = made(folder, name)
    packets: list[Any] = []

    class Counting(PyAVReader):
        def _from_file(self, *, keep: bool = True) -> Iterator[Any]:
            for packet in super()._from_file(keep=keep):
                packets.append(packet)
                yield packet

    with Counting(path, num_frames=n) as video:
        assert numbers_of(video.read(np.array([21, 30]))) == [first + 21, first + 30]
        keys = [i for i, is_key in enumerate(video.packets().keys) if is_key]
    if num_read is None:  # from the key frame before each, and no further
        num_read = sum(i - max(k for k in keys if k <= i) + 1 for i in (21, 30))
    # `packets()` reads the whole file, once more where that was not done before.
    assert len(packets) == (num_read if num_read == n else num_read + n)


def test_what_was_scanned_otherwise_is_read_from_the_start(folder: Path) -> None:
    # A table that lies: the packet of another frame. No frame comes out for it, so no jump is made.
    path, n, _ = made(folder, "b_frames.mp4")
    with PyAVReader(path, num_frames=n) as video:
        assert video.jumps
        video._jumps.runs = lambda ids: []
        assert numbers_of(video.read(np.array([33]))) == [33]
        assert not video.jumps


@st.composite
def streams(draw: st.DrawFn) -> Packets:
    """Closed GOPs, each in a shuffled order of decoding after its key frame."""
    stamps: list[int] = []
    keys: list[bool] = []
    for size in draw(st.lists(st.integers(1, 6), min_size=1, max_size=6)):
        first = len(stamps)
        rest = draw(st.permutations(range(first + 1, first + size)))
        stamps += [first, *rest]
        keys += [True] + [False] * (size - 1)
    return Packets(
        stamps=tuple(7 * stamp for stamp in stamps),
        keys=tuple(keys),
        hidden=(False,) * len(stamps),
        has_corrupt=False,
        reorders=True,
        has_own_stamps=True,
        num_promised=len(stamps),
    )


@given(packets=streams(), data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_runs_hold_each_wanted_frame_once_from_its_key_frame(
    packets: Packets, data: st.DataObject
) -> None:
    n = len(packets.stamps)
    assert Jumps.are_safe(packets, n)
    assert not Jumps.are_safe(packets, n + 1)
    ids = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1))
    runs = Jumps(packets).runs(ids)
    wanted = [frame_id for run in runs for frame_id in run.wanted.values()]
    assert sorted(wanted) == sorted(ids)
    assert [run.start for run in runs] == sorted(run.start for run in runs)
    covered: set[int] = set()
    for run in runs:
        assert packets.keys[run.start]
        assert not covered & set(range(run.start, run.stop))
        covered |= set(range(run.start, run.stop))
        for position, frame_id in run.wanted.items():
            assert packets.stamps[position] == 7 * frame_id
            assert run.start <= position < run.stop
    last_keys = {
        max(k for k in range(packets.stamps.index(7 * i) + 1) if packets.keys[k]) for i in ids
    }
    assert covered >= last_keys
    assert min(covered) == min(last_keys)


def write_spliced(path: Path, num_first: int, num_second: int) -> Path:
    """H.264 in a container without presentation times: no B-frames at first, then some."""
    parts = [
        write_numbered(path.with_name("1.h264"), num_first),
        write_numbered(
            path.with_name("2.h264"),
            num_second,
            first=num_first,
            max_b_frames=3,
            options={"x264-params": "b-adapt=0"},
        ),
    ]
    joined = path.with_name("joined.h264")
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(joined)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for position, packet in enumerate(packets):
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = position
            target.mux(packet)
    return path


def test_a_stream_that_goes_over_to_b_frames_is_not_read_by_the_order_of_packets(
    tmp_path: Path,
) -> None:
    path = write_spliced(tmp_path / "spliced.avi", 48, 12)
    with PyAVReader(path, num_frames=60) as reader:
        assert reader.jumps  # nothing at its start says what comes
        assert numbers_of(reader.read(np.arange(24, 36))) == list(range(24, 36))
        assert reader.jumps
    for i in range(60):
        with PyAVReader(path, num_frames=60) as reader:
            assert numbers_of(reader.read(np.array([i]))) == [i]
