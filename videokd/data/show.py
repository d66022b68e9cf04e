"""A contact sheet: the frames that training or evaluation shows of a few videos, as a picture.

Letters: T frames, S crop side (px), B videos in a batch. Pictures are made with Pillow in
matplotlib's own font, so that no font need be installed. torch is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from videokd.data.index import Index
from videokd.data.loading.clips import STUDENT
from videokd.data.sampling.protocols import EvalProtocol
from videokd.errors import UnreadableVideo
from videokd.files import written_beside
from videokd.types import ClassNames, ClipBatch, VideoRecord

if TYPE_CHECKING:
    import torch
    from PIL.ImageFont import FreeTypeFont

    from videokd.data.loading import EvalLoader, TrainLoader

PAPER, INK, MUTED, LINE = "#ffffff", "#1f2328", "#656d76", "#d0d7de"
MIRRORED, FAULT = "#c2570c", "#c92a2a"

_THUMB_PX = 112
_GAP_PX = 6
_MARGIN_PX = 20
_TEXT_PX = 230
"""Width of the column that names the videos."""
_FRAMES_A_LINE = 16
_SMALL, _NORMAL, _LARGE = 11, 13, 19
"""Letter sizes in px."""


@dataclass(frozen=True, slots=True)
class Strip:
    """One clip, frame by frame; or one frame, crop by crop."""

    title: str
    frames: NDArray[np.uint8]
    """[T,S,S,3], as a network sees them."""
    frame_ids: NDArray[np.int64]
    """[T], in the video."""
    seconds: NDArray[np.float32]
    """[T], in the video."""
    mirrored: tuple[bool, ...]
    """[T]."""


@dataclass(frozen=True, slots=True)
class Row:
    """One video of the sheet: its strips, or why there are none."""

    record: VideoRecord
    labels: str
    strips: tuple[Strip, ...] = ()
    fault: str = ""


def training_rows(
    index: Index, loader: TrainLoader, *, num_videos: int, student: str = STUDENT
) -> list[Row]:
    """The first clips of the first training steps, in the order of their batches.

    Crop, flip and all that is done to a batch on the device are in the frames; the labels are those
    that are learnt, mixed ones with their shares. A video that does not decode stands at the end of
    its batch, with the reason. `student` is what the student's strips are called.
    """
    from videokd.data.augment.device import augmented_clips, mixed_targets

    rows: list[Row] = []
    for batch in _batches(loader.batches, loader.steps_per_epoch):
        if isinstance(batch, UnreadableVideo):
            rows.append(_fault_row(index, _video_at(index, batch.path), batch.reason))
        else:
            wanted = min(batch.num_videos, num_videos - len(rows))
            clips = {n: augmented_clips(batch, n, videos=range(wanted)) for n in batch.frames}
            targets = mixed_targets(batch)[0]
            called = {STUDENT: student}
            rows += [_training_row(index, batch, i, clips, targets, called) for i in range(wanted)]
            rows += [_fault_row(index, i, reason) for i, reason in batch.unreadable]
        if len(rows) >= num_videos:
            break
    return rows[:num_videos]


def evaluation_rows(
    index: Index, loader: EvalLoader, views: EvalProtocol, *, num_videos: int
) -> list[Row]:
    """The first videos of an evaluation: each clip in its most central crop, then all crops.

    The loader is to have a batch size of 1. The last strip has the first frame of the first clip
    in each of its crops.
    """
    rows = []
    for batch in _batches(loader.batches, min(num_videos, len(loader))):
        if isinstance(batch, UnreadableVideo):
            rows.append(_fault_row(index, _video_at(index, batch.path), batch.reason))
            continue
        record = index.records[int(batch.video_ids[0])]
        rows.append(Row(record, _names(index.classes, record), _view_strips(batch, views)))
    return rows


def write_sheet(rows: Sequence[Row], path: Path, *, title: str, notes: Sequence[str]) -> None:
    """Draw the rows below a title and some lines of notes, and write them as a PNG file."""
    sheet = _sheet(rows, title=title, notes=notes)
    with written_beside(path) as part:
        sheet.save(part, format="PNG", optimize=True)


def _batches(
    batches: Callable[[int, int], Iterator[ClipBatch]], stop: int
) -> Iterator[ClipBatch | UnreadableVideo]:
    """One after the other; a fault that ends a loader's iterator is one of them."""
    position = 0
    while position < stop:
        try:
            for batch in batches(position, stop):
                position += 1
                yield batch
        except UnreadableVideo as error:
            position += 1
            yield error


def _video_at(index: Index, path: Path) -> int:
    return next(i for i, record in enumerate(index.records) if record.path == path)


def _fault_row(index: Index, video_id: int, reason: str) -> Row:
    record = index.records[video_id]
    return Row(record, _names(index.classes, record), fault=reason)


def _names(classes: ClassNames, record: VideoRecord) -> str:
    return ", ".join(classes[label] for label in record.labels) or "no label"


def _training_row(
    index: Index,
    batch: ClipBatch,
    i: int,
    clips: dict[str, torch.Tensor],
    targets: torch.Tensor,
    called: dict[str, str],
) -> Row:
    draw = batch.draws[i]
    strips = []
    for name, ids in draw.frame_ids.items():
        num_views = len(ids)
        for view in range(num_views):
            pixels = clips[name][i * num_views + view].permute(1, 2, 3, 0).mul(255).round()
            frames: NDArray[np.uint8] = pixels.clamp(0, 255).byte().numpy()
            which = called.get(name, name)
            which += f", clip {view + 1} of {num_views}" if num_views > 1 else ""
            strips.append(
                Strip(
                    f"{which}: {_size(frames)}{_done_to(batch, i)}",
                    frames,
                    ids[view],
                    batch.frame_seconds[name][i, view].numpy(),
                    (draw.flip,) * len(frames),
                )
            )
    record = index.records[draw.video_id]
    shares = {k: share for k, share in enumerate(targets[i].tolist()) if share > 0}
    learnt = ", ".join(
        index.classes[k] + (f" {share:.2f}" if share != 1 else "") for k, share in shares.items()
    )
    own = _names(index.classes, record)
    if record.labels and not batch.has_label[i]:
        return Row(record, f"{own}, hidden", tuple(strips))
    return Row(record, own if learnt in (own, "") else f"{own}, learnt as {learnt}", tuple(strips))


def _done_to(batch: ClipBatch, i: int) -> str:
    """What a draw does on the device, in a few words."""
    draw = batch.draws[i]
    words = [name for name, _ in draw.appearance]
    words += ["erased"] if draw.erase is not None else []
    if draw.mix is not None:
        words.append("mixup" if draw.mix.box is None else "cutmix")
    return "".join(f", {word}" for word in words)


def _view_strips(batch: ClipBatch, views: EvalProtocol) -> tuple[Strip, ...]:
    """Strips of a batch of one video."""
    (frames,) = batch.frames.values()
    (seconds,) = batch.frame_seconds.values()
    (draw,) = batch.draws
    (ids,) = draw.frame_ids.values()
    pixels, times = frames[0].numpy(), seconds[0].numpy()
    num_crops = views.num_crops
    centre = {1: 0, 3: 1, 5: 4, 10: 8}[num_crops]
    strips = []
    for k in range(views.num_clips):
        view = k * num_crops + centre
        title = f"clip {k + 1} of {views.num_clips}: {_size(pixels[view])}"
        strips.append(Strip(title, pixels[view], ids[view], times[view], (False,) * len(ids[view])))
    if num_crops > 1:
        crops = slice(0, num_crops)
        mirrored = tuple(crop.mirrored for crop in draw.crops[crops])
        title = f"{num_crops} crops of each frame, here of #{ids[0, 0]}"
        title += "; orange: mirrored" if any(mirrored) else ""
        strips.append(Strip(title, pixels[crops, 0], ids[crops, 0], times[crops, 0], mirrored))
    return tuple(strips)


def _size(frames: NDArray[np.uint8]) -> str:
    return f"{frames.shape[0]} frames of {frames.shape[1]} px"


def _sheet(rows: Sequence[Row], *, title: str, notes: Sequence[str]) -> Image.Image:
    longest = max((len(strip.frames) for row in rows for strip in row.strips), default=4)
    strips_px = max(min(longest, _FRAMES_A_LINE), 6) * (_THUMB_PX + _GAP_PX)
    width = _TEXT_PX + strips_px
    parts = [
        _text([(title, _LARGE, INK)], width),
        _text([(n, _NORMAL, MUTED) for n in notes], width),
    ]
    parts += [_row(row, width) for row in rows]
    return _framed(_stacked(parts, _MARGIN_PX))


def _row(row: Row, width: int) -> Image.Image:
    record = row.record
    lines = [
        (record.path.name, _NORMAL, INK),
        (row.labels, _NORMAL, INK),
        (f"{record.num_frames} frames, {record.fps:.5g} fps, "
         f"{record.num_frames / record.fps:.2f} s", _SMALL, MUTED),
        (f"{record.width} x {record.height} px, {record.reader}", _SMALL, MUTED),
    ]  # fmt: skip
    left = _text(lines, _TEXT_PX - _MARGIN_PX)
    strips = [_strip(strip, record.num_frames) for strip in row.strips]
    right = _stacked(strips or [_fault(row.fault, 6 * (_THUMB_PX + _GAP_PX))], 2 * _GAP_PX)
    picture = Image.new("RGB", (width, max(left.height, right.height) + _MARGIN_PX), PAPER)
    ImageDraw.Draw(picture).line((0, 0, width, 0), fill=LINE)
    picture.paste(left, (0, _MARGIN_PX))
    picture.paste(right, (_TEXT_PX, _MARGIN_PX))
    return picture


def _strip(strip: Strip, num_frames: int) -> Image.Image:
    """The title, lines of frames with number and time below each, and where they lie in time."""
    step = _THUMB_PX + _GAP_PX
    width = min(len(strip.frames), _FRAMES_A_LINE) * step
    flag = f"{strip.title}, mirrored" if all(strip.mirrored) else strip.title
    colour = MIRRORED if all(strip.mirrored) else INK
    parts = [_text([(flag, _SMALL, colour)], max(width, 6 * step))]
    for first in range(0, len(strip.frames), _FRAMES_A_LINE):
        shown = range(first, min(first + _FRAMES_A_LINE, len(strip.frames)))
        line = Image.new("RGB", (width, _THUMB_PX + _SMALL + 6), PAPER)
        for place, i in enumerate(shown):
            line.paste(_frame(strip, i), (place * step, 0))
        parts.append(line)
    if len(np.unique(strip.frame_ids)) > 1:
        parts.append(_time_line(strip.frame_ids, num_frames, width - _GAP_PX))
    return _stacked(parts, 3)


def _frame(strip: Strip, i: int) -> Image.Image:
    size = (_THUMB_PX, _THUMB_PX)
    cell = Image.new("RGB", (_THUMB_PX, _THUMB_PX + _SMALL + 6), PAPER)
    cell.paste(Image.fromarray(strip.frames[i]).resize(size, Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(cell)
    colour = INK
    if strip.mirrored[i]:
        colour = MIRRORED
        draw.rectangle((0, 0, _THUMB_PX - 1, _THUMB_PX - 1), outline=MIRRORED, width=3)
    label = f"#{strip.frame_ids[i]}  {strip.seconds[i]:.2f} s"
    draw.text((_THUMB_PX / 2, _THUMB_PX + 2), label, fill=colour, font=_font(_SMALL), anchor="ma")
    return cell


def _time_line(frame_ids: NDArray[np.int64], num_frames: int, width: int) -> Image.Image:
    """The video from end to end, with a mark at each frame."""
    picture = Image.new("RGB", (width, 7), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.line((0, 3, width, 3), fill=LINE, width=3)
    for i in frame_ids.tolist():
        x = round(i / max(1, num_frames - 1) * (width - 3))
        draw.rectangle((x, 0, x + 2, 6), fill=INK)
    return picture


def _fault(reason: str, width: int) -> Image.Image:
    text = _text([(f"cannot be read: {reason}", _NORMAL, PAPER)], width - 40, paper=FAULT)
    cell = Image.new("RGB", (width - _GAP_PX, max(_THUMB_PX, text.height + 20)), FAULT)
    cell.paste(text, (16, (cell.height - text.height) // 2))
    return cell


def _text(lines: Sequence[tuple[str, int, str]], width: int, *, paper: str = PAPER) -> Image.Image:
    """Lines of (text, letter size, colour), broken where they are too long."""
    broken = [(part, size, ink) for line, size, ink in lines for part in _broken(line, size, width)]
    picture = Image.new("RGB", (width, sum(size + 5 for _, size, _ in broken)), paper)
    draw = ImageDraw.Draw(picture)
    y = 0
    for line, size, ink in broken:
        draw.text((0, y), line, fill=ink, font=_font(size))
        y += size + 5
    return picture


def _broken(text: str, size: int, width: int) -> list[str]:
    """Parts of a text that are at most `width` px long, broken at spaces where there are any."""
    font, parts = _font(size), []
    while font.getlength(text) > width:
        fits = next(
            n for n in range(len(text), 0, -1) if n == 1 or font.getlength(text[:n]) <= width
        )
        space = text.rfind(" ", 1, fits + 1)
        cut = space if space > 0 else fits
        parts.append(text[:cut])
        text = text[cut:].lstrip()
    return [*parts, text]


def _stacked(parts: Sequence[Image.Image], gap: int) -> Image.Image:
    height = sum(part.height for part in parts) + gap * (len(parts) - 1)
    picture = Image.new("RGB", (max(part.width for part in parts), height), PAPER)
    y = 0
    for part in parts:
        picture.paste(part, (0, y))
        y += part.height + gap
    return picture


def _framed(picture: Image.Image) -> Image.Image:
    size = (picture.width + 2 * _MARGIN_PX, picture.height + 2 * _MARGIN_PX)
    page = Image.new("RGB", size, PAPER)
    page.paste(picture, (_MARGIN_PX, _MARGIN_PX))
    return page


@lru_cache
def _font(size: int) -> FreeTypeFont:
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
