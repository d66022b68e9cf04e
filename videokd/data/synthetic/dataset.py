"""The embedded data set: short H.264 videos whose classes differ by motion and by nothing else.

A textured object moves over a textured background, among distractors, under a drifting camera,
with noise. The world is a torus: what leaves on one side enters on the other, and an object that
has grown to the largest radius goes on from the smallest. That is what closes the leaks:
position, log-radius and angle are each uniform **at every frame of every class**, so the
distribution of a single frame is the same for all classes, and only the order of frames tells
them apart. Growing and shrinking, clockwise and counter-clockwise, left and right are each
other's time reversals.

Letters: T frames, H W pixels (square, H = W = S). x grows to the right, y downwards; a positive
angle turns clockwise as the viewer sees it. Pixels are 0 to 255. Nothing here imports torch:
worker processes start fast.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

from videokd.data.synthetic.motion import (
    CLASS_NAMES,
    SPLITS,
    Split,
    SyntheticConfig,
    label_of,
)
from videokd.data.synthetic.scenes import render_video
from videokd.errors import UserError
from videokd.files import write_text, written_beside

CONFIG_FILE: Final = "synthetic.json"
# Part of the identity of a written folder: raise it whenever the same config would render other
# pixels.
RENDERER_VERSION: Final = 2

_CHUNK_VIDEOS: Final = 16


def write_dataset(
    out_dir: Path | str,
    config: SyntheticConfig,
    num_processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `out_dir/{train,val,test}/<class>/<number>.mp4` and `synthetic.json`, skipping what
    is already there.

    A file is written beside its place and renamed, so a file that exists is complete and an
    interrupted call can be repeated. `on_progress(done, total)` counts videos, those already
    there included. With more than one process the caller's main module must be importable without
    side effects (processes are spawned, not forked, because the caller may hold threads). Raises
    `UserError` when the folder belongs to another config or to something else.
    """
    out_dir = Path(out_dir)
    _claim_folder(out_dir, config)
    todo = [job for job in _all_videos(config) if not _video_path(out_dir, *job).exists()]
    total = sum(config.num_videos(split) for split in SPLITS)
    done = total - len(todo)
    report = on_progress or _say_nothing
    report(done, total)
    chunks = [todo[i : i + _CHUNK_VIDEOS] for i in range(0, len(todo), _CHUNK_VIDEOS)]
    try:
        for num_written in _write_chunks(out_dir, config, chunks, num_processes):
            done += num_written
            report(done, total)
    except OSError as error:
        raise UserError(
            f"cannot write the videos below {out_dir}: {error.strerror or error}; make room there"
            " or choose another folder, then repeat the command: finished videos are kept"
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that wrote videos below {out_dir} died, most likely for want of memory;"
            " repeat the command with fewer processes: finished videos are kept"
        ) from error


def _say_nothing(_done: int, _total: int) -> None:
    pass


def encode_video(path: Path, frames: NDArray[np.uint8], *, fps: int, gop: int, crf: int) -> None:
    """Write frames uint8 [T,H,W,3] as H.264 in MP4, beside `path` and then renamed. The same
    frames, the same bytes."""
    # One thread: with several, x264's choices depend on their number. No macroblock tree: on frames
    # of a few macroblocks it reads memory that nobody wrote, and one video in 200 differs.
    options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "g": str(gop), "bf": "0"}
    options["x264-params"] = "mbtree=0"
    with written_beside(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _all_videos(config: SyntheticConfig) -> Iterator[tuple[Split, int]]:
    for split in SPLITS:
        for number in range(config.num_videos(split)):
            yield split, number


def _video_path(out_dir: Path, split: Split, number: int) -> Path:
    return out_dir / split / CLASS_NAMES[label_of(number)] / f"{number:05d}.mp4"


def _write_chunks(
    out_dir: Path,
    config: SyntheticConfig,
    chunks: list[list[tuple[Split, int]]],
    num_processes: int,
) -> Iterator[int]:
    """Yield the number of videos written, whenever some are."""
    if num_processes <= 1 or len(chunks) <= 1:
        for chunk in chunks:
            yield _write_chunk(out_dir, config, chunk)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(chunks)), mp_context=spawn) as pool:
        futures = [pool.submit(_write_chunk, out_dir, config, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            # After a failure or Ctrl-C the rest is not rendered first; when all went well nothing
            # is left to cancel.
            pool.shutdown(wait=True, cancel_futures=True)


def _write_chunk(out_dir: Path, config: SyntheticConfig, videos: list[tuple[Split, int]]) -> int:
    for split, number in videos:
        frames, _ = render_video(config, split, number)
        encode_video(
            _video_path(out_dir, split, number),
            frames,
            fps=config.fps,
            gop=config.gop,
            crf=config.crf,
        )
    return len(videos)


def _claim_folder(out_dir: Path, config: SyntheticConfig) -> None:
    """Make the folders and `synthetic.json`, or make sure that they are this config's."""
    marker = out_dir / CONFIG_FILE
    mine = {"renderer_version": RENDERER_VERSION, "config": config.model_dump(mode="json")}
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        if marker.exists():
            _refuse_other_config(marker, mine)
        elif any(out_dir.iterdir()):
            raise UserError(
                f"{out_dir} is not empty and holds no {CONFIG_FILE};"
                " choose an empty or a new folder"
            )
        for split in SPLITS:
            for name in CLASS_NAMES:
                (out_dir / split / name).mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            write_text(marker, json.dumps(mine, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write to {out_dir}: {error.strerror or error}; choose another folder"
        ) from error


def _refuse_other_config(marker: Path, mine: dict[str, object]) -> None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        theirs = {"renderer_version": found["renderer_version"], **found["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{marker} cannot be read; delete the folder or choose another one"
        ) from error
    config = mine["config"]
    assert isinstance(config, dict)
    ours = {"renderer_version": mine["renderer_version"], **config}
    other = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
    if other:
        told = ", ".join(
            f"{key}: {theirs.get(key)} there, {ours.get(key)} asked for" for key in other[:3]
        )
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise UserError(
            f"{marker.parent} holds videos of another setting ({told}{more});"
            " delete the folder or choose another one"
        )
