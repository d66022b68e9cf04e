"""`videokd bench`: run folders and names of the catalogue, lists of settings, tables and JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from videokd.bench.benchmark import BenchPlan, Subject, benchmark_models, command_of
from videokd.bench.latency import BenchSetting, Session, settings_of
from videokd.bench.latency import roofline as roofline_module
from videokd.bench.result import BenchmarkResult, read_results
from videokd.cli import main
from videokd.data.index import Index
from videokd.experiments import benchmark as experiment
from videokd.models.catalog import ModelEntry, Published
from videokd.recipe import load_trained
from videokd.runs import bench_subject

SETTINGS = {
    "kind": "timm",
    "backbone": "resnet10t",
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 4},
    "temporal": {"kind": "shift"},
    "input": {
        "sampling": {"kind": "dense", "num_frames": 4, "stride": 2},
        "short_side_px": 32,
        "crop_px": 32,
    },
}
TINY = ModelEntry(
    name="tiny_net",
    family="tsm",
    role="student",
    settings=SETTINGS,
    num_classes=7,
    published=Published(
        dataset="kinetics400", top1_pct=70.0, top5_pct=90.0, views="10x3", protocol=None,
        source="nowhere",
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small matrices and copies for the ceilings, a small cache, no meter."""
    monkeypatch.setattr(roofline_module, "_MATRIX_SIDES", {"cpu": (128,)})
    monkeypatch.setattr(roofline_module, "_CONV_CHANNELS", {"cpu": (16,)})
    monkeypatch.setattr(roofline_module, "_copied_bytes", lambda device: [2**20])
    monkeypatch.setattr("videokd.bench.latency.buffers.last_level_cache_bytes", lambda device: 1)
    monkeypatch.setattr("videokd.bench.latency.timing.MAX_WARMUP_SECONDS", 0.2)
    roofline_module._measured.cache_clear()
    threads = torch.get_num_threads()
    yield
    roofline_module._measured.cache_clear()
    torch.set_num_threads(threads)


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    from videokd.models.catalog import entry

    monkeypatch.setattr(
        experiment, "entry", lambda name: TINY if name == "tiny_net" else entry(name)
    )


@pytest.fixture
def run_copy(tiny_control: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_control, tmp_path / "control"))


def bench(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["bench", *map(str, words), "--quick", "--device", "cpu", "--quiet"])
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.mark.usefixtures("catalogue")
def test_a_run_and_a_name_side_by_side_in_every_setting(
    run_copy: Path, tiny_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tiny_index.records[0].path
    status, out, err = bench(
        capsys, run_copy, "tiny_net", "--batch", "1,2", "--threads", "1", "--form",
        "trained,deployed", "--path", video, "--json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    found = [BenchmarkResult.from_dict(item) for item in json.loads(out)]
    assert [one.role for one in found] == ["control"] * 4 + ["student"] * 4
    settings = [(one.form, one.batch) for one in found[:4]]
    assert settings == [("trained", 1), ("trained", 2), ("deployed", 1), ("deployed", 2)]
    assert settings == [(one.form, one.batch) for one in found[4:]]
    run, named = found[0], found[4]
    document = json.loads((run_copy / "eval.json").read_text(encoding="utf-8"))
    assert (run.weights, run.top1_pct) == ("trained", document["top1_pct"])
    assert (named.model, named.weights, named.top1_pct) == ("tiny_net", "random", None)
    assert (named.num_views, named.gmacs_per_video) == (30, 30 * named.gmacs_per_view)
    for one in found:
        assert (one.quick, one.latency_ms.runs) == (True, 10)
        assert one.roofline is not None
        assert one.roofline.limited_by in ("compute", "memory", "overhead", "kernels")
        (path,) = one.paths
        assert (path.file, path.height, path.width) == (video.name, 32, 32)
        assert path.live_streams > 0
        assert one.versions is not None
        assert one.threads == 1
        assert one.versions["threads"] == "1"
    assert found[5].command == (
        "videokd bench tiny_net --device cpu --batch 2 --dtype fp32 --mode eager --form trained "
        f"--memory-format contiguous --threads 1 --path {video} --quick"
    )
    kept = read_results(run_copy / "bench.json")
    assert [one.setting for one in kept] == [one.setting for one in found[:4]]


@pytest.mark.usefixtures("catalogue")
def test_the_tables_say_what_limits_each_and_what_a_stream_costs(
    tiny_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tiny_index.records[0].path
    words = ("tiny_net", "--dtype", "fp32,bf16", "--threads", "1", "--path", video)
    status, out, err = bench(capsys, *words, "--by-module", "--convention", "flop")
    assert (status, err) == (0, "")
    flat = " ".join(out.split())
    assert "Measured ceilings: fp32 on 1 thread " in flat
    assert "; bf16 on 1 thread " in flat
    assert "one 25 fps stream, all frames decoded, one prediction a second" in flat
    assert "fp32, eager, batch 1, 1 thread" in flat
    assert "layer1.0.conv1" in out
    assert "flop" in out


@pytest.mark.usefixtures("catalogue")
def test_what_cannot_be_is_left_out_of_a_product_and_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("tiny_net", "--dtype", "fp32,tf32", "--mode", "eager,graph", "--threads", "1")
    status, out, err = bench(capsys, *words, "--json", "--by-module")
    assert status == 0
    (one,) = json.loads(out)
    assert (one["dtype"], one["mode"]) == ("fp32", "eager")
    left_out = [line for line in err.splitlines() if "left out" in line]
    assert left_out[0] == (
        "videokd: tiny_net, tf32, eager, batch 1, threads 1: left out: dtype tf32 is for a CUDA "
        "device, this is a CPU; use fp32 or bf16"
    )
    assert len(left_out) == 3
    assert "layer1.0.conv1" in err, "under --json the modules are told on stderr"


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("tiny_net", "--mode", "graph"), 1, "mode graph is for a CUDA device, this is a CPU"),
        (("tiny_net", "--dtype", "fp8"), 2, "--dtype 'fp8' is not known; "),
        (("tiny_net", "--form", "deployd"), 2, "did you mean 'deployed'"),
        (("tiny_net", "--threads", "some"), 2, "--threads 'some' is not a whole number"),
        (("tiny_net", "--batch", "0"), 2, "--batch '0' is not a whole number above 0"),
        (("tiny_net", "--convention", "macs"), 2, "did you mean 'mac'"),
        (("tiny_net", "--path", "no.mp4"), 1, "--path no.mp4: no such file"),
        (("tsm_mobilnetv2",), 1, "no network is named 'tsm_mobilnetv2'; did you mean "),
        (("tiny_net@big",), 1, "'big' is not a crop in px; write for example tiny_net@224"),
        (("tiny_net@1000000",), 1, "of memory are free; give fewer clips or a smaller crop"),
        (("tiny_net", "--threads", "100000"), 1, "threads 100000: at most 1024"),
        (("runs/nothing",), 1, "runs/nothing: no such run folder or checkpoint"),
    ],
)
def test_mistakes_are_one_plain_line(
    words: tuple[str, ...], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = bench(capsys, *words)
    assert (code, out) == (status, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("catalogue")
def test_a_name_may_ask_for_another_crop(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = bench(capsys, "tiny_net", "tiny_net@64", "--quick", "--json")
    own, larger = json.loads(out)
    assert (larger["model"], larger["crop_px"]) == ("tiny_net@64", 64)
    assert own["crop_px"] != 64
    ratio = larger["gmacs_per_view"] / own["gmacs_per_view"]
    assert ratio == pytest.approx((64 / own["crop_px"]) ** 2, rel=0.02)
    assert larger["command"].startswith("videokd bench tiny_net@64 ")


def test_a_crop_that_the_network_does_not_take_is_told_with_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = bench(capsys, "mvit_v2_s@256")
    assert (code, out) == (1, "")
    assert err.startswith(
        "videokd: mvit_v2_s@256: the network does not take clips of 16x256x256 (frames x px x px)"
    )
    assert "run folder" not in err
    assert err.count("\n") == 1


def test_the_networks_that_are_compared_have_names() -> None:
    from videokd.models.catalog import entry

    names = [
        "tsm_mobilenetv2",
        "tsm_r18",
        "tsm_r50",
        "x3d_xs",
        "x3d_s",
        "x3d_m",
        "slowfast_r50_8x8",
    ]
    assert [entry(name).name for name in names] == names


def test_a_network_that_fails_in_a_setting_does_not_stop_the_others(
    tiny_control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = bench_subject(load_trained(tiny_control))
    bad = replace(good, name="bad", model=good.model.without_taps())
    with torch.no_grad():
        next(bad.model.classifier_parameters()).fill_(float("nan"))
    plan = BenchPlan(settings=settings_of(threads=(1,)), quick=True)
    found = benchmark_models([bad, good], plan)
    assert [len(rows) for rows in found.results] == [0, 1]
    (left_out,) = found.left_out
    assert str(left_out) == (
        "bad, fp32, eager, batch 1, threads 1: left out: logits in fp32, eager are not finite; "
        "measure in another dtype or mode"
    )


def test_a_row_without_a_name_has_no_command(tiny_control: Path) -> None:
    subject = replace(bench_subject(load_trained(tiny_control)), argument="")
    assert command_of(subject, BenchPlan(), BenchSetting()) is None
    named = replace(subject, argument="runs/my run")
    plan = BenchPlan(device="cuda", convention="fvcore")
    told = command_of(named, plan, BenchSetting(dtype="bf16", mode="graph", threads=None))
    assert told == (
        "videokd bench 'runs/my run' --device cuda --batch 1 --dtype bf16 --mode graph --form "
        "trained --memory-format contiguous --convention fvcore"
    )


def test_networks_of_one_setting_are_prepared_before_any_is_timed(
    tiny_control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    time, prepare = Session.time, Session._prepare

    def timed(self: Session, num_runs: int, *, num_warmup: int) -> None:
        order.append("time")
        time(self, num_runs, num_warmup=num_warmup)

    def prepared(self: Session) -> float | None:
        order.append("prepare")
        return prepare(self)

    monkeypatch.setattr(Session, "time", timed)
    monkeypatch.setattr(Session, "_prepare", prepared)
    monkeypatch.setattr(Session, "roofline", lambda self, gmacs, *, num_runs: None)
    subject: Subject = bench_subject(load_trained(tiny_control))
    plan = BenchPlan(settings=settings_of(threads=(1,)), quick=True)
    benchmark_models([subject, subject], plan)
    assert order == ["prepare", "prepare", *["time"] * 10]


def test_the_script_is_the_command() -> None:
    script = Path(__file__).parents[1] / "tools" / "benchmark.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True
    )
    assert "--memory-format" in done.stdout
