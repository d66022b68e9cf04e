"""The contact sheet shows what the loaders give, and says where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from command_line import call
from numbered_video import number_of
from PIL import Image, ImageColor
from tiny_recipes import student_settings

from videokd.data.augment import AugmentConfig, CentreCrop, FlipConfig
from videokd.data.index import Index, write_index
from videokd.data.loading import DataConfig, EvalLoader, TeacherInput, TrainLoader
from videokd.data.readers import open_video
from videokd.data.sampling import SameSpan, WholeVideo
from videokd.data.sampling.protocols import PROTOCOLS, own_views
from videokd.data.show import (
    FAULT,
    MIRRORED,
    Row,
    Strip,
    evaluation_rows,
    training_rows,
    write_sheet,
)
from videokd.types import (
    ClassNames,
    Crop,
    Dense,
    Erase,
    InputSpec,
    Mix,
    Segment,
    VideoRecord,
)

STUDENT = InputSpec(sampling=Segment(num_segments=4), short_side_px=64, crop_px=64)
TEACHER = InputSpec(sampling=Dense(num_frames=6, stride=2), short_side_px=64, crop_px=64)
READABLE = InputSpec(sampling=Dense(num_frames=4, stride=4), short_side_px=64, crop_px=64)


@pytest.fixture
def index(records: tuple[VideoRecord, ...], classes: ClassNames, tmp_path: Path) -> Index:
    path = tmp_path / "videos.csv"
    write_index(path, records, classes)
    return Index(path, classes, records)


@pytest.fixture
def with_broken(index: Index, tmp_path: Path) -> Index:
    """The same with a file in place of the first video that is none."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    records = [dataclasses.replace(index.records[0], path=broken), *list(index.records)[1:]]
    write_index(index.path, records, index.classes)
    return Index(index.path, index.classes, records)


def config(index: Index, **augment: object) -> DataConfig:
    settings = {"crop": CentreCrop(), **augment}
    return DataConfig(index=index.path, num_workers=0, augment=AugmentConfig(**settings))


def training(index: Index, **changes: object) -> TrainLoader:
    settings = {"student": STUDENT, "batch_size": 3, "seed": 5} | changes
    return TrainLoader(index, settings.pop("data", config(index)), **settings)


def test_training_rows_are_the_first_batches(index: Index) -> None:
    flip = FlipConfig(probability=0.5, swaps=(("left", "right"),))
    teachers = {"teacher": TeacherInput(TEACHER, SameSpan())}
    loader = training(index, data=config(index, flip=flip), teachers=teachers)
    rows = training_rows(index, loader, num_videos=4)
    batches = list(loader.batches(0, 2))
    shown = [(batch, i) for batch in batches for i in range(3)][:4]
    flips = set()
    for row, (batch, i) in zip(rows, shown, strict=True):
        draw = batch.draws[i]
        assert row.record == index.records[draw.video_id]
        assert [strip.title for strip in row.strips] == [
            "student: 4 frames of 64 px",
            "teacher: 6 frames of 64 px",
        ]
        for strip, name in zip(row.strips, ("student", "teacher"), strict=True):
            assert (strip.frames == batch.frames[name][i, 0].numpy()).all()
            assert strip.frame_ids.tolist() == draw.frame_ids[name][0].tolist()
            assert np.allclose(strip.seconds, strip.frame_ids / 25)
            assert strip.mirrored == (draw.flip,) * len(strip.frames)
        own = index.classes[row.record.labels[0]]
        other = index.classes[1 - row.record.labels[0]]
        assert row.labels == (f"{own}, learnt as {other}" if draw.flip else own)
        flips.add(draw.flip)
    assert flips == {False, True}


def test_what_is_done_on_the_device_is_shown_and_named(index: Index) -> None:
    """An erased clip has one colour where it was erased; a mixed one learns shares."""
    batch = next(training(index).batches(0, 1))
    own, other, *_ = batch.draws
    corner = Crop(0.0, 0.0, 0.5, 0.5)
    partner = Mix(own.video_id, own.repeat, own_weight=0.75, box=None)
    batch.draws[0] = dataclasses.replace(own, erase=Erase(corner, noise_seed=None))
    batch.draws[1] = dataclasses.replace(other, mix=partner)
    batch.targets[0], batch.targets[1] = torch.tensor([1.0, 0]), torch.tensor([0, 1.0])
    loader = SimpleNamespace(batches=lambda start, stop: iter([batch]), steps_per_epoch=1)
    first, second = training_rows(index, loader, num_videos=2)
    assert first.strips[0].title == "student: 4 frames of 64 px, erased"
    assert len(np.unique(first.strips[0].frames[:, :32, :32].reshape(-1, 3), axis=0)) == 1
    assert (first.strips[0].frames[:, 32:] == batch.frames["student"][0, 0, :, 32:].numpy()).all()
    assert second.strips[0].title == "student: 4 frames of 64 px, mixup"
    assert second.labels.endswith("learnt as left 0.25, right 0.75")
    mixed = 0.75 * batch.frames["student"][1, 0] + 0.25 * torch.from_numpy(first.strips[0].frames)
    assert np.abs(second.strips[0].frames - mixed.numpy()).max() <= 1


def test_each_clip_of_a_teacher_that_sees_the_whole_video_is_a_strip(index: Index) -> None:
    loader = training(index, teachers={"teacher": TeacherInput(TEACHER, WholeVideo(num_clips=2))})
    (row,) = training_rows(index, loader, num_videos=1)
    assert [strip.title.partition(":")[0] for strip in row.strips] == [
        "student",
        "teacher, clip 1 of 2",
        "teacher, clip 2 of 2",
    ]


def test_evaluation_rows_are_every_clip_in_its_central_crop_and_every_crop_once(
    index: Index,
) -> None:
    views = PROTOCOLS["mmaction2_dense_5x3"]
    loader = EvalLoader(
        index, config(index), spec=READABLE, split="test", views=views, batch_size=1
    )
    rows = evaluation_rows(index, loader, views, num_videos=9)
    assert [row.record for row in rows] == [index.records[i] for i in index.select("test")]
    for row, batch in zip(rows, loader, strict=True):
        pixels = batch.frames["student"][0].numpy()
        assert len(row.strips) == 6
        for k, strip in enumerate(row.strips[:5]):
            assert (strip.frames == pixels[3 * k + 1]).all()
            expected = views.frame_ids(
                READABLE.sampling, num_frames=row.record.num_frames, fps=25.0
            )
            assert strip.frame_ids.tolist() == expected[k].tolist()
        assert (row.strips[5].frames == pixels[:3, 0]).all()
        assert set(row.strips[5].frame_ids.tolist()) == {int(row.strips[0].frame_ids[0])}


def test_the_number_below_a_frame_is_the_number_in_it(
    index: Index,
) -> None:
    """The square of 64 px leaves out bars on both sides; in the file's own frames all are there."""
    (row,) = training_rows(index, training(index), num_videos=1)
    (strip,) = row.strips
    with open_video(row.record.path, row.record.reader, num_frames=row.record.num_frames) as video:
        frames = video.read(strip.frame_ids)
    assert [number_of(frame) for frame in frames] == strip.frame_ids.tolist()
    assert (frames[:, :, 16:80] == strip.frames).all()


def colours(path: Path) -> set[tuple[int, int, int]]:
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return set(map(tuple, np.unique(pixels, axis=0).tolist()))


def test_a_video_that_does_not_decode_is_a_red_cell(with_broken: Index, tmp_path: Path) -> None:
    loader = training(with_broken, batch_size=6)
    rows = training_rows(with_broken, loader, num_videos=6)
    assert [bool(row.fault) for row in rows] == [False] * 5 + [True]
    assert rows[-1].record.path.name == "broken.mp4"
    assert rows[-1].labels == "left"
    one_by_one = training_rows(with_broken, training(with_broken, batch_size=1), num_videos=6)
    assert sorted(row.record.path for row in one_by_one) == sorted(row.record.path for row in rows)
    assert sum(bool(row.fault) for row in one_by_one) == 1
    loader_of_train = EvalLoader(
        with_broken, config(with_broken), spec=READABLE, split="train", views=own_views(),
        batch_size=1,
    )  # fmt: skip
    first, second, *_ = evaluation_rows(with_broken, loader_of_train, own_views(), num_videos=3)
    assert first.fault
    assert second.strips
    path = tmp_path / "sheet.png"
    write_sheet([first], path, title="t", notes=[])
    red = ImageColor.getrgb(FAULT)
    assert red in colours(path)
    write_sheet([second], path, title="t", notes=[])
    assert red not in colours(path)


def test_mirrored_frames_are_flagged_and_the_pixels_are_in_the_picture(tmp_path: Path) -> None:
    """A frame of the thumbnails' own size stands in the sheet as it is."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    record = VideoRecord(
        Path("/a/long name of a video that has to be broken into several lines.mp4"),
        (0,), 30, 25.0, 112, 112, "pyav",
    )  # fmt: skip
    path = tmp_path / "sheet.png"
    for mirrored in (False, True):
        strip = Strip(
            "student", frames, np.array([3, 9]), np.float32([0.12, 0.36]), (mirrored,) * 2
        )
        write_sheet([Row(record, "wave", (strip,))], path, title="title", notes=["note"])
        sheet = np.asarray(Image.open(path).convert("RGB"))
        inner = frames[1, 3:-3, 3:-3]
        places = np.argwhere((sheet == inner[0, 0]).all(axis=-1))
        found = any(
            (sheet[y : y + 106, x : x + 106].shape == inner.shape)
            and (sheet[y : y + 106, x : x + 106] == inner).all()
            for y, x in places
        )
        assert found
        assert (ImageColor.getrgb(MIRRORED) in colours(path)) == mirrored


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[list[Row], str, list[str]]]:
    """What the command hands to `write_sheet`."""
    seen: list[tuple[list[Row], str, list[str]]] = []

    def remember(rows: list[Row], path: Path, *, title: str, notes: list[str]) -> None:
        seen.append((rows, title, notes))
        write_sheet(rows, path, title=title, notes=notes)

    monkeypatch.setattr("videokd.data.show.write_sheet", remember)
    return lambda: seen[-1]


def test_the_command_without_a_recipe_says_its_defaults(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: Callable
) -> None:
    out = tmp_path / "sheet.png"
    status, text, err = call(capsys, "data", "show", index.path, "--out", out, "--videos", 2)
    assert (status, text, err) == (0, f"2 videos: {out}\n", "")
    rows, title, notes = drawn()
    assert title == "videos.csv: training, from step 0"
    assert "dense (num_frames 8, stride 8" in notes[0]
    assert "segment (num_segments 8), 224 of 256 px" in notes[1]
    for row in rows:
        assert [strip.title for strip in row.strips] == [
            "dense: 8 frames of 224 px",
            "segment: 8 frames of 224 px",
        ]
    arguments = ["--videos", 1, "--protocol", "mmaction2_tsn_25x10"]
    status, text, err = call(capsys, "data", "show", index.path, "--out", out, *arguments)
    assert (status, err) == (0, "")
    rows, title, notes = drawn()
    assert title == "videos.csv: evaluation"
    assert "split test; mmaction2_tsn_25x10 (mmaction2, mmaction/datasets" in notes[0]
    assert [strip.title for strip in rows[0].strips] == [
        "clip 1 of 1: 25 frames of 224 px",
        f"10 crops of each frame, here of #{rows[0].strips[0].frame_ids[0]}; orange: mirrored",
    ]
    assert list(tmp_path.glob(".*")) == []


def test_the_command_shows_a_recipe_as_it_trains(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: Callable
) -> None:
    spec = {"sampling": {"kind": "segment", "num_segments": 4}, "short_side_px": 64, "crop_px": 64}
    recipe = tmp_path / "r.yaml"
    settings = {
        "role": "control",
        "seed": 5,
        "data": {
            "index": "elsewhere.csv",
            "num_workers": 0,
            "augment": {"crop": {"kind": "centre"}},
        },
        "model": student_settings(input=spec),
        "objective": {"terms": {"labels": {"kind": "cross_entropy"}}},
        "train": {"epochs": 1, "batch_size": 3, "optim": {"lr": 0.01}},
        "output_dir": str(tmp_path / "run"),
    }
    recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
    out = tmp_path / "sheet.png"
    command = ["data", "show", index.path, "--out", out, "--recipe", recipe]
    assert call(capsys, *command)[0] == 0
    rows, title, notes = drawn()
    assert title == "r.yaml: training, from step 0"
    assert notes == [
        "split train; seed 5; student: segment (num_segments 4), 64 of 64 px; crop centre, "
        "mirrored with probability 0"
    ]
    batch = next(training(index).batches(0, 1))
    assert [row.record for row in rows[:3]] == [index.records[i] for i in batch.video_ids.tolist()]
    assert (rows[2].strips[0].frames == batch.frames["student"][2, 0].numpy()).all()
    more = ["--set", "data.augment.flip.probability=1", "--split", "test", "--set", "seed=9"]
    assert call(capsys, *command, *more, "--set", "train.batch_size=2", "--seed", 6)[0] == 0
    rows, _, notes = drawn()
    assert notes[0].startswith("split test; seed 6;")
    assert all(all(row.strips[0].mirrored) for row in rows)
    assert {row.record.split for row in rows} == {"test"}
    status, _, err = call(capsys, *command, "--protocol", "mmaction2_dense_10x3")
    assert status == 2
    assert "mmaction2_dense_10x3 is for dense sampling" in err
