"""The modules that give a 2D network time: shift, attention pooling, or none.

Letters: **N** clips, **T** frames, **C** channels, **D** features a frame, **h w** cells.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from videokd.config import Config
from videokd.errors import ConfigError


class NoTemporalConfig(Config):
    """Frames do not see each other; their features are averaged (TSN, arXiv:1608.00859)."""

    kind: Literal["none"] = "none"


class ShiftConfig(Config):
    """Temporal shift (TSM, arXiv:1811.08383) in every residual branch, then the average."""

    kind: Literal["shift"] = "shift"
    shift_div: int = Field(default=8, ge=2)
    """One part in `shift_div` of the channels comes from the next frame, one from the last."""


class AttentionPoolConfig(Config):
    """Self-attention over the T frame features, then a learned query that weighs the frames."""

    kind: Literal["attention_pool"] = "attention_pool"
    num_heads: int = Field(default=4, ge=1)
    """Heads of the self-attention; they divide the backbone's feature width."""
    shift_div: int | None = Field(default=None, ge=2)
    """With a number, the residual branches are shifted too, as by `kind: shift`."""


TemporalConfig = Annotated[
    NoTemporalConfig | ShiftConfig | AttentionPoolConfig, Field(discriminator="kind")
]


class TemporalShift(nn.Module):
    """Moves two parts of the channels by one frame: [N*T,C,h,w] -> the same shape.

    With c = C // shift_div, channels [0, c) come from the next frame, [c, 2c) from the last one,
    the others stay. What has no neighbour is zero. This is the published definition (`shift` in
    the reference code of TSM), without its in-place variant, which breaks autograd.
    """

    def __init__(self, num_frames: int, shift_div: int = 8) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.shift_div = shift_div

    def forward(self, frames: Tensor) -> Tensor:
        """Shift [N*T,C,h,w]; `ConfigError` where C is less than `shift_div`."""
        num_moved = frames.shape[1] // self.shift_div
        if num_moved == 0:
            raise ConfigError(
                f"temporal shift moves one channel in {self.shift_div}, and a block of the "
                f"backbone has only {frames.shape[1]}; make it wider or shift_div smaller"
            )
        given = frames.unflatten(0, (-1, self.num_frames))
        back, forth = slice(0, num_moved), slice(num_moved, 2 * num_moved)
        # A fresh tensor of the same memory format. Zeros, though most are overwritten: on an empty
        # one, inductor (torch 2.15, CPU) leaves the borders unset and whole networks give NaN.
        shifted = torch.zeros_like(frames).unflatten(0, (-1, self.num_frames))
        shifted[:, :-1, back] = given[:, 1:, back]
        shifted[:, 1:, forth] = given[:, :-1, forth]
        shifted[:, :, 2 * num_moved :] = given[:, :, 2 * num_moved :]
        return shifted.flatten(0, 1)

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        return f"num_frames={self.num_frames}, shift_div={self.shift_div}"

    def before(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook: the module sees shifted frames, and its weights keep their names."""
        return (self(inputs[0]), *inputs[1:])


class MeanPool(nn.Module):
    """The average over time: [N,T,D] -> [N,D]."""

    def forward(self, features: Tensor) -> Tensor:
        """Average [N,T,D] over T."""
        return features.mean(1)


class FrameWeights(nn.Module):
    """Softmax over time of a learned query's match with each frame: [N,T,D] -> float32 [N,T]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, 1, bias=False)
        # Equal weights at the start: the untrained pool is the plain average.
        nn.init.zeros_(self.query.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Weigh the T frames of [N,T,D]; each row sums to 1."""
        return self.query(features).squeeze(-1).float().softmax(-1)


class AttentionPool(nn.Module):
    """Frames look at each other, then a learned query weighs them: [N,T,D] -> [N,D].

    One pre-norm self-attention layer with a learned position a frame (without it the order of the
    frames would be lost), added to the features; `attention` then gives the weights [N,T] of their
    sum. The added part and the query start at zero, so training starts from the plain average.
    """

    def __init__(self, dim: int, num_frames: int, num_heads: int = 4) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(
                f"num_heads {num_heads} does not divide the backbone's {dim} features; "
                f"choose a divisor of {dim}"
            )
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.position = nn.Parameter(torch.empty(num_frames, dim))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.mix = nn.Linear(dim, dim)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)
        self.attention = FrameWeights(dim)

    def forward(self, features: Tensor) -> Tensor:
        """Pool [N,T,D] over T."""
        mixed = features + self.mix(self._self_attend(self.norm(features) + self.position))
        weights = self.attention(mixed)
        return (weights.unsqueeze(-1) * mixed).sum(1).to(mixed.dtype)

    def _self_attend(self, tokens: Tensor) -> Tensor:
        heads = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [N, heads, T, D/heads]
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).flatten(2)


def create_temporal_pool(config: TemporalConfig, dim: int, num_frames: int) -> nn.Module:
    """The module that turns the T frame features [N,T,D] of a clip into [N,D]."""
    match config:
        case NoTemporalConfig() | ShiftConfig():
            return MeanPool()
        case AttentionPoolConfig():
            return AttentionPool(dim, num_frames, config.num_heads)


def shift_div_of(config: TemporalConfig) -> int | None:
    """`shift_div` where the residual branches are shifted, otherwise None."""
    return None if isinstance(config, NoTemporalConfig) else config.shift_div
