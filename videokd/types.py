"""The nouns that cross rooms, each checked at its door.

Letters, everywhere: **B** videos in a batch, **V** views a video, **N** = B*V clips, **T** frames,
**H W** pixels, **S** crop side (px), **C** channels, **K** classes, **t h w** a tap's own steps and
cells. This module imports no torch at run time, so that `videokd --help` starts quickly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from videokd.config import Config, did_you_mean
from videokd.errors import UserError

if TYPE_CHECKING:
    import torch

PastEnd = Literal["clamp", "loop", "refuse"]
NumCrops = Literal[1, 3, 5, 10]
"""Crops of a clip at evaluation: the centre; three along the longer side; four corners and the
centre; those five and their mirror images."""


class Dense(Config):
    """T neighbouring frames, `stride` apart: `fxxfxxf` is num_frames 3, stride 3, span 7."""

    kind: Literal["dense"] = "dense"
    num_frames: int = Field(ge=1)
    """T, frames per clip."""
    stride: int = Field(ge=1)
    """Source frames from one frame of the clip to the next."""
    past_end: PastEnd = "clamp"
    """Where the video is shorter than the clip: repeat its last frame, start over, or refuse it."""

    @property
    def span(self) -> int:
        """Source frames that the clip reaches over, first and last included."""
        return self.stride * (self.num_frames - 1) + 1


class Segment(Config):
    """The whole video in equal parts, one frame from each (TSN)."""

    kind: Literal["segment"] = "segment"
    num_segments: int = Field(ge=1)
    """T: segments, and so frames per clip."""

    @property
    def num_frames(self) -> int:
        """T, frames per clip."""
        return self.num_segments


class Seconds(Config):
    """T frames spread evenly over `span_seconds` of the video, whatever its frame rate."""

    kind: Literal["seconds"] = "seconds"
    num_frames: int = Field(ge=1)
    """T, frames per clip."""
    span_seconds: float = Field(gt=0)
    """Time from the first frame's start to the last frame's end."""
    past_end: PastEnd = "clamp"
    """Where the video is shorter than the clip: repeat its last frame, start over, or refuse it."""


Sampling = Annotated[Dense | Segment | Seconds, Field(discriminator="kind")]

RGB = tuple[float, float, float]
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


class InputSpec(Config):
    """What a network wants to see; it travels in the checkpoint. Networks normalise themselves."""

    sampling: Sampling
    short_side_px: int = Field(ge=1)
    """The frame is scaled until its shorter side has this length; the crop is cut out of that."""
    crop_px: int = Field(ge=1)
    """S, the side of the square crop."""
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation of the resize, with antialiasing."""
    mean: RGB = IMAGENET_MEAN
    """Subtracted from RGB in [0, 1]."""
    std: RGB = IMAGENET_STD
    """Divides RGB after the mean is gone."""

    @model_validator(mode="after")
    def _crop_fits(self) -> InputSpec:
        if self.crop_px > self.short_side_px:
            raise ValueError(
                f"crop_px {self.crop_px} does not fit into short_side_px {self.short_side_px}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, not {self.std}")
        return self

    @property
    def num_frames(self) -> int:
        """T, frames per clip."""
        return self.sampling.num_frames


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One row of the index: a video that was decoded once, from its first frame to its last."""

    path: Path
    """Absolute; in the CSV it is relative to the CSV where possible."""
    labels: tuple[int, ...]
    """Class indices: one, several (multi-label), or none (unlabelled)."""
    num_frames: int
    """Frames that decode, counted by the scan; not the header's guess."""
    fps: float
    height: int
    """px, after rotation."""
    width: int
    """px, after rotation."""
    reader: str
    """The reader that is exact for this video: `decord`, `pyav`, `torchcodec` or `frames`."""
    group: str = ""
    """Videos of one group (a person, a source) stay on one side of a split."""
    split: str = ""
    bytes: int = 0
    digest: str = ""
    """SHA-256 of the file, 16 hex digits."""

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise UserError(f"{self.path}: num_frames is {self.num_frames}; at least 1 is needed")
        if not self.fps > 0:
            raise UserError(f"{self.path}: fps is {self.fps}; it must be above 0")


class ClassNames(Sequence[str]):
    """Index -> name, without duplicates. It lies beside the index and in every checkpoint."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._index = {name: index for index, name in enumerate(self._names)}
        if not self._names:
            raise UserError("no class names: at least one class is needed")
        for position, name in enumerate(self._names):
            if not name.strip() or ";" in name or "\n" in name:
                raise UserError(
                    f"class {position} is named {name!r}: a name is not empty and has no ';'"
                )
            if self._index[name] != position:
                raise UserError(
                    f"class name {name!r} stands twice, as {position} and {self._index[name]}; "
                    "give each class one name"
                )

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self._names[index]

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassNames) and self._names == other._names

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return f"ClassNames({list(self._names)!r})"

    def index_of(self, name: str) -> int:
        """The index of a name; `UserError` with the nearest name where there is none."""
        if name not in self._index:
            raise UserError(
                f"{name!r} is not one of the {len(self)} classes; {did_you_mean(name, self._names)}"
            )
        return self._index[name]


class Crop(NamedTuple):
    """A rectangle as fractions of the frame's height and width, so that it fits every rendering."""

    top: float
    left: float
    height: float
    width: float
    mirrored: bool = False
    """This view alone is mirrored left to right (ten-crop evaluation), labels or not."""


class Erase(NamedTuple):
    """A rectangle that is painted over in all frames of a clip."""

    rectangle: Crop
    """In the clip, after crop and flip."""
    noise_seed: int | None
    """Of the noise that fills it, in [0, 2^31); None: the mean colour."""


class Mix(NamedTuple):
    """Another clip of the same batch that this one is mixed with."""

    partner_id: int
    """The other's video id."""
    partner_repeat: int
    """The other's `Draw.repeat`: one video may stand in a batch several times."""
    own_weight: float
    """Share of this clip in the targets, in [0, 1); in mixup, of its pixels too."""
    box: Crop | None
    """Cutmix: the rectangle that shows the other clip. None: mixup."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Everything that chance decided for one video of a batch, so that it can be replayed."""

    video_id: int
    """Row of the index."""
    entropy: tuple[int, ...]
    """What seeded the draw: (seed, epoch, video id, repeat); empty where nothing was random."""
    frame_ids: Mapping[str, np.ndarray]
    """Rendering -> int64 [V, T], each in [0, num_frames)."""
    crops: tuple[Crop, ...]
    """One rectangle a view, the same for every rendering."""
    flip: bool = False
    """Mirrored left to right; labels that swap under it are swapped in the targets."""
    appearance: tuple[tuple[str, float], ...] = ()
    """(operation, its strength), in the order in which they are done on the device."""
    erase: Erase | None = None
    """Done after `appearance`."""
    mix: Mix | None = None
    """Done last, with the partner as it looks after its own `appearance` and `erase`. None: the
    clip is not mixed; so it is where its partner did not decode."""

    @property
    def repeat(self) -> int:
        """Which of the clips that this video has in the same epoch; 0 for the first."""
        return self.entropy[3] if len(self.entropy) > 3 else 0

    def to_json(self) -> str:
        """One line of JSON; `from_json` gives the same draw, to the last bit."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain["frame_ids"] = {name: ids.tolist() for name, ids in self.frame_ids.items()}
        return json.dumps(plain, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Draw:
        """The draw that `to_json` wrote.

        Raises:
            UserError: it is none.
        """
        try:
            return cls(**_draw_fields(**json.loads(text)))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"not a stored draw: {reason}; make the file again") from None


def _draw_fields(
    *,
    video_id: int,
    entropy: list[int],
    frame_ids: dict[str, list[list[int]]],
    crops: list[list[Any]],
    flip: bool,
    appearance: list[list[Any]],
    erase: list[Any] | None,
    mix: list[Any] | None,
) -> dict[str, Any]:
    """JSON's lists as the types that `Draw` has."""
    return {
        "video_id": int(video_id),
        "entropy": tuple(map(int, entropy)),
        "frame_ids": {n: np.array(ids, dtype=np.int64) for n, ids in frame_ids.items()},
        "crops": tuple(map(_crop, crops)),
        "flip": bool(flip),
        "appearance": tuple((str(name), float(strength)) for name, strength in appearance),
        "erase": None if erase is None else _erase(*erase),
        "mix": None if mix is None else _mix(*mix),
    }


def _crop(values: list[Any]) -> Crop:
    return Crop(*values)


def _erase(rectangle: list[Any], noise_seed: int | None) -> Erase:
    return Erase(_crop(rectangle), noise_seed)


def _mix(partner_id: int, repeat: int, own_weight: float, box: list[Any] | None) -> Mix:
    return Mix(partner_id, repeat, own_weight, None if box is None else _crop(box))


@dataclass(slots=True)
class ClipBatch:
    """B videos, rendered once for each consumer (`student`, `teacher`)."""

    frames: dict[str, torch.Tensor]
    """Rendering -> uint8 [B, V, T, S, S, 3], RGB; crop and flip are done."""
    frame_seconds: dict[str, torch.Tensor]
    """Rendering -> float32 [B, V, T]: when each frame is presented, in its own video."""
    targets: torch.Tensor
    """float32 [B, K]: 1 for each label of the clip as it is shown (after a flip)."""
    has_label: torch.Tensor
    """bool [B]."""
    video_ids: torch.Tensor
    """int64 [B]: rows of the index."""
    draws: list[Draw] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    """Videos asked for that did not decode: (video id, reason). They are not among the B."""

    def __post_init__(self) -> None:
        import torch

        num_videos = self.targets.shape[0]
        for name, clip in self.frames.items():
            if clip.dtype != torch.uint8 or clip.ndim != 6 or clip.shape[-1] != 3:
                raise ValueError(
                    f"frames[{name!r}] must be uint8 [B,V,T,S,S,3], "
                    f"not {clip.dtype} {list(clip.shape)}"
                )
            seconds = self.frame_seconds.get(name)
            if seconds is None or seconds.shape != clip.shape[:3]:
                shape = None if seconds is None else list(seconds.shape)
                raise ValueError(
                    f"frame_seconds[{name!r}] must be {list(clip.shape[:3])} as frames, not {shape}"
                )
        sizes = {
            "targets": num_videos,
            "has_label": self.has_label.shape[0],
            "video_ids": self.video_ids.shape[0],
            "draws": len(self.draws) if self.draws else num_videos,
            **{f"frames[{name!r}]": clip.shape[0] for name, clip in self.frames.items()},
        }
        if len(set(sizes.values())) > 1:
            raise ValueError(f"a ClipBatch has one B, not {sizes}")
        if self.targets.ndim != 2 or self.targets.dtype != torch.float32:
            raise ValueError(
                f"targets must be float32 [B,K], not {self.targets.dtype} "
                f"{list(self.targets.shape)}"
            )
        if self.has_label.dtype != torch.bool or self.video_ids.dtype != torch.int64:
            raise ValueError(
                f"has_label must be bool and video_ids int64, not {self.has_label.dtype} and "
                f"{self.video_ids.dtype}"
            )

    @property
    def num_videos(self) -> int:
        """B."""
        return int(self.targets.shape[0])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ClipBatch:
        """The same batch with its tensors on `device`."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return ClipBatch(
            frames={name: move(clip) for name, clip in self.frames.items()},
            frame_seconds={name: move(s) for name, s in self.frame_seconds.items()},
            targets=move(self.targets),
            has_label=move(self.has_label),
            video_ids=move(self.video_ids),
            draws=self.draws,
            unreadable=self.unreadable,
        )

    def split(self, num_parts: int) -> list[ClipBatch]:
        """Neighbouring videos in `num_parts` batches of nearly equal size; empty ones left out."""
        if num_parts == 1:
            return [self]
        bounds = np.linspace(0, self.num_videos, num_parts + 1).round().astype(int)
        return [self._part(int(a), int(b)) for a, b in pairwise(bounds) if b > a]

    def _part(self, start: int, stop: int) -> ClipBatch:
        """Videos [start, stop)."""
        return ClipBatch(
            frames={name: clip[start:stop] for name, clip in self.frames.items()},
            frame_seconds={name: s[start:stop] for name, s in self.frame_seconds.items()},
            targets=self.targets[start:stop],
            has_label=self.has_label[start:stop],
            video_ids=self.video_ids[start:stop],
            draws=self.draws[start:stop],
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in memory from which copies to a GPU are asynchronous."""
        return ClipBatch(
            frames={name: clip.pin_memory() for name, clip in self.frames.items()},
            frame_seconds={name: s.pin_memory() for name, s in self.frame_seconds.items()},
            targets=self.targets.pin_memory(),
            has_label=self.has_label.pin_memory(),
            video_ids=self.video_ids.pin_memory(),
            draws=self.draws,
            unreadable=self.unreadable,
        )


class TapShape(NamedTuple):
    """What one clip leaves at a tap, without N: channels, steps in time, cells in space."""

    channels: int
    t: int
    h: int
    w: int


class TapOutput(NamedTuple):
    """A tap's features and when each of its steps happened."""

    features: torch.Tensor
    """float [N, C, t, h, w]."""
    step_seconds: torch.Tensor
    """float32 [N, t]: the mean presentation time of the frames behind each step."""


@dataclass(slots=True)
class ModelOutput:
    """What a `VideoModel` returns for N clips."""

    logits: torch.Tensor
    """float [N, K], before softmax."""
    pooled: torch.Tensor
    """float [N, D], what the classifier saw."""
    taps: dict[str, TapOutput] = field(default_factory=dict)
    attention: torch.Tensor | None = None
    """float [N, t], sums to 1 over t: the temporal module's own weights, where it has any."""
    attention_seconds: torch.Tensor | None = None
    """float32 [N, t]: when the steps of `attention` happened."""
