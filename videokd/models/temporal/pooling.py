"""How the features of T frames become those of a clip.

Letters: **N** clips, **T** frames, **D** features a frame, **H** those of a GRU's
state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videokd.errors import ConfigError
from videokd.models.temporal.config import (
    AttentionPoolConfig,
    DepthwiseConfig,
    GruConfig,
    NoTemporalConfig,
    ShiftConfig,
    TamConfig,
    TemporalConfig,
)


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
        # As large as the normalised features that they are added to: at the usual 0.02 the order of
        # the frames drowns in them (moving bars after 120 steps: chance instead of 100 %).
        self.position = nn.Parameter(torch.randn(num_frames, dim))
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


class GruPool(nn.Module):
    """A GRU over the frames, its states averaged: [N,T,D] -> [N,H].

    One layer, forward in time, as `torch.nn.GRU` defines it (its weights are `inputs` for
    `weight_ih_l0` and `states` for `weight_hh_l0`). Averaging the states before the linear
    classifier is averaging the predictions after each frame, as LRCN does (arXiv:1411.4389).

    Written out, because `torch.compile` does not take `nn.GRU` into its graph. T may be any number.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.inputs = nn.Linear(dim, 3 * hidden_dim)
        self.states = nn.Linear(hidden_dim, 3 * hidden_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Pool [N,T,D] over T."""
        # The state is kept in fp32: in bf16 a small update of it would be lost.
        state = features.new_zeros(features.shape[0], self.hidden_dim, dtype=torch.float32)
        total = state
        for seen in self.inputs(features).unbind(1):
            state = self._step(state, seen, features.dtype)
            total = total + state
        return (total / features.shape[1]).to(features.dtype)

    def _step(self, state: Tensor, seen: Tensor, dtype: torch.dtype) -> Tensor:
        reset_in, update_in, new_in = seen.float().chunk(3, -1)
        reset, update, new = self.states(state.to(dtype)).float().chunk(3, -1)
        candidate = torch.tanh(new_in + torch.sigmoid(reset_in + reset) * new)
        return torch.lerp(candidate, state, torch.sigmoid(update_in + update))


def create_temporal_pool(config: TemporalConfig, dim: int, num_frames: int) -> nn.Module:
    """The module that turns the T frame features [N,T,D] of a clip into its own.

    They are [N,D] again, but for a `GruPool`, whose are [N,hidden_dim].
    """
    match config:
        case NoTemporalConfig() | ShiftConfig() | DepthwiseConfig() | TamConfig():
            return MeanPool()
        case AttentionPoolConfig():
            return AttentionPool(dim, num_frames, config.num_heads)
        case GruConfig():
            return GruPool(dim, config.hidden_dim)
