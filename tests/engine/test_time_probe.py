"""The probe for motion: what each order shows, to networks that see it and to those that do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_recipes import as_config, recipe
from torch import Tensor, nn

from videokd.cli import main
from videokd.data.index import Index
from videokd.data.loading import EvalLoader
from videokd.engine.evaluate import VideoScores, score_videos
from videokd.engine.time_probe import probe_orders, score_time_probe, shuffled_frames
from videokd.errors import UserError
from videokd.experiments.probe import probe_time, sentence
from videokd.metrics import PairedTest, paired_test
from videokd.models.video_model import VideoModel
from videokd.recipe import Trained, create_fabric, load_trained
from videokd.runs import evaluate
from videokd.types import ClipBatch, InputSpec

NUM_FRAMES, NUM_CLASSES = 6, 4
ORDERS = ("normal", "shuffled", "reversed", "frozen")


class Integers(nn.Module):
    """Sums of whole numbers, so that no order of adding changes a bit."""

    def __init__(self, weights: list[int]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64))
        self.head = nn.Linear(3, NUM_CLASSES).double()

    def forward(self, clips: Tensor) -> Tensor:
        frames = (clips.double() * 255).round().sum((3, 4))
        return self.head((frames * self.weights).sum(2) / 1e4).float()


def network(weights: list[int]) -> VideoModel:
    """Sees the frames of a clip with these weights; equal ones are their mean."""
    torch.manual_seed(0)
    spec = InputSpec.model_validate(
        {
            "sampling": {"kind": "dense", "num_frames": NUM_FRAMES, "stride": 1},
            "short_side_px": 8, "crop_px": 8, "mean": [0, 0, 0], "std": [1, 1, 1],
        }
    )  # fmt: skip
    return VideoModel(Integers(weights), spec=spec, num_classes=NUM_CLASSES, classifier="head")


@dataclass
class Batches:
    """A loader of batches at hand."""

    batches: list[ClipBatch]

    @property
    def num_videos(self) -> int:
        return sum(batch.num_videos for batch in self.batches)

    def __iter__(self) -> Iterator[ClipBatch]:
        return iter(self.batches)


def videos(num: int = 5, views: int = 2, first_id: int = 10) -> ClipBatch:
    generator = torch.Generator().manual_seed(first_id)
    shape = (num, views, NUM_FRAMES, 8, 8, 3)
    colours = torch.randint(0, 256, (*shape[:3], 1, 1, 3), generator=generator, dtype=torch.uint8)
    return ClipBatch(
        frames={"student": colours.expand(shape).contiguous()},
        frame_seconds={"student": torch.rand(shape[:3], generator=generator).cumsum(2)},
        targets=torch.eye(NUM_CLASSES)[torch.arange(num) % NUM_CLASSES],
        has_label=torch.ones(num, dtype=torch.bool),
        video_ids=torch.arange(first_id, first_id + num),
    )


def probe(model: VideoModel, *batches: ClipBatch, num_crops: int = 1) -> dict[str, VideoScores]:
    loader: EvalLoader = Batches(list(batches))  # type: ignore[assignment]
    return score_time_probe(create_fabric("cpu"), model, loader, num_crops=num_crops)


def score(model: VideoModel, batch: ClipBatch) -> Tensor:
    loader: EvalLoader = Batches([batch])  # type: ignore[assignment]
    return score_videos(create_fabric("cpu"), model, loader).probabilities


def test_a_network_that_sees_the_mean_frame_sees_no_order() -> None:
    scores = probe(network([1] * NUM_FRAMES), videos())
    assert tuple(scores) == ORDERS
    for name in ("shuffled", "reversed"):
        assert torch.equal(scores[name].probabilities, scores["normal"].probabilities)
    assert not torch.equal(scores["frozen"].probabilities, scores["normal"].probabilities)


def test_a_network_that_sees_the_order_is_changed_by_all() -> None:
    scores = probe(network([0, 1, 3, 4, 6, 9]), videos())
    normal = scores["normal"].probabilities
    for name in ORDERS[1:]:
        assert (scores[name].probabilities != normal).any(1).all(), f"{name} changes every video"
        assert torch.equal(scores[name].video_ids, scores["normal"].video_ids)
        assert torch.equal(scores[name].targets, scores["normal"].targets)


def test_a_network_of_one_frame_sees_freezing_only() -> None:
    """Of the middle one, frame T // 2: it is where it was in every frozen clip."""
    weights = [0] * NUM_FRAMES
    weights[NUM_FRAMES // 2] = 1
    scores = probe(network(weights), videos())
    assert torch.equal(scores["frozen"].probabilities, scores["normal"].probabilities)
    assert not torch.equal(scores["shuffled"].probabilities, scores["normal"].probabilities)


def test_each_order_is_the_evaluation_of_such_videos() -> None:
    model, batch = network([0, 1, 3, 4, 6, 9]), videos(views=3)
    frames = batch.frames["student"]
    still = frames[:, :, NUM_FRAMES // 2].unsqueeze(2).repeat(1, 1, NUM_FRAMES, 1, 1, 1)
    backwards = torch.stack([frames[:, :, t] for t in reversed(range(NUM_FRAMES))], dim=2)
    mixed = torch.empty_like(frames)
    for row, video_id in enumerate(batch.video_ids.tolist()):
        for view in range(3):
            order = shuffled_frames(NUM_FRAMES, seed=0, video_id=video_id, clip=view)
            for place, source in enumerate(order):
                mixed[row, view, place] = frames[row, view, source]
    scores = probe(model, batch)
    for name, shown in (
        ("normal", frames), ("frozen", still), ("reversed", backwards), ("shuffled", mixed),
    ):  # fmt: skip
        expected = score(model, replace(batch, frames={"student": shown}))
        assert torch.equal(scores[name].probabilities, expected), name
    assert torch.equal(batch.frames["student"], frames), "the batch itself stays as it was"


def test_seconds_are_those_of_the_places() -> None:
    model, batch = network([1] * NUM_FRAMES), videos(views=1)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    probe(model, batch)
    assert len(seen) == len(ORDERS)
    for seconds in seen:
        assert torch.equal(seconds, batch.frame_seconds["student"].flatten(0, 1))


@given(st.integers(2, 40), st.integers(0, 10**6), st.integers(0, 30), st.integers(0, 5))
def test_a_shuffle_is_a_permutation_and_no_identity(num_frames, video_id, clip, seed) -> None:
    order = shuffled_frames(num_frames, seed=seed, video_id=video_id, clip=clip)
    assert sorted(order) == list(range(num_frames))
    assert list(order) != list(range(num_frames))
    again = shuffled_frames(num_frames, seed=seed, video_id=video_id, clip=clip)
    assert (order == again).all()


def test_one_frame_stays_where_it_is() -> None:
    assert shuffled_frames(1, seed=0, video_id=3, clip=0).tolist() == [0]


def test_every_other_order_of_three_frames_comes_as_often() -> None:
    drawn = [tuple(shuffled_frames(3, seed=0, video_id=n, clip=0)) for n in range(2000)]
    counts = [drawn.count(order) for order in set(drawn)]
    assert len(counts) == 5
    assert min(counts) > 330
    assert max(counts) < 470


def test_videos_and_clips_are_shuffled_apart_and_crops_of_a_clip_alike() -> None:
    frames = torch.arange(NUM_FRAMES, dtype=torch.uint8).view(1, 1, NUM_FRAMES, 1, 1, 1)
    batch = videos(num=4, views=6)
    batch.frames["student"] = frames.expand(4, 6, NUM_FRAMES, 8, 8, 3)
    shown = probe_orders(num_crops=3)["shuffled"](batch)[..., 0, 0, 0]
    for crop in (1, 2):
        assert torch.equal(shown[:, 0], shown[:, crop])
        assert torch.equal(shown[:, 3], shown[:, 3 + crop])
    orders = {tuple(row) for row in shown[:, ::3].flatten(0, 1).tolist()}
    assert len(orders) >= 7, "of 8 clips"
    other = probe_orders(num_crops=3, seed=1)["shuffled"](batch)[..., 0, 0, 0]
    assert not torch.equal(shown, other)


def test_the_shares_of_batches_and_processes_are_one_probe() -> None:
    """However the videos come, each is shuffled in its own way."""
    model, whole = network([0, 1, 3, 4, 6, 9]), videos(num=6)
    parts = whole.split(3)
    together = probe(model, whole)
    for order in (parts, parts[::-1]):
        apart = probe(model, *order)
        for name in ORDERS:
            assert torch.equal(apart[name].probabilities, together[name].probabilities)
            assert torch.equal(apart[name].video_ids, whole.video_ids)


@pytest.fixture
def run_copy(tiny_control: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_control, tmp_path / "control"))


def test_the_document_of_a_run(run_copy: Path) -> None:
    document = probe_time(run_copy, device="cpu", quiet=True)
    evaluation = json.loads((run_copy / "eval.json").read_text())

    assert json.loads((run_copy / "probe.json").read_text()) == document
    for key in ("protocol", "split", "views", "checkpoint_step", "num_views", "num_frames"):
        assert document[key] == evaluation[key]
    assert document["command"] == f"videokd eval {run_copy} --probe time"
    assert document["num_videos"] == 12
    normal = document["conditions"]["normal"]
    for key in ("top1_pct", "interval_pct", "predictions_digest"):
        assert normal[key] == evaluation[key]
    assert normal["difference"] is None
    assert tuple(document["conditions"]) == ORDERS
    for name in ORDERS[1:]:
        row = document["conditions"][name]
        difference = row["difference"]
        assert difference["difference_pct"] == pytest.approx(row["top1_pct"] - normal["top1_pct"])
        assert (difference["num_videos"], difference["unit"]) == (12, "video")
    assert len(document["verdict"]) == 3


@pytest.mark.parametrize("which", ["3D network", "last.pt"])
def test_any_checkpoint_is_probed(
    tiny_teacher: Path, run_copy: Path, tmp_path: Path, which: str
) -> None:
    if which == "3D network":
        checkpoint = Path(shutil.copytree(tiny_teacher, tmp_path / "teacher"))
    else:
        checkpoint = run_copy / "last.pt"
    document = probe_time(checkpoint, device="cpu", quiet=True)
    evaluation = evaluate(checkpoint, device="cpu", quiet=True)
    normal = document["conditions"]["normal"]
    for key in ("top1_pct", "interval_pct", "predictions_digest"):
        assert normal[key] == evaluation[key]
    assert document["checkpoint_step"] == evaluation["checkpoint_step"]
    kept = [*(tmp_path / "teacher").glob("probe*.json"), *run_copy.glob("probe*.json")]
    assert [path.name for path in kept] == [
        "probe.json" if which == "3D network" else "probe.last.test.json"
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_probe_is_the_same_whatever_decodes_it(
    tiny_index: Index, tiny_control: Path, run_copy: Path, num_workers: int
) -> None:
    trained = load_trained(run_copy)
    expected = probe_time(trained, device="cpu", quiet=True)
    data = trained.config.data.model_copy(update={"num_workers": num_workers})
    evaluated = trained.config.eval.model_copy(update={"batch_size": 5})
    config = trained.config.model_copy(update={"data": data, "eval": evaluated})
    other = Trained(trained.model, trained.classes, config, trained.path, trained.state)
    assert probe_time(other, device="cpu", quiet=True) == expected


@pytest.mark.slow
def test_two_processes_say_the_same_as_one(run_copy: Path) -> None:
    expected = probe_time(run_copy, device="cpu", quiet=True)
    (run_copy / "probe.json").unlink()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "videokd", "eval", str(run_copy), "--probe", "time", "--device", "cpu",
         "--quiet"],
        capture_output=True, text=True, timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": "29547"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((run_copy / "probe.json").read_text()) == expected


def test_the_command_line_shows_a_table(run_copy: Path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["eval", str(run_copy), "--probe", "time", "--split", "val", "--num-clips", "2",
              "--device", "cpu", "--quiet"])  # fmt: skip
    assert end.value.code in (0, None)
    lines = capsys.readouterr().out.splitlines()
    document = json.loads((run_copy / "probe.best.val.json").read_text())
    assert not (run_copy / "probe.json").exists()
    assert lines[0].split() == ["frames", "top-1", "%", "95", "%", "interval", "against", "normal"]
    assert [line.split()[0] for line in lines[1:5]] == list(ORDERS)
    for name, line in zip(ORDERS[1:], lines[2:5], strict=True):
        assert document["conditions"][name]["difference"]["text"] in line
    assert lines[5:8] == document["verdict"]
    assert lines[8] == "12 videos (val: 2 clips x 1 crops, dense 4x2, 32 px, best.pt)"
    assert document["command"].endswith("--split val --num-clips 2 --num-crops 1 --probe time")


def test_the_command_line_prints_the_document(run_copy: Path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["eval", str(run_copy), "--probe", "time", "--json", "--device", "cpu", "--quiet"])
    assert end.value.code in (0, None)
    assert json.loads(capsys.readouterr().out) == json.loads((run_copy / "probe.json").read_text())


def test_an_unknown_probe_is_refused(run_copy: Path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["eval", str(run_copy), "--probe", "space"])
    assert end.value.code == 2
    assert "'space' is not one of 'time'" in capsys.readouterr().err


def test_an_unreadable_video_leaves_no_document(tiny_index: Index, run_copy: Path) -> None:
    trained = load_trained(run_copy)
    data_dir = run_copy.parent / "data"
    shutil.copytree(tiny_index.path.parent, data_dir)
    videos_of_test = sorted((data_dir).rglob("test/**/*.mp4"))
    videos_of_test[0].write_bytes(b"")
    index = data_dir / tiny_index.path.name
    config = as_config(recipe(index, run_copy.parent / "unused"))
    config = trained.config.model_copy(update={"data": config.data})
    broken = Trained(trained.model, trained.classes, config, trained.path, trained.state)
    with pytest.raises(UserError, match=videos_of_test[0].name):
        probe_time(broken, device="cpu", quiet=True)
    assert not (run_copy / "probe.json").exists()
    assert not list(run_copy.glob(".*.part"))


def answered(num_lost: int, num_won: int) -> PairedTest:
    """Of 1000 videos, 600 of them right in the normal order."""
    normal, other = np.zeros((2, 1000), dtype=bool)
    normal[:600] = other[:600] = True
    other[:num_lost] = False
    other[600 : 600 + num_won] = True
    return paired_test(other, normal)


@pytest.mark.parametrize(
    ("condition", "lost", "won", "words"),
    [
        ("shuffled", 312, 0, "order matters: -31.2 points shuffled"),
        ("reversed", 100, 0, "the direction of time matters: -10.0 points reversed"),
        ("frozen", 100, 0, "more than one frame is used: -10.0 points frozen"),
        ("frozen", 0, 0, "no motion is used: frozen costs nothing (at most 0.3 points)"),
        ("shuffled", 4, 4, "no order is used: shuffled costs nothing (at most 0."),
        ("shuffled", 40, 40, "not to be told: +0.0 points ["),
        ("reversed", 5, 100, "better without its order: +9.5 points reversed; look at"),
    ],
)
def test_a_sentence_is_said_where_the_interval_is_clear(condition, lost, won, words) -> None:
    is_same = lost == won == 0
    assert sentence(condition, answered(lost, won), is_same_answer=is_same).startswith(words)


def test_few_videos_say_little() -> None:
    """Not one of twelve is answered otherwise: still up to a fifth of all videos might be."""
    same = np.array([True] * 6 + [False] * 6)
    test = paired_test(same, same)
    said = sentence("frozen", test, is_same_answer=True)
    assert said == "no motion is used: frozen costs nothing (at most 22.1 points)"
    other = sentence("frozen", test, is_same_answer=False)
    assert other.startswith("not to be told: "), "right and wrong as before, by other answers"
    two = paired_test(same[-2:], same[-2:])
    assert sentence("frozen", two, is_same_answer=True).startswith("not to be told: ")
