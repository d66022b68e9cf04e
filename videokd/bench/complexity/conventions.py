"""What is counted, and how the four ways to count weigh it.

A network's work falls into a few kinds (multiply-adds, normalised elements, ...); a convention is
a weight for each kind. So a network is run once, and every convention's number follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from videokd.config import did_you_mean
from videokd.errors import ConfigError

Convention = Literal["mac", "flop", "fvcore", "mmaction2"]
Kind = Literal[
    "mac",
    "batch_norm",
    "batch_norm_plain",
    "norm",
    "norm_plain",
    "pooled",
    "upsampled",
    "sampled",
]
"""Multiply-adds; elements of a batch norm with and without weights; of a layer, group or instance
norm with and without; read by adaptive average pooling to 2D; written by nearest upsampling; and
written by bilinear upsampling or sampling on a grid."""

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

_AS_FVCORE: dict[Kind, int] = {
    "mac": 1,
    "norm": 5,
    "norm_plain": 4,
    "pooled": 1,
    "upsampled": 1,
    "sampled": 4,
}

WEIGHTS: Mapping[Convention, Mapping[Kind, int]] = {
    "mac": {"mac": 1},
    "flop": {"mac": 2},
    "fvcore": _AS_FVCORE | {"batch_norm": 5, "batch_norm_plain": 4},
    "mmaction2": _AS_FVCORE | {"batch_norm": 2, "batch_norm_plain": 1},
}
"""Operations for one of each kind.

- `mac`: one multiply-add of a convolution, linear layer, matrix product or attention is one. What
  papers print, most of them under the name FLOPs.
- `flop`: the multiplication and the addition are one each.
- `fvcore`: what fvcore 0.1.5 counts for a network in training mode, and counted in any mode when
  PyTorchVideo's zoo was measured: 5 an element of a batch norm.
- `mmaction2`: what mmengine counts for a network in evaluation mode, 2 an element of a batch norm,
  without the head, as mmaction2's `tools/analysis_tools/get_flops.py` measures.

Attention in one fused call is counted by all of ours, as the products that it computes; fvcore and
mmengine do not see it, and the networks that they published numbers of had no such call.
"""

DESCRIPTIONS: Mapping[Convention, str] = {
    "mac": "multiply-adds of convolutions, linear layers, matrix products and attention",
    "flop": "2 x mac",
    "fvcore": "mac + 5 x elements of batch, layer and group norms",
    "mmaction2": "mac + 2 x elements of batch norms + 5 x those of other norms, without the head",
}
"""In a line each, for tables and help."""


def convention_named(name: str) -> Convention:
    """The convention of that name; `ConfigError` with the nearest one where there is none."""
    for convention in CONVENTIONS:
        if convention == name:
            return convention
    raise ConfigError(f"convention {name!r} is not known; {did_you_mean(name, CONVENTIONS)}")


def leaves_out_head(convention: Convention) -> bool:
    """Whether the count ends before the final linear layer and its pooling."""
    return convention == "mmaction2"
