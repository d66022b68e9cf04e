"""Batch norm into the convolution before it, by the network's own execution, not by its names.

A network is run once on the meta device while every operation is recorded. A pair is folded where
that record shows that a convolution's output goes into one batch norm and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from videokd.models.meta import on_meta

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Pair(NamedTuple):
    """A convolution and the batch norm that alone takes its output; dotted paths."""

    conv: str
    norm: str


def foldable_pairs(network: nn.Module, clips_shape: tuple[int, ...]) -> list[Pair]:
    """Every pair of `network`, in the order of execution, found in one run on the meta device.

    Left out, because folding would change what the network computes or is not a fold at all: an
    output with a second use, weights with a second use, a norm that runs twice or has no running
    statistics, and a layer whose weight is computed anew in each forward.

    Args:
        network: takes clips of `clips_shape`; in eval mode. It is not run itself, nor changed.
        clips_shape: [N,3,T,S,S].
    """
    twin = on_meta(network)
    record = _Record()
    with torch.no_grad(), record:
        logits = twin(torch.empty(clips_shape, device="meta"))
    record.num_uses.update(map(id, _tensors(logits)))  # what leaves the network is used by others
    convs = _owners(twin, "weight", _is_conv)
    norms = _owners(twin, "running_mean", _is_norm)
    makers = {id(conv.output): conv for conv in record.convs}
    pairs = []
    for norm in record.norms:
        conv = makers.get(id(norm.input))
        if conv is None or record.num_uses[id(norm.input)] != 1:
            continue
        if any(record.num_uses[id(used)] != 1 for used in (*conv.state, *norm.state)):
            continue
        paths = convs.get(id(conv.key)), norms.get(id(norm.key))
        if paths[0] is not None and paths[1] is not None:
            pairs.append(Pair(paths[0], paths[1]))
    return pairs


def fold_(network: nn.Module, pair: Pair) -> None:
    """Fold one pair in place: the convolution takes over scale and shift, the norm's place keeps
    its activation, if it had one. Computed in float64, then rounded once."""
    conv, norm = network.get_submodule(pair.conv), network.get_submodule(pair.norm)
    assert isinstance(conv, _CONVS)
    assert isinstance(norm, (*_NORMS, BatchNormAct2d))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double() if conv.bias is None else conv.bias - norm.running_mean
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias
    weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.ndim - 1))
    conv.weight = _rounded(weight, conv.weight)
    conv.bias = _rounded(bias, conv.weight)
    parent, _, name = pair.norm.rpartition(".")
    setattr(network.get_submodule(parent), name, _what_follows(norm))


def count_norms(network: nn.Module) -> int:
    """Batch norms that are still there."""
    return sum(isinstance(module, (*_NORMS, BatchNormAct2d)) for module in network.modules())


class _Call(NamedTuple):
    """One operation with weights: its key names the module, its state must be its own."""

    input: Tensor
    output: Tensor
    key: Tensor
    state: tuple[Tensor, ...]


class _Record(TorchDispatchMode):
    """Every operation below autograd: none escapes it, whichever python function asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs: list[_Call] = []
        self.norms: list[_Call] = []
        self.num_uses: Counter[int] = Counter()
        self._alive: list[Any] = []  # an id stands for a tensor only as long as that lives

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.num_uses.update(map(id, _tensors((args, kwargs))))
        self._alive.append((args, kwargs, result))
        if func is torch.ops.aten.convolution.default and not args[6]:  # transposed
            self.convs.append(_Call(args[0], result, args[1], tuple(_tensors(args[1:3]))))
        elif func is torch.ops.aten.native_batch_norm.default and not args[5]:  # training
            self.norms.append(_Call(args[0], result[0], args[3], tuple(_tensors(args[1:5]))))
        return result


def _owners(network: nn.Module, state: str, is_ours: Callable[[nn.Module], bool]) -> dict[int, str]:
    """id of a module's tensor -> the module's path, for modules that have one path; a weight that
    is computed in each forward (`parametrize`) is nobody's."""
    paths: dict[int, list[str]] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        tensor = {**module._parameters, **module._buffers}.get(state)
        if tensor is not None and is_ours(module):
            paths.setdefault(id(tensor), []).append(path)
    return {key: found[0] for key, found in paths.items() if len(found) == 1}


def _is_conv(module: nn.Module) -> bool:
    """A subclass may do what it likes around the recorded operation (pad, say)."""
    return isinstance(module, _CONVS)


def _is_norm(module: nn.Module) -> bool:
    """What a subclass adds to the normalisation is not known here."""
    return type(module) in (*_NORMS, BatchNormAct2d)


def _what_follows(norm: nn.Module) -> nn.Module:
    if not isinstance(norm, BatchNormAct2d):
        return nn.Identity()
    return norm.act if isinstance(norm.drop, nn.Identity) else nn.Sequential(norm.drop, norm.act)


def _rounded(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
