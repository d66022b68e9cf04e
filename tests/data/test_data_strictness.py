"""What FFmpeg can see as damaged is refused; healthy files that only look odd are not."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_video import numbers_of, write_numbered

from videokd.data.readers import open_video
from videokd.data.scan.inspection import ScanFailure, Scanned, ScanResult, inspect_video


def inspected(path: Path, **options: object) -> Scanned:
    return list(inspect_video(path, **options))[-1]


def refused(path: Path) -> str:
    found = inspected(path)
    assert isinstance(found, ScanFailure), found
    assert "\n" not in found.reason
    return found.reason


def changed(path: Path, name: str, content: bytes) -> Path:
    other = path.with_name(name)
    other.write_bytes(content)
    return other


def kept_start(path: Path, num_whole: int) -> ScanResult:
    """A damaged file keeps its intact start, and the reader gives just that."""
    found = inspected(path, keep_damaged=True)
    assert isinstance(found, ScanResult)
    assert found.note.startswith(f"{found.num_frames} of {num_whole} frames decode, then: ")
    assert 0 < found.num_frames < num_whole
    with open_video(path, found.reader, num_frames=found.num_frames) as video:
        ids = list(range(found.num_frames))
        assert numbers_of(video.read(np.array(ids[::-1]))) == ids[::-1]
    return found


def test_a_file_cut_off(tmp_path: Path) -> None:
    whole = write_numbered(
        tmp_path / "whole.mp4", 60, gop=60, container_options={"movflags": "faststart"}
    )
    cut = changed(whole, "cut.mp4", whole.read_bytes()[:-1500])
    assert refused(cut).startswith("damaged: ")
    assert "of 60 frames decode, then: " in refused(cut)
    assert kept_start(cut, 60).reader == "pyav"
    headless = changed(whole, "headless.mp4", whole.read_bytes()[:500])
    assert refused(headless).startswith("not a video, or damaged: ")


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_cut_that_only_the_container_shows(share: float, tmp_path: Path) -> None:
    mkv = write_numbered(tmp_path / "whole.mkv", 60, max_b_frames=2)
    cut = changed(mkv, "cut.mkv", mkv.read_bytes()[: int(mkv.stat().st_size * share)])
    assert "matroska,webm: File ended prematurely" in refused(cut)
    avi = write_numbered(tmp_path / "whole.avi", 60, codec="mpeg4")
    cut = changed(avi, "cut.avi", avi.read_bytes()[: int(avi.stat().st_size * share)])
    assert refused(cut).startswith("damaged: ")
    kept_start(cut, 60)


def test_flipped_bytes_in_a_packet(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "whole.mp4", 40, gop=40, max_b_frames=2)
    content = bytearray(whole.read_bytes())
    generator = np.random.default_rng(0)
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    seen = 0
    for packet in packets[1:21]:
        damaged = bytearray(content)
        for place in generator.integers(packet.pos + 8, packet.pos + packet.size, size=6):
            damaged[place] ^= 0xFF
        path = changed(whole, "damaged.mp4", bytes(damaged))
        found = inspected(path)
        seen += isinstance(found, ScanFailure)
        kept = inspected(path, keep_damaged=True)
        if isinstance(found, ScanFailure) and isinstance(kept, ScanResult):
            with open_video(path, kept.reader, num_frames=kept.num_frames) as video:
                ids = list(range(kept.num_frames))
                assert numbers_of(video.read(np.array(ids))) == ids
    assert seen >= 15


def avi_with_count(path: Path, name: str, more: int) -> Path:
    """The same AVI, whose two headers count that many frames more."""
    content = bytearray(path.read_bytes())
    for place in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        (count,) = struct.unpack_from("<I", content, place)
        struct.pack_into("<I", content, place, count + more)
    return changed(path, name, bytes(content))


def test_a_header_may_count_one_frame_more(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "whole.avi", 30, codec="mpeg4")
    found = inspected(avi_with_count(path, "one.avi", 1))
    assert isinstance(found, ScanResult)  # as in HMDB51
    assert (found.num_frames, found.note) == (30, "")
    assert refused(avi_with_count(path, "five.avi", 5)) == (
        "damaged: 30 of 35 frames decode, then: the file ends 5 frames before its header says; "
        "--keep-damaged keeps those 30"
    )


def test_an_avi_may_leave_frames_out(tmp_path: Path) -> None:
    # The encoder dropped 10 to 14; the container stores nothing for them, and counts them.
    stamps = [*range(10), *range(15, 30)]
    path = write_numbered(tmp_path / "gap.avi", 25, codec="mpeg4", stamps=stamps)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 30
    found = inspected(path)
    assert isinstance(found, ScanResult)
    assert found.num_frames == 25
    with open_video(path, found.reader, num_frames=25) as video:
        assert numbers_of(video.read(np.arange(25))) == list(range(25))


def remuxed(path: Path, name: str, first_packet: int) -> Path:
    """The stream from that packet on."""
    other = path.with_name(name)
    with av.open(str(path)) as source, av.open(str(other), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for position, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size and position >= first_packet:
                packet.stream = stream
                out.mux(packet)
    return other


def test_a_stream_may_start_between_key_frames(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "whole.mkv", 50, gop=12, max_b_frames=0)
    found = inspected(remuxed(path, "from_5.mkv", 5))
    assert isinstance(found, ScanResult)
    assert found.note == "read by pyav: decord shows 45 frames where 38 are presented"
    with open_video(found.path, found.reader, num_frames=found.num_frames) as video:
        shown = numbers_of(video.read(np.arange(found.num_frames)))
    assert shown == list(range(12, 50))


def test_a_stream_may_start_with_an_open_gop(tmp_path: Path) -> None:
    open_gop = {"max_b_frames": 3, "options": {"x264-params": "open-gop=1:b-adapt=0"}}
    path = write_numbered(tmp_path / "whole.mkv", 50, **open_gop)
    with av.open(str(path)) as container:
        keys = [i for i, p in enumerate(container.demux(video=0)) if p.size and p.is_keyframe]
    found = inspected(remuxed(path, "open.mkv", keys[1]))
    assert isinstance(found, ScanResult), found
    with open_video(found.path, found.reader, num_frames=found.num_frames) as video:
        shown = numbers_of(video.read(np.arange(found.num_frames)))
    assert shown == list(range(50 - found.num_frames, 50))


def test_an_error_in_the_sound_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    silent = write_numbered(tmp_path / "silent.mkv", 30)
    with av.open(str(silent)) as source, av.open(str(path), "w") as out:
        video = out.add_stream_from_template(source.streams.video[0])
        audio = out.add_stream("aac", rate=16000, layout="mono")
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = video
                out.mux(packet)
        for i in range(10):
            samples = np.full((1, 1024), 0.1, np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            for packet in audio.encode(frame):
                noise = av.Packet(b"\xde\xad" * 100)
                noise.stream, noise.pts, noise.dts = audio, packet.pts, packet.dts
                noise.time_base = packet.time_base
                out.mux(noise)
    found = inspected(path)
    assert isinstance(found, ScanResult), found
    assert found.num_frames == 30
