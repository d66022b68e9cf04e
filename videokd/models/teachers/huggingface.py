"""Video transformers of Hugging Face's `transformers`, an extra: `pip install "videokd[hf]"`.

VideoMAE (arXiv:2203.12602), TimeSformer (arXiv:2102.05095), ViViT (arXiv:2103.15691, the model
without factorised parts) and V-JEPA 2 with its attentive probe (arXiv:2506.09985). A network is
made from its settings, never from an address; its tensors have the library's names, so published
files load. Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator
from torch import Tensor, nn

from videokd.config import Config
from videokd.errors import UserError
from videokd.models.video_model import NetworkParts, Tap
from videokd.types import InputSpec

Architecture = Literal["videomae", "timesformer", "vivit", "vjepa2"]


class HuggingFaceConfig(Config):
    """A video transformer of `transformers`. The defaults are the base size, ViT-B/16."""

    kind: Literal["huggingface"] = "huggingface"
    architecture: Architecture
    """`videomae`, `vivit` and `vjepa2` see tubelets of two frames; `timesformer` single frames."""
    input: InputSpec
    """What the network wants to see: `crop_px` is a multiple of `patch_px`."""
    taps: tuple[Tap, ...] = ()
    """Points whose features are returned; empty stands for `stage1` ... `stage4`, the tokens after
    each quarter of the layers."""
    depth: int = Field(default=12, ge=4)
    """Layers."""
    width: int = Field(default=768, ge=1)
    """Channels of a token."""
    num_heads: int = Field(default=12, ge=1)
    """Of each attention; they divide `width`."""
    mlp_width: int = Field(default=3072, ge=1)
    """Hidden channels of each layer's perceptron."""
    patch_px: int = Field(default=16, ge=1)
    """Side of the square that becomes one token."""
    probe_depth: int = Field(default=3, ge=1)
    """Self-attention layers of V-JEPA 2's probe, before the one that pools; nothing to the
    others."""

    @model_validator(mode="after")
    def _tokens_fit(self) -> HuggingFaceConfig:
        if self.input.crop_px % self.patch_px:
            raise ValueError(
                f"input.crop_px {self.input.crop_px} is not a multiple of patch_px {self.patch_px}"
            )
        if self.input.num_frames % self.tubelet_frames:
            raise ValueError(
                f"{self.architecture} sees {self.tubelet_frames} frames as one step, and input has "
                f"{self.input.num_frames}; take an even number"
            )
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide width {self.width}")
        return self

    @property
    def tubelet_frames(self) -> int:
        """Frames that become one step in time."""
        return 1 if self.architecture == "timesformer" else 2

    @property
    def grid(self) -> tuple[int, int, int]:
        """(t, h, w) of the tokens."""
        side = self.input.crop_px // self.patch_px
        return (self.input.num_frames // self.tubelet_frames, side, side)


class _Known(NamedTuple):
    """What differs between the architectures."""

    config: str
    model: str
    num_prefix_tokens: int
    token_order: Literal["thw", "hwt"]
    output: int | None
    """Which of a layer's outputs are the tokens, where it returns several."""


_KNOWN: dict[Architecture, _Known] = {
    "videomae": _Known("VideoMAEConfig", "VideoMAEForVideoClassification", 0, "thw", None),
    "timesformer": _Known("TimesformerConfig", "TimesformerForVideoClassification", 1, "hwt", 0),
    "vivit": _Known("VivitConfig", "VivitForVideoClassification", 1, "thw", None),
    "vjepa2": _Known("VJEPA2Config", "VJEPA2ForVideoClassification", 0, "thw", 0),
}


def create_huggingface(config: HuggingFaceConfig, num_classes: int) -> NetworkParts:
    """The network of `config` with K outputs and random weights.

    It is the library's own module with two hooks: clips [N,3,T,S,S] are turned to the [N,T,3,S,S]
    that it takes, and of what it returns the logits [N,K] are kept.

    Raises:
        UserError: `transformers` is not installed.
    """
    library = _library()
    known = _KNOWN[config.architecture]
    settings = getattr(library, known.config)(num_labels=num_classes, **_settings(config))
    network: nn.Module = getattr(library, known.model)(settings)
    if config.architecture == "videomae":
        _keep_positions_as_buffer(network)
    if config.architecture == "vjepa2":
        # Its pre-training's; the classification never runs it.
        network.get_submodule("vjepa2").predictor = nn.Identity()
    network.register_forward_pre_hook(_frames_first)
    network.register_forward_hook(_logits_only)
    return NetworkParts(network, "classifier", _taps(config, known, network))


def installed_names(state_dict: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Published tensors by the names that the installed `transformers` has for them.

    Some of its releases renamed the tensors of VideoMAE (`q_bias`) and ViViT (`encoder.layer`).
    V-JEPA 2's files also hold its predictor, which classification does not have: it is left out.

    Args:
        state_dict: as published.
        names: of the network's tensors.
    """
    return {
        _installed_name(name, names): value
        for name, value in state_dict.items()
        if not name.startswith("vjepa2.predictor.")
    }


_RENAMED = (
    (r"\.attention\.attention\.q_bias$", ".attention.attention.query.bias"),
    (r"\.attention\.attention\.v_bias$", ".attention.attention.value.bias"),
)
_RENAMED_VIVIT = (
    (r"^vivit\.encoder\.layer\.", "vivit.layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def _installed_name(name: str, names: Collection[str]) -> str:
    if name in names:
        return name
    renamed = name
    for pattern, now in _RENAMED_VIVIT if name.startswith("vivit.") else _RENAMED:
        renamed = re.sub(pattern, now, renamed)
    return renamed if renamed in names else name


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError(
            "kind huggingface needs the library transformers, which is not installed: "
            'pip install "videokd[hf]"'
        ) from None
    return transformers


def _settings(config: HuggingFaceConfig) -> dict[str, Any]:
    """Under the names that the library has for them."""
    common = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
    }
    size = {"image_size": config.input.crop_px, "num_frames": config.input.num_frames}
    match config.architecture:
        case "vjepa2":
            return common | {
                "crop_size": config.input.crop_px,
                "frames_per_clip": config.input.num_frames,
                "patch_size": config.patch_px,
                "tubelet_size": config.tubelet_frames,
                "mlp_ratio": config.mlp_width / config.width,
                "num_pooler_layers": config.probe_depth,
            }
        case "vivit":
            tubelet = [config.tubelet_frames, config.patch_px, config.patch_px]
            return common | size | {"intermediate_size": config.mlp_width, "tubelet_size": tubelet}
        case "videomae":
            tokens = {"patch_size": config.patch_px, "tubelet_size": config.tubelet_frames}
            return common | size | tokens | {"intermediate_size": config.mlp_width}
        case "timesformer":
            tokens = {"patch_size": config.patch_px}
            return common | size | tokens | {"intermediate_size": config.mlp_width}


def _taps(config: HuggingFaceConfig, known: _Known, network: nn.Module) -> tuple[Tap, ...]:
    body = network.get_submodule(config.architecture)
    layers = "layers" if hasattr(body, "layers") else "encoder.layer"
    return tuple(
        Tap(
            name=f"stage{quarter}",
            module=f"{config.architecture}.{layers}.{config.depth * quarter // 4 - 1}",
            output=known.output,
            layout="NLC",
            grid=config.grid,
            num_prefix_tokens=known.num_prefix_tokens,
            token_order=known.token_order,
        )
        for quarter in (1, 2, 3, 4)
    )


def _keep_positions_as_buffer(network: nn.Module) -> None:
    """VideoMAE copies its table of positions to the device in each forward; a buffer lies there."""
    embeddings = network.get_submodule("videomae.embeddings")
    positions = embeddings.position_embeddings
    assert isinstance(positions, Tensor)
    del embeddings.position_embeddings
    embeddings.register_buffer("position_embeddings", positions, persistent=False)


# Functions of the module, not closures: copies of a network keep them.
def _frames_first(_network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].transpose(1, 2), *inputs[1:])


def _logits_only(_network: nn.Module, _inputs: Any, output: Any) -> Tensor:
    return output.logits
