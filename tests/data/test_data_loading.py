from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_video import numbers_of, write_numbered
from tiny_loaders import STUDENT, TEACHER, config, same, train_loader

from videokd.data.index import Index
from videokd.data.loading import EvalLoader, TeacherInput, clip_tensor, read_clips, replay
from videokd.data.sampling import SameSpan, WholeVideo
from videokd.data.sampling.protocols import own_views
from videokd.errors import ConfigError, UnreadableVideo, UserError
from videokd.types import ClipBatch, Dense, InputSpec, Segment

READABLE = InputSpec(sampling=Segment(num_segments=5), short_side_px=64, crop_px=64)
"""Large enough to read the numbers: nothing is cut from the height."""


def test_a_training_batch(index: Index) -> None:
    loader = train_loader(index)
    assert (loader.steps_per_epoch, loader.num_videos) == (3, 6)
    batches = list(loader.batches(0, 3))
    assert sorted(torch.cat([b.video_ids for b in batches]).tolist()) == index.select("train")
    for batch in batches:
        assert batch.frames["student"].shape == (2, 1, 4, 32, 32, 3)
        assert batch.frames["teacher"].shape == (2, 1, 8, 48, 48, 3)
        assert batch.has_label.tolist() == [True, True]
        for row, draw in enumerate(batch.draws):
            record = index.records[draw.video_id]
            student_ids, teacher_ids = draw.frame_ids["student"], draw.frame_ids["teacher"]
            assert set(student_ids[0].tolist()) <= set(teacher_ids[0].tolist())
            seconds = batch.frame_seconds["student"][row]
            assert seconds.tolist() == (student_ids / 25).astype(np.float32).tolist()
            label = record.labels[0] ^ draw.flip
            assert batch.targets[row].tolist() == [float(label == 0), float(label == 1)]
            assert draw.entropy == (7, 0, draw.video_id, 0)


def test_mirrored_clips_are_mirrored_and_their_labels_swapped(index: Index) -> None:
    augment = {"crop": {"kind": "centre"}, "flip": {"swaps": [["left", "right"]]}}
    never = config(augment=augment)
    augment["flip"] = {**augment["flip"], "probability": 1.0}
    always = config(augment=augment)
    batches = [next(train_loader(index, c).batches(0, 1)) for c in (never, always)]
    for name in ("student", "teacher"):
        plain, mirrored = (batch.frames[name] for batch in batches)
        assert torch.equal(mirrored, plain.flip(-2))
        assert not torch.equal(mirrored, plain)
    assert torch.equal(batches[1].targets, batches[0].targets.flip(-1))


def test_the_frames_are_those_of_the_draw(index: Index) -> None:
    settings = config(augment={"crop": {"kind": "random"}})
    loader = train_loader(index, settings, student=READABLE, teachers=None, batch_size=6)
    checked = 0
    for batch in loader.batches(0, 8):
        for row, draw in enumerate(batch.draws):
            # The numbers' low bits are at the left: readable where nothing is cut there.
            if draw.crops[0].left != 0:
                continue
            frames = batch.frames["student"][row, 0].numpy()
            wide = np.pad(frames, ((0, 0), (0, 0), (0, 32), (0, 0)))
            assert numbers_of(wide) == draw.frame_ids["student"][0].tolist()
            checked += 1
    assert checked >= 1


def test_a_draw_replays_to_the_same_pixels(index: Index) -> None:
    specs = {"student": STUDENT, "teacher": TEACHER}
    for batch in train_loader(index).batches(0, 4):
        for row, draw in enumerate(batch.draws):
            frames, seconds = replay(index.records[draw.video_id], draw, specs)
            for name in specs:
                assert (frames[name] == batch.frames[name][row].numpy()).all()
                assert (seconds[name] == batch.frame_seconds[name][row].numpy()).all()


def test_batches_do_not_depend_on_workers_nor_move_global_chance(index: Index) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    alone = list(train_loader(index).batches(1, 8))
    helped = list(train_loader(index, config(num_workers=2)).batches(1, 8))
    assert len(alone) == 7
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_starting_at_a_step_resumes_exactly(index: Index) -> None:
    whole = list(train_loader(index).batches(0, 9))
    again = train_loader(index)
    assert all(same(a, b) for a, b in zip(whole[4:], again.batches(4, 9), strict=True))
    assert not same(whole[0], whole[3])  # another epoch: another order, other draws
    assert list(again.batches(5, 5)) == []
    other = list(train_loader(index, seed=8).batches(0, 9))
    assert not any(same(a, b) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_repeats_show_a_video_with_several_draws(index: Index, num_workers: int) -> None:
    """Pixels and draws are those of clips that are decoded one by one."""
    loader = train_loader(index, config(repeats=3, num_workers=num_workers), batch_size=6)
    assert (loader.steps_per_epoch, loader.num_videos) == (3, 6)
    single = train_loader(index)  # its batches are of 2 videos, in the same order
    for step, (batch, once) in enumerate(
        zip(loader.batches(0, 6), single.batches(0, 6), strict=True)
    ):
        assert batch.video_ids.tolist() == np.repeat(once.video_ids, 3).tolist()
        assert [d.entropy for d in batch.draws] == [
            (7, step // 3, i, repeat) for i in once.video_ids.tolist() for repeat in range(3)
        ]
        assert torch.equal(batch.frames["student"][::3], once.frames["student"])
        assert torch.equal(batch.targets[::3], once.targets)
        assert len({draw.crops for draw in batch.draws}) == 6
        for row, draw in enumerate(batch.draws):
            specs = {"student": STUDENT, "teacher": TEACHER}
            frames, seconds = replay(index.records[draw.video_id], draw, specs)
            for name in specs:
                assert (frames[name] == batch.frames[name][row].numpy()).all()
                assert (seconds[name] == batch.frame_seconds[name][row].numpy()).all()


def test_repeats_open_a_file_once(index: Index, opened: list[tuple[Path, str]]) -> None:
    list(train_loader(index, config(repeats=2), batch_size=4).batches(0, 3))
    training = (index.records[i].path for i in index.select("train"))
    assert sorted(path for path, _ in opened) == sorted(training)


def test_repeats_of_an_unreadable_video_are_all_left_out(index: Index, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    records = (*index.records[:1], replace(index.records[1], path=bad), *index.records[2:])
    loader = train_loader(replace(index, records=records), config(repeats=2), batch_size=12)
    batch = next(loader.batches(0, 1))
    assert batch.video_ids.unique(return_counts=True)[1].tolist() == [2] * 5
    assert [video_id for video_id, _ in batch.unreadable] == [1]


def test_ranks_share_repeated_videos(index: Index) -> None:
    """All clips of a video stay in one process, and pair (p, p + B/2) the same videos."""

    def pairs(batch: ClipBatch) -> set[frozenset[tuple[int, ...]]]:
        names, half = [draw.entropy for draw in batch.draws], batch.num_videos // 2
        return {frozenset(pair) for pair in zip(names[:half], names[half:], strict=True)}

    whole = next(train_loader(index, config(repeats=2), batch_size=8).batches(0, 1))
    parts = [
        next(
            train_loader(index, config(repeats=2), batch_size=4, rank=rank, world_size=2).batches(
                0, 1
            )
        )
        for rank in range(2)
    ]
    assert pairs(whole) == pairs(parts[0]) | pairs(parts[1])
    assert torch.equal(parts[1].frames["student"], whole.frames["student"][[2, 3, 6, 7]])
    with pytest.raises(
        ConfigError, match=r"repeats 3 does not divide the 4 clips .* multiple of 3"
    ):
        train_loader(index, config(repeats=3), batch_size=4)
    with pytest.raises(UserError, match="split 'train' has 6 videos, fewer than one batch of 8"):
        train_loader(index, config(repeats=2), batch_size=16)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_global_batch(index: Index, ranks: int) -> None:
    whole = train_loader(index, batch_size=6)
    parts = [
        train_loader(index, batch_size=6 // ranks, rank=rank, world_size=ranks)
        for rank in range(ranks)
    ]
    assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch} == {1}
    for step in range(3):
        one = next(whole.batches(step, step + 1))
        of_ranks = [next(part.batches(step, step + 1)) for part in parts]
        for rank, batch in enumerate(of_ranks):
            assert torch.equal(batch.video_ids, one.video_ids[rank::ranks])
            assert torch.equal(batch.frames["teacher"], one.frames["teacher"][rank::ranks])
            assert torch.equal(batch.targets, one.targets[rank::ranks])


@pytest.mark.parametrize(
    ("view", "teacher_shape"),
    [(SameSpan(), (2, 1, 8, 48, 48, 3)), (WholeVideo(num_clips=3), (2, 3, 8, 48, 48, 3))],
)
def test_teacher_views(index: Index, view, teacher_shape) -> None:
    batch = next(
        train_loader(index, teachers={"teacher": TeacherInput(TEACHER, view)}).batches(0, 1)
    )
    assert batch.frames["teacher"].shape == teacher_shape
    alone = next(train_loader(index, teachers=None).batches(0, 1))
    assert torch.equal(alone.frames["student"], batch.frames["student"])
    assert alone.frames.keys() == {"student"}


def test_an_unreadable_video_is_dropped_and_named(index: Index, tmp_path: Path) -> None:
    records = list(index.records)
    for i, text in ((1, "no video"), (5, "")):
        bad = tmp_path / f"{i}.mp4"
        bad.write_text(text)
        records[i] = replace(records[i], path=bad)
    faulty = replace(index, records=tuple(records))
    whole = next(train_loader(index, batch_size=6).batches(0, 1))
    batch = next(train_loader(faulty, batch_size=6).batches(0, 1))
    assert sorted(video_id for video_id, _ in batch.unreadable) == [1, 5]
    assert all(reason and "\n" not in reason for _, reason in batch.unreadable)
    kept = [row for row, i in enumerate(whole.video_ids.tolist()) if i not in (1, 5)]
    assert torch.equal(batch.frames["student"], whole.frames["student"][kept])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_without_any_readable_video_stops(
    index: Index, tmp_path: Path, num_workers: int
) -> None:
    none = tuple(replace(r, path=tmp_path / f"{i}.mp4") for i, r in enumerate(index.records))
    for record in none:
        record.path.write_text("no video")
    loader = train_loader(replace(index, records=none), config(num_workers=num_workers))
    with pytest.raises(UnreadableVideo, match=r"\d\.mp4: cannot be read as a video: [^\n]+$"):
        next(loader.batches(0, 1))


def test_a_file_that_changed_since_the_scan_is_unreadable(index: Index, tmp_path: Path) -> None:
    longer = write_numbered(tmp_path / "longer.mp4", 40)
    other_size = write_numbered(tmp_path / "size.mp4", 21, size=(128, 192))
    record = index.records[1]
    for path, why in ((longer, "shows 40 frames, the index says 21"), (other_size, "128x192 px")):
        batch = next(train_loader(index, batch_size=6).batches(0, 1))
        draw = next(d for d in batch.draws if d.video_id == 1)
        changed = replace(record, path=path, reader="decord", bytes=path.stat().st_size)
        with pytest.raises(UnreadableVideo, match=why):
            replay(changed, draw, {"student": STUDENT})


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_file_of_another_size_is_another_video(index: Index, tmp_path: Path, reader: str) -> None:
    other = write_numbered(tmp_path / "other.mp4", 21, first=100)
    record = replace(index.records[1], path=other, reader=reader)
    batch = next(train_loader(index, batch_size=6).batches(0, 1))
    draw = next(d for d in batch.draws if d.video_id == 1)
    size, there = index.records[1].bytes, other.stat().st_size
    with pytest.raises(UnreadableVideo, match=f"has {there} bytes, the index says {size}; index"):
        replay(record, draw, {"student": STUDENT})
    pixels, _ = replay(replace(record, bytes=0), draw, {"student": STUDENT})  # never scanned
    assert pixels["student"].shape[1] == len(draw.frame_ids["student"][0])


def test_evaluation_sees_every_video_once(index: Index) -> None:
    def ids(**options) -> list[int]:
        loader = EvalLoader(
            index,
            config(**options.pop("settings", {})),
            spec=STUDENT,
            split="train",
            views=own_views(2, 3),
            batch_size=4,
            **options,
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        assert loader.num_videos == 6
        assert all(b.frames["student"].shape[1:] == (6, 4, 32, 32, 3) for b in batches)
        return [i for b in batches for i in b.video_ids.tolist()]

    assert ids() == ids(settings={"num_workers": 2}) == [0, 1, 2, 5, 6, 7]
    assert [ids(rank=rank, world_size=4) for rank in range(4)] == [[0, 6], [1, 7], [2], [5]]


def test_evaluation_views_are_ordered_by_clip_then_crop(index: Index) -> None:
    loader = EvalLoader(
        index, config(), spec=READABLE, split="test", views=own_views(2, 3), batch_size=1
    )
    batch = next(iter(loader))
    draw = batch.draws[0]
    assert (draw.video_id, draw.entropy, draw.flip) == (4, (), False)
    # n = 24 in five segments of 4, 5, 5, 5, 5 frames: [0,4) [4,9) [9,14) [14,19) [19,24).
    first, second = [1, 5, 10, 15, 20], [3, 7, 12, 17, 22]
    assert draw.frame_ids["student"].tolist() == [first] * 3 + [second] * 3
    assert [crop.left for crop in draw.crops] == [0, 16 / 96, 32 / 96] * 2
    for view, ids in ((0, first), (3, second)):
        frames = np.pad(batch.frames["student"][0, view].numpy(), ((0, 0), (0, 0), (0, 32), (0, 0)))
        assert numbers_of(frames) == ids
    assert batch.frame_seconds["student"][0, 3].tolist() == pytest.approx([i / 25 for i in second])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_evaluation_stops_at_an_unreadable_video(
    index: Index, tmp_path: Path, num_workers: int
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    records = (*index.records[:4], replace(index.records[4], path=bad), *index.records[5:])
    loader = EvalLoader(
        replace(index, records=records),
        config(num_workers=num_workers),
        spec=STUDENT,
        split="test",
        views=own_views(),
        batch_size=1,
    )
    with pytest.raises(UnreadableVideo, match=r"^\S+bad\.mp4: cannot be read as a video: [^\n]+$"):
        list(loader)


def test_faults_of_rows_show_at_construction(index: Index) -> None:
    unlabelled = (*index.records[:2], replace(index.records[2], labels=()), *index.records[3:])
    faulty = replace(index, records=unlabelled)
    eval_options = {"spec": STUDENT, "views": own_views(), "batch_size": 1}
    with pytest.raises(UserError, match=r"videos\.csv:4: .*p2_clip 2\.mp4 has no label"):
        train_loader(faulty)
    with pytest.raises(UserError, match=r"videos\.csv:4: .* has no label"):
        EvalLoader(faulty, config(), split="train", **eval_options)
    batch = next(train_loader(faulty, batch_size=6, require_label=False).batches(0, 1))
    assert sorted(batch.has_label.tolist()) == [False] + [True] * 5
    assert batch.targets[~batch.has_label].sum() == 0
    long = InputSpec(
        sampling=Dense(num_frames=6, stride=4, past_end="refuse"), short_side_px=36, crop_px=32
    )
    with pytest.raises(UserError, match=r"videos\.csv:2: .* has 20 frames and a clip spans 21"):
        train_loader(index, student=long, teachers=None)
    with pytest.raises(UserError, match=r"no video is in split 'dev'; videos by split"):
        EvalLoader(index, config(), split="dev", **eval_options)


def test_settings_that_cannot_be(index: Index) -> None:
    with pytest.raises(UserError, match="split 'train' has 6 videos, fewer than one batch of 8"):
        train_loader(index, batch_size=4, world_size=2)
    swaps = {"flip": {"swaps": [["left", "rihgt"]]}}
    with pytest.raises(UserError, match="'rihgt' is not one of the 2 classes; did you mean 'right"):
        train_loader(index, config(augment=swaps))
    fast = STUDENT.model_copy(update={"sampling": Dense(num_frames=4, stride=3)})
    with pytest.raises(ConfigError, match="teacher view same_frames: the student's stride 3"):
        train_loader(index, student=fast)
    with pytest.raises(ConfigError, match="seed is -1"):
        train_loader(index, seed=-1)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        train_loader(index, batch_size=0)
    with pytest.raises(ConfigError, match="num_crops 1, 3, 5 or 10, not 1 and 2"):
        EvalLoader(index, config(), spec=STUDENT, split="val", views=own_views(1, 2), batch_size=1)


def test_the_reader_can_be_forced(index: Index, opened: list[tuple[Path, str]]) -> None:
    exact = replace(index, records=tuple(replace(r, reader="decord") for r in index.records))
    batches = [
        next(train_loader(given, config(reader=reader), batch_size=6).batches(0, 1))
        for given, reader in ((index, "auto"), (exact, "decord"), (index, "pyav"))
    ]
    readers = [reader for _, reader in opened]
    assert sorted(readers[:6]) == ["decord"] * 3 + ["pyav"] * 3
    assert readers[6:] == ["decord"] * 6 + ["pyav"] * 6
    assert same(batches[0], batches[1])
    assert same(batches[0], batches[2])
    with pytest.raises(UserError, match=r"videos\.csv:2: .* the scan found pyav to be the reader"):
        train_loader(index, config(reader="decord"))


def test_several_labels_a_video(index: Index) -> None:
    both = (replace(index.records[0], labels=(0, 1)), *index.records[1:])
    multi = replace(index, records=both)
    batch = next(train_loader(multi, batch_size=6, several_labels=True).batches(0, 1))
    row = batch.video_ids.tolist().index(0)
    assert batch.targets[row].tolist() == [1, 1]
    for options in ({}, {"require_label": False}):
        with pytest.raises(UserError, match=r"videos\.csv:2: .* has 2 labels; give it one"):
            train_loader(multi, **options)


def test_a_missing_file_shows_at_construction(index: Index, tmp_path: Path) -> None:
    gone = (*index.records[:2], replace(index.records[2], path=tmp_path / "gone.mp4"))
    faulty = replace(index, records=(*gone, *index.records[3:]))
    with pytest.raises(UserError, match=r"videos\.csv:4: no such file: .*gone\.mp4"):
        train_loader(faulty)


def test_clip_tensor_is_the_networks_layout() -> None:
    frames = torch.randint(0, 256, (2, 3, 4, 5, 5, 3), dtype=torch.uint8)
    clips = clip_tensor(frames)
    assert clips.shape == (6, 3, 4, 5, 5)
    assert clips.dtype == torch.float32
    assert clips.is_contiguous()
    for b, v, t in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        expected = frames[b, v, t].permute(2, 0, 1).float() / 255
        assert torch.equal(clips[b * 3 + v, :, t], expected)


def test_clips_of_a_file_that_is_in_no_index(index: Index, tmp_path: Path) -> None:
    record = index.records[4]
    batch = read_clips(record.path, READABLE, views=own_views(2, 3))
    loader = EvalLoader(
        index, config(), spec=READABLE, split="test", views=own_views(2, 3), batch_size=1
    )
    assert torch.equal(batch.frames["student"], next(iter(loader)).frames["student"])
    assert batch.targets.shape == (1, 0)
    assert batch.has_label.tolist() == [False]
    with pytest.raises(UnreadableVideo, match=r"nowhere\.mp4: .*no such file"):
        read_clips(tmp_path / "nowhere.mp4", READABLE, views=own_views())
    long = InputSpec(
        sampling=Dense(num_frames=99, stride=4, past_end="refuse"), short_side_px=36, crop_px=32
    )
    with pytest.raises(UserError, match="the video has 24 frames and a clip spans 393"):
        read_clips(record.path, long, views=own_views())
