"""A `VideoModel` without what only training needs.

Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torchvision.ops import StochasticDepth  # type: ignore[import-untyped]

from videokd.models.deployed.folding import count_norms, fold_, foldable_pairs
from videokd.models.deployed.tiles import tile_
from videokd.models.video_model import VideoModel
from videokd.types import InputSpec

_DROPS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, DropPath, StochasticDepth)


class Deployed(nn.Module):
    """float clips [N,3,T,S,S] in [0, 1] -> logits [N,K], in eval mode whatever the caller does.

    A plain forward: no hooks of ours, no state in python, nothing that reads a value back, so it
    is one graph for `torch.compile(fullgraph=True)` and for a CUDA graph.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, *, spec: InputSpec, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.num_classes = num_classes
        self.num_folded = 0
        """Batch norms that went into the convolution before them."""
        self.num_norms = count_norms(network)
        """Batch norms that are left."""
        self.num_tiled = 0
        """Blocks that take a few frames at a time on a CPU."""
        mean, std = torch.tensor(spec.mean).double(), torch.tensor(spec.std).double()
        for name, value in (("scale", 1 / std), ("shift", -mean / std)):
            self.register_buffer(name, value.float().view(1, 3, 1, 1, 1), persistent=False)
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        """Classify N clips."""
        if clips.ndim != 5 or clips.shape[1] != 3 or not clips.is_floating_point():
            raise ValueError(
                f"clips must be float [N,3,T,S,S], not {clips.dtype} {list(clips.shape)}"
            )
        # One pass over the clips, where (clips - mean) / std is two. Folded into the first
        # convolution it would be none, but that pads with zeros, which here stand for the mean.
        normalised = torch.addcmul(self.shift, clips.to(self.shift.dtype), self.scale)
        # Channels last, as decoded frames lie: no copy in the usual case.
        return self.network(normalised.contiguous(memory_format=torch.channels_last_3d))

    def train(self, mode: bool = True) -> Deployed:  # noqa: ARG002 - nothing here is trained
        """Stay in eval mode, also when a parent is put into training mode."""
        super().train(False)
        return self


@torch.no_grad()
def deployed(model: VideoModel) -> Deployed:
    """What is shipped, timed and counted: the logits of `model`, and nothing else.

    Taps, hooks and dropout are gone, batch norm is folded into the convolution before it wherever
    a recorded run shows that nothing else sees the convolution's output, weights have no gradient
    and lie channels last. `model` is left as it was. The logits are held against its own on a
    random clip, unless it has no weights (on the meta device).

    Raises:
        RuntimeError: where they are others.
    """
    network = model.bare_network().eval().requires_grad_(False)
    clips = _random_clip(model)
    with _whole_products():
        wanted = network((clips - model.mean) / model.std)
    pairs = foldable_pairs(network, tuple(clips.shape))
    for pair in pairs:
        fold_(network, pair)
    _drop_dropout_(network)
    num_tiled = tile_(network, tuple(clips.shape))
    _settle_convolutions_(network)
    form = Deployed(network, spec=model.spec, num_classes=model.num_classes)
    form.num_folded, form.num_tiled = len(pairs), num_tiled
    form = form.to(device=clips.device, dtype=clips.dtype)
    if not clips.is_meta:
        with _whole_products():
            _refuse_other_logits(form(clips), wanted)
    return form


def _whole_products() -> AbstractContextManager[None]:
    """cuDNN without TF32, whose ten bits would hide a fault, and its other settings as they are."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=False,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
        fp32_precision="ieee",
    )


def _random_clip(model: VideoModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    side = model.spec.crop_px
    clips = torch.rand((1, 3, model.spec.num_frames, side, side), generator=generator)
    return clips.to(model.mean)


def _drop_dropout_(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _DROPS):
                setattr(module, name, nn.Identity())


def _settle_convolutions_(network: nn.Module) -> None:
    """Weights channels last; strides as python's numbers, for pytorchvideo's are numpy's, which
    dynamo takes for tensors to watch."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
            module.stride = (int(module.stride[0]), int(module.stride[1]))
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
            depth, height, width = (int(step) for step in module.stride)
            module.stride = (depth, height, width)


def _refuse_other_logits(logits: Tensor, wanted: Tensor) -> None:
    scale = wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny)
    error = float((logits - wanted).abs().max() / scale)
    # Half the digits: far above rounding in a deep network, far below a wrong channel.
    if not error <= torch.finfo(wanted.dtype).eps ** 0.5:
        raise RuntimeError(
            f"the deployed form's logits lie {error:.2g} of the largest one away from the "
            "network's own; it cannot be deployed as it is"
        )
