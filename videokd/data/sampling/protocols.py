"""Which views of a video a test looks at: our own, and those of other toolkits by name.

A named protocol takes the frames that the toolkit's published code takes, index for index (see
`published`); T and stride come from the network's own sampling. Past the end of a short video it
does what the original does (mmaction2 and TSM start over, PySlowFast and PyTorchVideo repeat the
last frame), whatever `past_end` says.

Crops have the original's place, up to a few pixels of rounding, and the network's own `crop_px`.
Their order, and whether logits or probabilities of views are averaged, is ours under every
protocol: left to right, the mean softmax.

Training is ours under every protocol: a clip's first frame is uniform in [0, n - span + 1), a
segment's frame uniform in [i * n // T, (i + 1) * n // T). The originals differ:

- mmaction2 dense (`SampleFrames`) starts in [0, n - T * stride + 1): the last stride - 1 starts are
  ours alone; with stride 1 the clips are the same.
- TSM dense starts in [0, n - 64); the starts from there to the last are ours alone.
- TSN and TSM segments have n // T frames each and leave out the last n % T frames of the video;
  where T divides n the clips are the same.
- mmaction2's `UniformSample` and PySlowFast's SSv2 segments share their border frames.
- PySlowFast and PyTorchVideo start at fractions of a frame and spread T frames over a clip of
  T * stride, so that neighbours are now `stride`, now `stride + 1` apart; ours are `stride` apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from videokd.config import did_you_mean
from videokd.data.augment import eval_crops
from videokd.data.sampling import published
from videokd.data.sampling.frames import Ids, frame_ids
from videokd.errors import ConfigError
from videokd.types import Crop, Dense, InputSpec, NumCrops, Sampling

Kind = Literal["dense", "segment", "seconds"]
Rule = Callable[[Any, int, float, int], Ids]
"""(sampling of a fitting kind, num_frames, fps, num_clips) -> int64 [num_clips, T]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalProtocol:
    """The views of a video: clips in time, and crops of each clip."""

    name: str
    follows: str
    """Toolkit and file whose behaviour this is."""
    num_clips: int
    num_crops: NumCrops
    kinds: tuple[Kind, ...]
    """Samplings that it can be applied to."""
    rule: Rule
    whole_short_side: bool = False
    """Squares are as large as the frame allows; otherwise `crop_px / short_side_px` of that."""
    clip_range: int | None = None
    """Where clips reach over a fixed number of frames, a dense stride must be that // T."""
    num_frames: int | None = None
    """T where the protocol sets it; None: the network's own."""

    @property
    def num_views(self) -> int:
        """V, clips x crops."""
        return self.num_clips * self.num_crops

    def check(self, sampling: Sampling) -> None:
        """Refuse a network that is not sampled in a way that this protocol knows.

        Raises:
            ConfigError: naming the protocols that fit.
        """
        if self._fits(sampling):
            return
        fitting = [name for name, other in PROTOCOLS.items() if other._fits(sampling)]
        wanted = " or ".join(self.kinds)
        if self.clip_range is not None:
            wanted += f" sampling with stride {self.clip_range} // num_frames"
        else:
            wanted += " sampling"
        stride = f" with stride {sampling.stride}" if isinstance(sampling, Dense) else ""
        raise ConfigError(
            f"protocol {self.name} is for {wanted}, the network has {sampling.kind} sampling of "
            f"{sampling.num_frames} frames{stride}; protocols for it: {', '.join(fitting)}"
        )

    def frame_ids(self, sampling: Sampling, *, num_frames: int, fps: float) -> Ids:
        """Frames of each clip of a video, int64 [num_clips, T], each in [0, num_frames).

        Raises:
            ConfigError: the protocol is not for this sampling.
            UserError: the video is too short and `past_end` is `refuse` (our own views only), or a
                clip in seconds is shorter than one frame.
        """
        if num_frames < 1 or not fps > 0:
            raise ValueError(f"num_frames and fps must be above 0, not {num_frames} and {fps}")
        self.check(sampling)
        return self.rule(sampling, num_frames, fps, self.num_clips)

    def crops(self, spec: InputSpec, *, height: int, width: int) -> tuple[Crop, ...]:
        """The squares of each clip on a frame of height x width px, see `eval_crops`."""
        return eval_crops(
            height=height,
            width=width,
            short_side_px=spec.crop_px if self.whole_short_side else spec.short_side_px,
            crop_px=spec.crop_px,
            num_crops=self.num_crops,
        )

    def _fits(self, sampling: Sampling) -> bool:
        if sampling.kind not in self.kinds:
            return False
        if self.clip_range is None or not isinstance(sampling, Dense):
            return True
        return sampling.stride == self.clip_range // sampling.num_frames


def own_views(num_clips: int = 1, num_crops: NumCrops = 1) -> EvalProtocol:
    """Our own views: clips from the video's first frame to its last, see `sampling.frame_ids`.

    Raises:
        ConfigError: numbers of clips or crops that there are not.
    """
    if num_clips < 1 or num_crops not in (1, 3, 5, 10):
        raise ConfigError(
            "num_clips must be at least 1 and num_crops 1, 3, 5 or 10, not "
            f"{num_clips} and {num_crops}"
        )
    return EvalProtocol(
        name="uniform",
        follows="videokd",
        num_clips=num_clips,
        num_crops=num_crops,
        kinds=("dense", "segment", "seconds"),
        rule=_own,
    )


def protocol_named(name: str) -> EvalProtocol:
    """The protocol of that name.

    Raises:
        ConfigError: there is none; with the nearest one.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol {name!r} is not known; {did_you_mean(name, list(PROTOCOLS))}")
    return PROTOCOLS[name]


def _own(sampling: Sampling, num_frames: int, fps: float, num_clips: int) -> Ids:
    return frame_ids(sampling, num_frames=num_frames, fps=fps, num_clips=num_clips, start="uniform")


def _views(
    name: str,
    clips_x_crops: tuple[int, NumCrops],
    kinds: Kind | tuple[Kind, ...],
    rule: Rule,
    follows: str,
    **more: Any,
) -> EvalProtocol:
    """A named protocol; where there are three crops, all originals take the whole shorter side."""
    num_clips, num_crops = clips_x_crops
    return EvalProtocol(
        name=name,
        follows=follows,
        num_clips=num_clips,
        num_crops=num_crops,
        kinds=(kinds,) if isinstance(kinds, str) else kinds,
        rule=rule,
        whole_short_side=num_crops == 3,
        **more,
    )


_MMACTION2 = "mmaction2, mmaction/datasets/transforms/loading.py"
_DECODER = "PySlowFast, slowfast/datasets/decoder.py"
_SSV2 = "PySlowFast, slowfast/datasets/ssv2.py"
_SAMPLER = "PyTorchVideo, pytorchvideo/data/clip_sampling.py"
_TORCHVISION = "torchvision, torchvision/datasets/video_utils.py and samplers/clip_sampler.py"
_TSM = "TSM, ops/dataset.py"
_RANGE = {"clip_range": published.TSM_RANGE}

# fmt: off
PROTOCOLS: dict[str, EvalProtocol] = {protocol.name: protocol for protocol in (
    # SlowFast, SlowOnly, I3D, R(2+1)D, CSN, C2D; C3D; VideoMAE; MViT; Swin; UniFormer; TimeSformer
    _views("mmaction2_dense_10x3", (10, 3), "dense", published.mmaction2_dense, _MMACTION2),
    _views("mmaction2_dense_10x1", (10, 1), "dense", published.mmaction2_dense, _MMACTION2),
    _views("mmaction2_dense_5x3", (5, 3), "dense", published.mmaction2_dense, _MMACTION2),
    _views("mmaction2_dense_5x1", (5, 1), "dense", published.mmaction2_dense, _MMACTION2),
    _views("mmaction2_dense_4x3", (4, 3), "dense", published.mmaction2_dense, _MMACTION2),
    _views("mmaction2_dense_4x1", (4, 1), "dense", published.mmaction2_dense, _MMACTION2),
    _views("mmaction2_dense_1x3", (1, 3), "dense", published.mmaction2_dense, _MMACTION2),
    _views("mmaction2_x3d_10x3", (10, 3), "dense", published.mmaction2_x3d, _MMACTION2),
    # One clip of 25 segments; 25 x 10 images, as its authors count.
    _views("mmaction2_tsn_25x10", (1, 10), "segment", published.tsn_centres, _MMACTION2,
           num_frames=published.TSN_SEGMENTS),
    _views("mmaction2_tsm_1x10", (1, 10), "segment", published.segment_centres, _MMACTION2),
    _views("mmaction2_tsm_1x3", (1, 3), "segment", published.segment_centres, _MMACTION2),
    _views("mmaction2_tsm_1x1", (1, 1), "segment", published.segment_centres, _MMACTION2),
    _views("mmaction2_tsm_twice_2x3", (2, 3), "segment", published.segment_centres_twice,
           _MMACTION2),
    _views("mmaction2_tsm_dense_10x10", (10, 10), "dense", published.tsm_dense, _MMACTION2,
           **_RANGE),
    _views("mmaction2_tsm_dense_10x3", (10, 3), "dense", published.tsm_dense, _MMACTION2, **_RANGE),
    # MViTv2 on SSv2; UniFormerV2
    _views("mmaction2_uniform_1x3", (1, 3), "segment", published.mmaction2_uniform, _MMACTION2),
    _views("mmaction2_uniform_2x3", (2, 3), "segment", published.mmaction2_uniform, _MMACTION2),
    _views("mmaction2_uniform_4x3", (4, 3), "segment", published.mmaction2_uniform, _MMACTION2),
    _views("pyslowfast_10x3", (10, 3), "dense", published.pyslowfast, _DECODER),
    # MViT and MViTv2 on Kinetics
    _views("pyslowfast_offset_5x1", (5, 1), "dense", published.pyslowfast_offset, _DECODER),
    _views("pyslowfast_offset_5x3", (5, 3), "dense", published.pyslowfast_offset, _DECODER),
    _views("pyslowfast_ssv2_1x3", (1, 3), "segment", published.pyslowfast_ssv2, _SSV2),
    # As released (0.1.5), and as on its main branch since April 2022
    _views("pytorchvideo_10x3", (10, 3), ("dense", "seconds"), published.pytorchvideo, _SAMPLER),
    _views("pytorchvideo_main_10x3", (10, 3), ("dense", "seconds"), published.pytorchvideo_main,
           _SAMPLER),
    # MViT (5 clips) and Video Swin (12): shorter side and crop are theirs too
    _views("torchvision_5x1", (5, 1), "seconds", published.torchvision, _TORCHVISION),
    _views("torchvision_12x1", (12, 1), "seconds", published.torchvision, _TORCHVISION),
    _views("tsm_uniform_1x1", (1, 1), "segment", published.segment_centres, _TSM),
    _views("tsm_twice_2x3", (2, 3), "segment", published.segment_centres_twice, _TSM),
    _views("tsm_dense_10x3", (10, 3), "dense", published.tsm_dense, _TSM, **_RANGE),
)}
# fmt: on
"""The named protocols; clips x crops stand at the end of a name."""
