"""The embedded videos: real files, the same bytes every time, and classes that differ by motion
alone."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from scipy import stats

from videokd.data.synthetic import (
    CLASS_NAMES,
    FLIP_SWAPS,
    PRESETS,
    SPLITS,
    SyntheticConfig,
    dataset,
    label_of,
    motion,
    render_video,
    scenes,
    trajectory,
    write_dataset,
)
from videokd.data.synthetic.dataset import CONFIG_FILE
from videokd.errors import UserError

TINY = PRESETS["tiny"]
# One object, bright against nothing else that moves: motion can be measured in the pixels.
CLEAN = SyntheticConfig(num_distractors=0, camera_drift_px=0, noise_std=0, num_frames=16)


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("synth") / "tiny"
    write_dataset(out_dir, TINY)
    return out_dir


def number_of(name: str, nth: int = 0) -> int:
    return CLASS_NAMES.index(name) + nth * len(CLASS_NAMES)


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def moving_pixels(frames: np.ndarray) -> np.ndarray:
    """Where a frame differs from the scene without its object, bool [T,H,W], by the median over
    time."""
    still = np.median(frames.astype(np.float32), axis=0)
    return np.abs(frames - still).sum(axis=3) > 90


def circular_step_px(mask: np.ndarray, axis: int) -> float:
    """Mean step from frame to frame of the masked area's centre on the torus, along x (2) or y
    (1)."""
    size_px = mask.shape[axis]
    profile = mask.sum(axis=3 - axis)
    phase = np.exp(2j * np.pi * np.arange(size_px) / size_px)
    centre = profile @ phase
    return float(np.mean(np.angle(centre[1:] / centre[:-1])) * size_px / (2 * np.pi))


# ------------------------------------------------------------------ rendering


def test_the_same_arguments_give_the_same_pixels():
    first, label = render_video(TINY, "train", 3)
    again, _ = render_video(TINY, "train", 3)
    assert label == label_of(3) == 3
    assert first.dtype == np.uint8
    assert first.shape == (TINY.num_frames, TINY.size_px, TINY.size_px, 3)
    assert np.array_equal(first, again)


def test_seed_split_and_number_each_give_another_video():
    video, _ = render_video(TINY, "train", 3)
    others = [
        render_video(TINY.model_copy(update={"seed": 1}), "train", 3),
        render_video(TINY, "val", 3),
        render_video(TINY, "train", 3 + len(CLASS_NAMES)),
    ]
    assert not any(np.array_equal(video, other) for other, _ in others)


def test_the_labels_of_a_split_are_balanced():
    counts = np.bincount(
        [label_of(n) for n in range(TINY.train_videos)], minlength=len(CLASS_NAMES)
    )
    assert set(counts) == {TINY.train_videos // len(CLASS_NAMES)}


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [
        ("translate_left", 2, -1),
        ("translate_right", 2, +1),
        ("translate_up", 1, -1),
        ("translate_down", 1, +1),
    ],
)
def test_pixels_move_where_the_name_says(name: str, axis: int, sign: int):
    for nth in range(4):
        frames, _ = render_video(CLEAN, "train", number_of(name, nth))
        mask = moving_pixels(frames)
        along, across = (circular_step_px(mask, a) for a in (axis, 3 - axis))
        low, high = CLEAN.speed_px_per_frame
        assert low - 0.5 < sign * along < high + 0.5
        assert abs(across) < 0.5


def test_a_mirrored_left_is_a_right():
    frames, _ = render_video(CLEAN, "train", number_of("translate_left"))
    assert circular_step_px(moving_pixels(frames[:, :, ::-1]), axis=2) > 0.5


def test_the_appearance_does_not_depend_on_the_class(monkeypatch: pytest.MonkeyPatch):
    # At zero motion every class must draw one and the same video: textures, distractors, camera
    # and noise are drawn from the same numbers whatever the label.
    frozen = SyntheticConfig(
        speed_px_per_frame=(1e-9, 1e-9),
        turn_deg_per_frame=(1e-9, 1e-9),
        growth_pct_per_frame=(1e-9, 1e-9),
        orbit_radius_px=(1e-9, 1e-9),
        shake_amplitude_px=(1e-9, 1e-9),
        num_frames=4,
    )
    videos = []
    for label in range(len(CLASS_NAMES)):
        monkeypatch.setattr(scenes, "label_of", lambda number, label=label: label)
        videos.append(render_video(frozen, "train", 0)[0])
    assert all(np.array_equal(videos[0], video) for video in videos[1:])


# ------------------------------------------------------------------ exact truths of the motion


def paths_by_class(config: SyntheticConfig, nth: int = 0) -> dict[str, motion.Trajectory]:
    """The paths that one and the same draw gives to each class."""
    return {
        name: motion.draw_trajectory(np.random.default_rng([7, nth]), config, label)
        for label, name in enumerate(CLASS_NAMES)
    }


def test_a_scene_in_all_classes_begins_alike_and_goes_on_otherwise():
    config = TINY.model_copy(update={"scenes_in_all_classes": True})
    first, second = (
        [render_video(config, "train", scene * 12 + label) for label in range(12)]
        for scene in (0, 1)
    )
    assert [label for _, label in first] == list(range(12))
    # Circling and shaking begin beside the place that they go round.
    begin, other = (np.stack([frames[0] for frames, _ in scene[:8]]) for scene in (first, second))
    assert np.abs(begin.astype(int) - begin[0]).max() <= 1, "rounding"
    assert (begin != other).any()
    assert len({frames.tobytes() for frames, _ in (*first, *second)}) == 24
    alone = [render_video(TINY, "train", number)[0] for number in (0, 1)]
    assert (alone[0] == first[0][0]).all()
    assert (alone[0][0] != alone[1][0]).any()


def test_opposite_classes_mirror_each_other():
    paths = paths_by_class(TINY)
    for forward, backward in [("translate_left", "translate_right"), ("orbit_cw", "orbit_ccw")]:
        assert not np.allclose(
            paths[forward].x_px + paths[forward].y_px, paths[backward].x_px + paths[backward].y_px
        )
    left, right = paths["translate_left"], paths["translate_right"]
    assert np.allclose(np.diff(left.x_px), -np.diff(right.x_px))
    up, down = paths["translate_up"], paths["translate_down"]
    assert np.allclose(np.diff(up.y_px), -np.diff(down.y_px))
    cw, ccw = paths["rotate_cw"], paths["rotate_ccw"]
    assert np.allclose(np.diff(cw.angle_rad), -np.diff(ccw.angle_rad))
    assert (np.diff(cw.angle_rad) > 0).all()
    cw, ccw = paths["orbit_cw"], paths["orbit_ccw"]
    assert np.allclose(np.diff(cw.x_px), np.diff(ccw.x_px))
    assert np.allclose(np.diff(cw.y_px), -np.diff(ccw.y_px))


def test_orbit_cw_turns_clockwise_on_the_screen():
    path = paths_by_class(TINY)["orbit_cw"]
    step = np.stack([np.diff(path.x_px), np.diff(path.y_px)])
    # With y downwards a clockwise path turns its direction from x towards y: a positive cross
    # product.
    assert (step[0, :-1] * step[1, 1:] - step[1, :-1] * step[0, 1:] > 0).all()


def test_growing_is_shrinking_reversed():
    for nth in range(20):
        paths = paths_by_class(TINY, nth)
        grow, shrink = np.log(paths["grow"].radius_px), np.log(paths["shrink"].radius_px)
        span = np.log(TINY.object_radius_px[1] / TINY.object_radius_px[0])
        # Both run through the same circle of log-radii at the same pace, one forwards, one
        # backwards.
        forwards, backwards = np.diff(grow) % span, (-np.diff(shrink)) % span
        assert np.allclose(forwards, forwards[0])
        assert np.allclose(forwards, backwards)
        assert np.log(1.01) < forwards[0] < np.log(1.1)


def test_what_a_class_does_not_move_stands_still():
    paths = paths_by_class(TINY)
    for name, path in paths.items():
        moved = {
            field
            for field in ("x_px", "y_px", "radius_px", "angle_rad")
            if np.ptp(getattr(path, field)) > 1e-9
        }
        expected = {
            "translate_left": {"x_px"},
            "translate_right": {"x_px"},
            "translate_up": {"y_px"},
            "translate_down": {"y_px"},
            "rotate_cw": {"angle_rad"},
            "rotate_ccw": {"angle_rad"},
            "grow": {"radius_px"},
            "shrink": {"radius_px"},
            "orbit_cw": {"x_px", "y_px"},
            "orbit_ccw": {"x_px", "y_px"},
            "shake_horizontal": {"x_px"},
            "shake_vertical": {"y_px"},
        }
        assert moved == expected[name]


@pytest.mark.parametrize("frame", [0, 11])
@pytest.mark.parametrize("name", CLASS_NAMES)
def test_no_single_frame_tells_the_class(name: str, frame: int):
    # Position, log-radius and angle are uniform at every frame of every class: Kolmogorov-Smirnov
    # on 600 videos.
    config = TINY
    low, high = np.log(config.object_radius_px)
    states = []
    for nth in range(600):
        path = trajectory(config, "train", number_of(name, nth))
        states.append(
            (
                path.x_px[frame] / config.size_px % 1,
                path.y_px[frame] / config.size_px % 1,
                (np.log(path.radius_px[frame]) - low) / (high - low),
                path.angle_rad[frame] / (2 * np.pi) % 1,
            )
        )
    for values in np.array(states).T:
        assert stats.kstest(values, "uniform").pvalue > 1e-4


def test_flip_swaps_are_pairs_of_known_classes():
    flat = [name for pair in FLIP_SWAPS for name in pair]
    assert len(flat) == len(set(flat)) == 6
    assert set(flat) <= set(CLASS_NAMES)


# ------------------------------------------------------------------ files


def test_every_file_decodes_to_the_promised_frames(tiny_dir: Path):
    for split in SPLITS:
        files = sorted((tiny_dir / split).rglob("*.mp4"))
        assert len(files) == TINY.num_videos(split)
        for path in files:
            frames = decode(path)
            assert frames.shape == (TINY.num_frames, TINY.size_px, TINY.size_px, 3)


def test_a_file_shows_its_video_and_lies_under_its_class(tiny_dir: Path):
    number = number_of("grow")
    decoded = decode(tiny_dir / "train" / "grow" / f"{number:05d}.mp4")
    rendered, _ = render_video(TINY, "train", number)
    assert (
        np.abs(decoded.astype(int) - rendered).mean() < 12
    )  # 4:2:0 colour and crf 18 cost this much at most


def test_codec_is_h264_without_b_frames(tiny_dir: Path):
    path = next((tiny_dir / "val").rglob("*.mp4"))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == TINY.fps


def test_bytes_do_not_depend_on_the_number_of_processes(tiny_dir: Path, tmp_path: Path):
    progress: list[tuple[int, int]] = []
    write_dataset(
        tmp_path / "again", TINY, num_processes=2, on_progress=lambda *seen: progress.append(seen)
    )
    for path in sorted(tiny_dir.rglob("*.*")):
        assert (
            path.read_bytes() == (tmp_path / "again" / path.relative_to(tiny_dir)).read_bytes()
        ), path
    total = sum(TINY.num_videos(split) for split in SPLITS)
    assert progress[0] == (0, total)
    assert progress[-1] == (total, total)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


def test_a_second_call_writes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_dataset(tmp_path / "x", TINY)
    lost = tmp_path / "x" / "test" / "grow" / f"{number_of('grow'):05d}.mp4"
    content = lost.read_bytes()
    lost.unlink()
    written = []
    encode = dataset.encode_video
    monkeypatch.setattr(
        dataset,
        "encode_video",
        lambda path, *args, **kwargs: (written.append(path), encode(path, *args, **kwargs)),
    )
    write_dataset(tmp_path / "x", TINY)
    assert written == [lost]
    assert lost.read_bytes() == content


def test_a_failure_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    frames, _ = render_video(TINY, "train", 0)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", fail)
    with pytest.raises(OSError, match="No space left"):
        dataset.encode_video(tmp_path / "x.mp4", frames, fps=12, gop=12, crf=18)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"No space left on device; make room there"):
        write_dataset(tmp_path / "y", TINY)
    assert not [path for path in (tmp_path / "y").rglob("*.*") if path.name != CONFIG_FILE]


def test_another_config_is_refused_and_nothing_is_touched(tiny_dir: Path):
    before = {path: path.stat().st_mtime_ns for path in tiny_dir.rglob("*")}
    with pytest.raises(
        UserError,
        match=r"another setting \(noise_std: 4.0 there, 5.0 asked for\); delete the folder",
    ):
        write_dataset(tiny_dir, TINY.model_copy(update={"noise_std": 5.0}))
    assert before == {path: path.stat().st_mtime_ns for path in tiny_dir.rglob("*")}


def test_a_folder_with_other_things_is_refused(tmp_path: Path):
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(UserError, match=f"is not empty and holds no {CONFIG_FILE}"):
        write_dataset(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_a_broken_marker_is_refused(tmp_path: Path):
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(UserError, match="cannot be read; delete the folder"):
        write_dataset(tmp_path, TINY)


def test_a_file_in_the_way_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write to"):
        write_dataset(tmp_path / "file", TINY)


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train_videos", 100, "100 videos are no multiple of the 12 classes; take 96 or 108"),
        ("speed_px_per_frame", (2.0, 1.0), "needs 0 < low <= high"),
        ("object_radius_px", (7.0, 40.0), "do not fit into size_px=64"),
        ("size_px", 63, "multiple of 2"),
        ("colour", 1, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be_are_refused(field: str, value: object, message: str):
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**{field: value})


def test_the_study_preset_has_thousands_of_test_videos():
    assert PRESETS["study"].test_videos >= 3000


def test_the_module_starts_without_torch():
    code = "import sys, videokd.data.synthetic; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_thousands_of_videos_are_written_alike_twice(tmp_path: Path):
    """x264 has settings under which one video in hundreds differs by what lay in memory."""
    for name in ("one", "two"):
        write_dataset(tmp_path / name, PRESETS["demo"], num_processes=3)
    videos = sorted((tmp_path / "one").rglob("*.mp4"))
    assert len(videos) == 2280
    for video in videos:
        twin = tmp_path / "two" / video.relative_to(tmp_path / "one")
        assert video.read_bytes() == twin.read_bytes(), video.name
