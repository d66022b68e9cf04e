from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from videokd.bench.latency import BenchSetting, Session, in_setting
from videokd.bench.latency import path as path_module
from videokd.bench.latency.buffers import Buffers
from videokd.bench.latency.path import (
    Load,
    Source,
    Stages,
    live_frame_ms,
    live_load,
    live_streams,
    source_of,
    time_path,
    video_file,
    whole_path,
)
from videokd.bench.loading.files import KINDS, FileKind, make_file
from videokd.data.loading import clip_tensor, read_clips
from videokd.data.sampling.protocols import own_views
from videokd.data.scan import scan_video
from videokd.errors import UserError
from videokd.types import Dense, InputSpec, Segment

CPU = torch.device("cpu")
STAGES = Stages(
    decode=50.0, preprocess=4.0, copy=1.0, convert=2.0, model=20.0, post=0.5,
    frame_decode=0.4, frame_rgb=0.1,
)  # fmt: skip
SPEC = InputSpec(sampling=Dense(num_frames=4, stride=2), short_side_px=36, crop_px=32)
SMALL = FileKind(".mp4", 48, 64, 25, 50, "libx264", 25, (("x264-params", "mbtree=0"),))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_file(SMALL, tmp_path_factory.mktemp("path") / "small.mp4")


@pytest.fixture(scope="module")
def scanned(video):
    return scan_video(video)


def test_a_live_stream_decodes_every_frame_and_predicts_at_its_rate():
    host, device = live_load(STAGES, num_frames=8, per_second=1.0, on_gpu=False)
    assert host == pytest.approx(25 * 0.4 + 8 * 0.1 + 4 + 1 + 2 + 20 + 0.5)
    assert device == 0
    twice = live_load(STAGES, num_frames=8, per_second=2.0, on_gpu=False)
    assert twice.host == pytest.approx(25 * 0.4 + 2 * (8 * 0.1 + 4 + 1 + 2 + 20 + 0.5))


def test_on_a_gpu_host_and_device_work_side_by_side():
    load = live_load(STAGES, num_frames=8, per_second=1.0, on_gpu=True)
    assert load == (pytest.approx(25 * 0.4 + 8 * 0.1 + 4), pytest.approx(1 + 2 + 20 + 0.5))
    assert live_streams(load) == pytest.approx(1000 / 23.5)
    assert live_streams(Load(host=40.0, device=2.0)) == 25.0


@given(st.floats(0.01, 100), st.floats(0.01, 10), st.integers(1, 64))
def test_that_many_streams_fill_one_second(model_ms, per_second, num_frames):
    stages = STAGES._replace(model=model_ms)
    load = live_load(stages, num_frames=num_frames, per_second=per_second, on_gpu=False)
    assert live_streams(load) * load.host == pytest.approx(1000)


def test_the_whole_path_says_what_follows_from_its_stages(scanned):
    source = source_of(scanned, SPEC)
    assert source.span_seconds == pytest.approx(7 / 25)
    found = whole_path(source, STAGES, on_gpu=False, runs=20)
    assert (found.file, found.height, found.width, found.runs) == ("small.mp4", 48, 64, 20)
    assert found.clip_ms == pytest.approx(77.5)
    assert found.ms_per_video_second == pytest.approx(77.5 / 0.28)
    assert found.live_streams == pytest.approx(1000 / (10 + 0.4 + 27.5))
    assert found.live_streams_back_to_back == pytest.approx(1000 / (10 + 27.9 / 0.28))
    assert found.host_ms_per_second == pytest.approx(37.9)


def test_clips_lie_over_the_whole_file_and_segments_cover_it(scanned):
    dense = source_of(scanned, SPEC)
    assert dense.ids.shape == (5, 4)
    assert (dense.ids.min(), dense.ids.max()) == (0, 49)
    segments = source_of(scanned, InputSpec(sampling=Segment(num_segments=4), short_side_px=36,
                                          crop_px=32))  # fmt: skip
    assert segments.ids.shape == (1, 4)
    assert segments.span_seconds > 1.2


class Net(nn.Module):
    seen: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 7)

    def forward(self, clips: Tensor) -> Tensor:
        Net.seen.append(clips)
        return self.head(clips.mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("batch", "memory_format", "dtype"),
    [(1, "contiguous", "fp32"), (2, "channels_last", "fp32"), (1, "channels_last", "bf16")],
)
def test_every_stage_is_timed_and_the_network_sees_what_evaluation_shows(
    video, scanned, monkeypatch, batch, memory_format, dtype
):
    monkeypatch.setattr("videokd.bench.latency.buffers.last_level_cache_bytes", lambda device: 1)
    Net.seen = []
    setting = BenchSetting(batch=batch, memory_format=memory_format, dtype=dtype, threads=1)
    source = source_of(scanned, SPEC)
    with in_setting(setting, CPU), torch.inference_mode():
        session = Session(Net(), setting, num_frames=4, crop_px=32, buffers=Buffers(CPU))
        del Net.seen[:]
        found = time_path(session, source, num_runs=3, num_warmup=2)
    assert found.runs == 3
    stages = ("decode", "preprocess", "copy", "convert", "model", "post", "frame_decode")
    assert all(getattr(found, f"{name}_ms") > 0 for name in stages)
    assert len(Net.seen) == 5
    views = read_clips(video, SPEC, views=own_views(5))
    wanted = clip_tensor(views.frames["student"]).to(Net.seen[0].dtype)
    got = torch.cat(Net.seen)[:5]
    assert got.dtype == (torch.bfloat16 if dtype == "bf16" else torch.float32)
    tolerance = 0.01 if dtype == "bf16" else 1e-6
    assert torch.allclose(got.float(), wanted[: len(got)].float(), atol=tolerance)
    last = memory_format == "channels_last"
    assert all(c.is_contiguous(memory_format=torch.channels_last_3d) == last for c in Net.seen)


def test_stages_of_a_batch_are_told_by_clip(scanned, monkeypatch):
    clock = iter(np.arange(0, 10_000, 1.0).tolist())
    monkeypatch.setattr(path_module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(path_module, "live_frame_ms", lambda path: (0.4, 0.1))
    monkeypatch.setattr("videokd.bench.latency.buffers.last_level_cache_bytes", lambda device: 1)
    Net.seen = []
    setting = BenchSetting(batch=4, threads=1)
    with in_setting(setting, CPU), torch.inference_mode():
        session = Session(Net(), setting, num_frames=4, crop_px=32, buffers=Buffers(CPU))
        found = time_path(session, source_of(scanned, SPEC), num_runs=2)
    # Each stage lasts one tick of a second, which four clips share.
    assert found.clip_ms == pytest.approx(6 * 250)


def test_a_frame_of_a_live_stream_is_timed_without_opening_the_file(video):
    decode_ms, rgb_ms = live_frame_ms(video)
    assert 0 < decode_ms < 50
    assert 0 < rgb_ms < 50


def test_files_are_the_users_or_rendered_by_name(video, tmp_path, monkeypatch):
    assert video_file(str(video)) == video
    with pytest.raises(UserError, match=r"--path no\.mp4: no such file; .*: long_gop, avi, 720p"):
        video_file("no.mp4")
    made = []
    monkeypatch.setattr(
        path_module, "made_files", lambda names, folder: made.append(folder) or {names[0]: video}
    )
    assert video_file("avi", folder=tmp_path) == video
    assert made == [tmp_path / "files"]
    assert set(KINDS) == {"long_gop", "avi", "720p"}


def test_a_video_too_short_for_the_network_is_refused(scanned):
    sampling = Dense(num_frames=64, stride=2, past_end="refuse")
    with pytest.raises(UserError, match=r"small\.mp4: "):
        source_of(scanned, SPEC.model_copy(update={"sampling": sampling}))


def test_the_span_is_of_the_longest_clip(scanned):
    source = source_of(scanned, SPEC)
    ids = np.array([[0, 1, 2, 3], [5, 10, 20, 29]])
    assert Source(source.found, SPEC, ids).span_seconds == pytest.approx(1.0)
