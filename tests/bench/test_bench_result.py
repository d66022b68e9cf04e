from __future__ import annotations

import dataclasses
import json

import pytest

from videokd.bench.parts import Roofline, WholePath
from videokd.bench.result import BenchmarkResult, Latency, read_results, results_json
from videokd.errors import UserError

ROOFLINE = Roofline(100.0, 20.0, 1.0, 2.0, 3.0, 2.0, 0.2, "overhead", 7.0)
PATH = WholePath(
    "a.mp4", 240, 320, "decord", 2.0, 5.0, 1.0, 0.5, 0.5, 10.0, 1.0, 0.2, 0.1, 20.0, 0.0, 50.0,
    80.0, 20,
)  # fmt: skip


def test_json_and_back_is_the_same(make_result):
    one = make_result(
        peak_mem_gib=1.5, top5_interval_pct=(97.0, 100.0), num_views=30, form="deployed",
        memory_format="channels_last", threads=2, weights="random", convention="flop",
        gops_per_view=0.24, energy_j=2.0, energy_source="rapl", roofline=ROOFLINE,
        paths=(PATH, PATH), latency_ms=Latency(1.0, 2.0, 3.0, 1.5, 0.1, 100, (0.9, 1.1)),
    )  # fmt: skip
    bare = make_result(
        top1_pct=None, top5_pct=None, top1_interval_pct=None, num_videos=None, clocks=None,
        versions=None, git_sha=None,
    )  # fmt: skip
    for result in (one, bare):
        again = BenchmarkResult.from_dict(json.loads(json.dumps(result.to_dict())))
        assert again == result
        assert type(again.latency_ms) is Latency


def test_the_json_has_the_agreed_keys(make_result):
    data = make_result().to_dict()
    assert list(data) == [
        "model", "role", "params_m", "gmacs_per_view", "num_views", "gmacs_per_video", "batch",
        "num_frames", "crop_px", "dtype", "mode", "device", "latency_ms", "throughput_clips_s",
        "form", "memory_format", "threads", "weights", "convention", "gops_per_view",
        "peak_mem_gib", "energy_j", "energy_source", "roofline", "paths", "top1_pct", "top5_pct",
        "top1_interval_pct", "top5_interval_pct", "num_videos", "protocol", "command", "clocks",
        "versions", "git_sha", "quick",
    ]  # fmt: skip
    assert list(data["latency_ms"]) == [
        "p50", "p95", "p99", "mean", "spread", "runs", "p50_interval",
    ]  # fmt: skip
    assert data["top1_interval_pct"] == [85.0, 93.5]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"runs": 99}, "99 timed runs; a result needs at least 100"),
        ({"runs": 9, "quick": True}, "9 timed runs; the quick form needs at least 10"),
        ({"gmacs_per_video": 0.13}, r"gmacs_per_video is 0\.13, but 1 views of 0\.12 are 0\.12"),
        ({"gmacs_per_view": 0.0}, r"gmacs_per_view is 0\.0; it is above 0"),
        ({"batch": 0}, "batch is 0; it is at least 1"),
        ({"params_m": -1.0}, r"params_m is -1\.0; it is at least 0"),
        ({"params_m": float("nan")}, "params_m is nan"),
        ({"peak_mem_gib": float("inf")}, "peak_mem_gib is inf"),
        ({"throughput_clips_s": 0.0}, r"throughput_clips_s is 0\.0"),
        ({"top1_pct": 84.0}, r"top1 84\.0 % in \(85\.0, 93\.5\)"),
        ({"top1_pct": None}, "top1 has an interval but no value"),
        ({"top5_pct": 89.0}, r"top5_pct 89\.0 with top1_pct 90\.0"),
        ({"top5_pct": 101.0}, r"top5 101\.0 % in"),
        ({"num_videos": None}, r"top1_pct 90\.0 with num_videos None"),
        ({"model": " "}, "both need a name"),
        ({"threads": 0}, "threads is 0; it is at least 1"),
        ({"convention": "flop"}, "convention flop with gops_per_view None"),
        ({"gops_per_view": 0.24}, r"convention mac with gops_per_view 0\.24"),
    ],
)
def test_values_that_cannot_be_are_refused(make_result, changes, match):
    with pytest.raises(UserError, match=match):
        make_result(**changes)


@pytest.mark.parametrize("bad", [(5, 4, 6, 5, 0, 10), (0, 1, 1, 1, 0, 10), (1, 2, 3, 2, 0, 0)])
def test_latencies_that_cannot_be_are_refused(bad):
    with pytest.raises(UserError, match="measure again"):
        Latency(*bad)


def test_ten_runs_are_enough_in_the_quick_form_alone(make_result):
    assert make_result(runs=10, quick=True).quick
    assert not make_result(runs=100).quick


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"latncy": 1}, "r.json: unknown key 'latncy'"),
        ({"batch": "1"}, "r.json: batch: Input should be a valid integer"),
        ({"batch": 1.5}, "r.json: batch: Input should be a valid int"),
        ({"dtype": "fp8"}, "r.json: dtype: Input should be 'fp32', 'tf32', 'bf16' or 'fp16'"),
        ({"latency_ms": {"p50": 1.0}}, r"r.json: latency_ms\.p95: Field required"),
        ({"roofline": {"floor_ms": 1.0}}, r"r.json: roofline\.peak_gmacs_s: Field required"),
        ({"paths": [{"file": "a"}]}, r"r.json: paths\.0\.height: Field required"),
        ({"form": "shipped"}, "r.json: form: Input should be 'trained' or 'deployed'"),
        ({"top1_interval_pct": [1.0]}, r"r.json: top1_interval_pct\.1: Field required"),
    ],
)
def test_foreign_dicts_are_refused_by_field(make_result, change, match):
    with pytest.raises(UserError, match=match):
        BenchmarkResult.from_dict(make_result().to_dict() | change, source="r.json")


def test_a_missing_field_is_named(make_result):
    data = make_result().to_dict()
    del data["quick"]
    with pytest.raises(UserError, match="quick is missing"):
        BenchmarkResult.from_dict(data)
    with pytest.raises(UserError, match="unknown key 'quik'; did you mean 'quick'"):
        BenchmarkResult.from_dict(data | {"quik": False})


def test_accuracy_is_added_to_a_measurement(make_result):
    timed = make_result(top1_pct=None, top5_pct=None, top1_interval_pct=None, num_videos=None)
    whole = timed.with_accuracy(
        top1_pct=50.0, num_videos=80, top1_interval_pct=(39.0, 61.0), top5_pct=80.0
    )
    assert dataclasses.asdict(whole) == dataclasses.asdict(timed) | {
        "top1_pct": 50.0, "num_videos": 80, "top1_interval_pct": (39.0, 61.0), "top5_pct": 80.0,
    }  # fmt: skip
    assert timed.top1_pct is None


def test_files_are_read_back_in_order(make_result, tmp_path):
    results = [make_result("b"), make_result("a"), make_result("c")]
    path = tmp_path / "results.json"
    path.write_text(results_json(results), encoding="utf-8")
    assert read_results(path) == results


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "cannot be read: No such file"),
        ("[{", "not readable as JSON"),
        ("{}", "a list of benchmark results is expected"),
        ("[{}]", "result 0: .* is missing"),
    ],
)
def test_files_that_are_not_results_are_refused(tmp_path, text, match):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=match):
        read_results(path)


def test_intervals_and_rooflines_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"p50 1\.0 ms lies outside its interval 1\.1 to 1\.2"):
        Latency(1.0, 2.0, 3.0, 1.5, 0.1, 100, (1.1, 1.2))
    with pytest.raises(UserError, match=r"floor 0\.0 ms, reached 0\.2: all are above 0"):
        dataclasses.replace(ROOFLINE, floor_ms=0.0)


def test_energy_is_told_by_clip_too(make_result):
    assert make_result(batch=8, energy_j=4.0).energy_per_clip_j == 0.5
    assert make_result(batch=8).energy_per_clip_j is None


def test_latencies_compare_in_one_setting_only(make_result):
    plain = make_result()
    assert str(plain.setting) == "cpu: Some Processor, fp32, eager, batch 1"
    other = make_result(threads=2, form="deployed", memory_format="channels_last")
    assert str(other.setting) == (
        "cpu: Some Processor, fp32, eager, batch 1, 2 threads, deployed, channels_last"
    )
    assert other.setting != plain.setting
    assert make_result(weights="random").setting == plain.setting


def test_a_path_adds_up():
    assert PATH.clip_ms == 18.0
    assert PATH.ms_per_video_second == 9.0
