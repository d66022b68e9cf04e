"""Video transformers whose weights lie at Hugging Face; needs the extra `videokd[hf]`."""

from __future__ import annotations

from typing import Any

from videokd.models.catalog.inputs import HALF, IMAGENET, PYSLOWFAST, dense, segments, spec
from videokd.models.catalog.nouns import ModelEntry, Published, PublishedFile

_LARGE = {"depth": 24, "width": 1024, "num_heads": 16, "mlp_width": 4096}
_GIANT = {"depth": 40, "width": 1408, "num_heads": 22, "mlp_width": 6144}

_VIDEOMAE = "https://github.com/MCG-NJU/VideoMAE/blob/main/MODEL_ZOO.md"
_TIMESFORMER = "https://github.com/facebookresearch/TimeSformer"
_VIVIT = "https://github.com/google-research/scenic/tree/main/scenic/projects/vivit"
_VJEPA2 = "https://github.com/facebookresearch/vjepa2"

_VIDEOMAE_NOTE = (
    "no named protocol is its authors'; mmaction2_dense_5x3 is what mmaction2 tests it by"
)
_TIMESFORMER_NOTE = (
    "its authors' clip starts with the video; mmaction2_dense_1x3 takes the middle one"
)
_INTERLEAVED = "no named protocol is its authors'; mmaction2_uniform_2x3 comes nearest"
_VIVIT_NOTE = (
    "its authors' three crops are of 224 px in a frame of 256; its classes are numbered as in "
    "their files: compare with your index before it teaches"
)
_PROBE_NOTE = (
    "its authors' probe sees the tokens of both clips of a video at once; here each clip is "
    "classified and probabilities are averaged"
)


def _entry(
    name: str,
    architecture: str,
    input: dict[str, Any],
    settings: dict[str, Any],
    published: Published,
    file: str,
    *,
    num_classes: int = 400,
    note: str = "",
) -> ModelEntry:
    return ModelEntry(
        name=name,
        family=architecture,
        role="teacher",
        settings={
            "kind": "huggingface",
            "architecture": architecture,
            "input": input,
            **settings,
        },
        num_classes=num_classes,
        published=published,
        weights=PublishedFile(
            url=f"https://huggingface.co/{file}", sha256_prefix=None, layout="huggingface"
        ),
        note=note,
    )


def _numbers(
    top1: float,
    top5: float | None,
    views: str,
    source: str,
    *,
    dataset: str = "kinetics400",
) -> Published:
    return Published(
        dataset=dataset,
        top1_pct=top1,
        top5_pct=top5,
        views=views,
        protocol=None,
        source=source,
    )


# fmt: off
HUGGINGFACE: tuple[ModelEntry, ...] = (
    _entry("videomae_b", "videomae", spec(dense(16, 4), 224, 224, IMAGENET), {},
           _numbers(80.9, 94.7, "5x3", _VIDEOMAE),
           "MCG-NJU/videomae-base-finetuned-kinetics/resolve/main/model.safetensors",
           note=_VIDEOMAE_NOTE),
    _entry("videomae_l", "videomae", spec(dense(16, 4), 224, 224, IMAGENET), _LARGE,
           _numbers(84.7, 96.5, "5x3", _VIDEOMAE),
           "MCG-NJU/videomae-large-finetuned-kinetics/resolve/main/pytorch_model.bin",
           note=_VIDEOMAE_NOTE),
    _entry("videomae_b_ssv2", "videomae", spec(segments(16), 224, 224, IMAGENET), {},
           _numbers(70.6, 92.6, "2x3", _VIDEOMAE, dataset="something_v2"),
           "MCG-NJU/videomae-base-finetuned-ssv2/resolve/main/pytorch_model.bin",
           num_classes=174, note=_INTERLEAVED),
    _entry("timesformer_b_8x32", "timesformer", spec(dense(8, 32), 224, 224, PYSLOWFAST), {},
           _numbers(77.9, 93.2, "1x3", _TIMESFORMER),
           "facebook/timesformer-base-finetuned-k400/resolve/main/pytorch_model.bin",
           note=_TIMESFORMER_NOTE),
    _entry("timesformer_hr_16x16", "timesformer", spec(dense(16, 16), 448, 448, PYSLOWFAST), {},
           _numbers(79.6, 94.0, "1x3", _TIMESFORMER),
           "facebook/timesformer-hr-finetuned-k400/resolve/main/pytorch_model.bin",
           note=_TIMESFORMER_NOTE),
    _entry("vivit_b_16x2", "vivit", spec(dense(32, 2), 256, 224, HALF), {},
           _numbers(79.9, None, "4x3", _VIVIT),
           "google/vivit-b-16x2-kinetics400/resolve/main/pytorch_model.bin",
           note=_VIVIT_NOTE),
    _entry("vjepa2_l_ssv2", "vjepa2", spec(dense(16, 4), 256, 256, IMAGENET), _LARGE,
           _numbers(73.7, None, "2x3", _VJEPA2, dataset="something_v2"),
           "facebook/vjepa2-vitl-fpc16-256-ssv2/resolve/main/model.safetensors",
           num_classes=174, note=_PROBE_NOTE),
    _entry("vjepa2_g_384_ssv2", "vjepa2", spec(dense(64, 2), 384, 384, IMAGENET), _GIANT,
           _numbers(77.3, None, "2x3", _VJEPA2, dataset="something_v2"),
           "facebook/vjepa2-vitg-fpc64-384-ssv2/resolve/main/model.safetensors",
           num_classes=174, note=_PROBE_NOTE),
)
# fmt: on
