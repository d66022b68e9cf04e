"""A few frames at a time through the widest blocks: what they hold stays in the cache.

Letters: **N** clips, **T** frames.
"""

from __future__ import annotations

import torch
from timm.models import _efficientnet_blocks as efficientnet_blocks
from torch import Tensor, nn

from videokd.models.meta import on_meta
from videokd.models.temporal.branch import BranchModule

_BLOCKS = (
    efficientnet_blocks.ConvBnAct,
    efficientnet_blocks.DepthwiseSeparableConv,
    efficientnet_blocks.EdgeResidual,
    efficientnet_blocks.InvertedResidual,
    efficientnet_blocks.UniversalInvertedResidual,
)
"""timm's mobile blocks: what is inside is several times as wide as what goes in and comes out."""
_MAX_TILE_BYTES = 10 * 2**20
"""The widest tensor inside a block, for the frames that go through it together. glibc maps and
clears each allocation above 32 MiB anew, which costs more than the layer that writes it."""


class Tiled(nn.Module):
    """Runs a block on `num_rows` frames at a time where the device is a CPU: the same values.

    On a GPU the whole batch goes at once: there, each kernel costs its launch.
    """

    def __init__(self, block: nn.Module, num_rows: int) -> None:
        super().__init__()
        self.block = block
        self.num_rows = num_rows

    def forward(self, frames: Tensor) -> Tensor:
        """[N*T,C,h,w] -> [N*T,C',h',w']."""
        if frames.device.type != "cpu" or frames.shape[0] <= self.num_rows:
            return self.block(frames)
        return torch.cat([self.block(rows) for rows in frames.split(self.num_rows)])


def tile_(network: nn.Module, clips_shape: tuple[int, ...]) -> int:
    """Tile, in place, the mobile blocks whose inside does not fit; returns how many.

    A block with a temporal module inside has to see all frames of a clip and is left alone.

    Args:
        network: in eval mode: frames do not meet in batch statistics.
        clips_shape: [1,3,T,S,S]: one clip, from whose run on the meta device sizes are learnt.
    """
    bytes_of = _widest_bytes(network, clips_shape)
    blocks = [path for path, module in network.named_modules() if _is_framewise(module)]
    wide = [path for path in blocks if clips_shape[2] * bytes_of[path] > _MAX_TILE_BYTES]
    for path in wide:
        parent, _, name = path.rpartition(".")
        tile = Tiled(network.get_submodule(path), max(1, _MAX_TILE_BYTES // bytes_of[path]))
        setattr(network.get_submodule(parent), name, tile)
    return len(wide)


def _is_framewise(module: nn.Module) -> bool:
    return type(module) in _BLOCKS and not any(
        isinstance(inner, BranchModule) for inner in module.modules()
    )


def _widest_bytes(network: nn.Module, clips_shape: tuple[int, ...]) -> dict[str, int]:
    """Path of each mobile block -> the largest tensor that a module in it gives, bytes a frame."""
    twin = on_meta(network)
    widest: dict[str, int] = {}

    def keep(path: str, output: Tensor) -> None:
        widest[path] = max(widest.get(path, 0), output[0].nbytes)

    for path, block in twin.named_modules():
        if type(block) in _BLOCKS:
            for inner in block.modules():
                inner.register_forward_hook(lambda _module, _args, out, path=path: keep(path, out))
    with torch.no_grad():
        twin(torch.empty(clips_shape, device="meta"))
    return widest
