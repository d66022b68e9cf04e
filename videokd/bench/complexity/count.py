"""Parameters and multiply-adds of a network, counted without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from videokd.bench.complexity.conventions import WEIGHTS, Convention, leaves_out_head
from videokd.bench.complexity.record import Operation, recorded
from videokd.errors import UserError, first_line
from videokd.models.meta import on_meta

_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}


class ModuleRow(NamedTuple):
    """What one module does itself, its children not included: rows add up to the network."""

    path: str
    """Dotted; "" for the network itself."""
    kind: str
    """Name of its class."""
    params: int
    """Its own parameters; shared ones stand at the first module that has them."""
    macs: int
    """Multiply-adds of a view."""
    ops: int
    """Operations of a view in the count's convention."""
    activations: int
    """Elements that its convolutions, linear layers, products and attention write."""
    elements_moved: int
    """Elements that all its operations read and write, weights included, nothing fused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity:
    """The size of a network and the work of one view."""

    params_m: float
    """Parameters, 1e6; shared ones once; always of the whole network."""
    gmacs: float
    """1e9 multiply-adds for one clip and one crop, whatever the convention."""
    gops: float
    """1e9 operations for one clip and one crop as `convention` counts them."""
    convention: Convention = "mac"
    modules: tuple[ModuleRow, ...] = ()
    """In the order of the network, where `by_module` was asked for."""

    def gops_per_video(self, num_views: int) -> float:
        """1e9 operations for all clips and crops of a video."""
        return self.gops * num_views


class Traffic(NamedTuple):
    """Bytes that a batch moves between memory and the arithmetic units."""

    unfused_bytes: int
    """Every operation reads its inputs and weights and writes its result: eager mode."""
    min_bytes: int
    """The same of convolutions, linear layers, matrix products and attention alone: everything
    between them is done while their tensors pass by. A device that keeps tensors in its cache from
    one to the next moves still less."""


@dataclass(frozen=True)
class Count:
    """A forward pass as its operations, from which every number is taken."""

    operations: Sequence[Operation]
    parameters: tuple[tuple[str, int], ...]
    """Path and own parameters of each module, shared ones once."""
    kinds: dict[str, str]
    """Path -> class name of each module, in the network's order."""
    classifier: str
    """Path of the final linear layer."""

    def complexity(self, convention: Convention = "mac", *, by_module: bool = False) -> Complexity:
        """The numbers of one convention."""
        counted = self.operations
        if leaves_out_head(convention):
            counted = _without_head(counted, self.classifier)
        params = sum(number for _, number in self.parameters)
        return Complexity(
            params_m=params / 1e6,
            gmacs=_num_ops(self.operations, "mac") / 1e9,
            gops=_num_ops(counted, convention) / 1e9,
            convention=convention,
            modules=self._rows(counted, convention) if by_module else (),
        )

    def _rows(self, counted: Sequence[Operation], convention: Convention) -> tuple[ModuleRow, ...]:
        own = dict(self.parameters)
        work: dict[str, list[Operation]] = {path: [] for path in self.kinds}
        for operation in self.operations:
            work[operation.path].append(operation)
        in_count: dict[str, list[Operation]] = {path: [] for path in self.kinds}
        for operation in counted:
            in_count[operation.path].append(operation)
        return tuple(
            ModuleRow(
                path=path,
                kind=kind,
                params=own.get(path, 0),
                macs=_num_ops(work[path], "mac"),
                ops=_num_ops(in_count[path], convention),
                activations=sum(one.num_written for one in work[path] if one.is_product),
                elements_moved=sum(one.num_read + one.num_written for one in work[path]),
            )
            for path, kind in self.kinds.items()
            if work[path] or own.get(path)
        )


def count_complexity(
    model: nn.Module,
    *,
    num_frames: int,
    crop_px: int,
    convention: Convention = "mac",
    by_module: bool = False,
    classifier: str | None = None,
) -> Complexity:
    """Parameters, and the work of one view: a clip float [1, 3, T, S, S].

    The network is counted as it is deployed, without taps; projections are no part of it.

    Args:
        model: takes clips, returns logits or an object with `.logits`.
        num_frames: T.
        crop_px: S.
        convention: what `gops` counts, see `conventions.WEIGHTS`.
        by_module: also a row for each module that has parameters or does something.
        classifier: path of the final linear layer, which `mmaction2` leaves out; None takes what
            the model says of itself, and else the last linear layer that it has.

    Raises:
        UserError: where the network cannot run on `meta` or not on clips of this size.
    """
    count = count_operations(model, num_frames=num_frames, crop_px=crop_px, classifier=classifier)
    return count.complexity(convention, by_module=by_module)


def count_traffic(
    model: nn.Module,
    *,
    num_frames: int,
    crop_px: int,
    dtype: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32",
    batch: int = 1,
) -> Traffic:
    """Bytes that a batch of clips [batch, 3, T, S, S] moves, weights and activations in `dtype`.

    Raises:
        UserError: as `count_complexity`.
    """
    count = count_operations(model, num_frames=num_frames, crop_px=crop_px, batch=batch)
    moved = [(one.is_product, one.num_read + one.num_written) for one in count.operations]
    size = _BYTES[dtype]
    return Traffic(
        unfused_bytes=size * sum(number for _, number in moved),
        min_bytes=size * sum(number for is_product, number in moved if is_product),
    )


def count_operations(
    model: nn.Module,
    *,
    num_frames: int,
    crop_px: int,
    classifier: str | None = None,
    batch: int = 1,
) -> Count:
    """Run a copy on the `meta` device, where tensors have shapes and no values, and take notes.

    On a CPU torch runs fused attention that nothing can look into. Weights, buffers, mode and the
    random state of `model` are not touched.
    """
    shadow = _shadow_of(untapped(model)).eval()
    clips_shape = (batch, 3, num_frames, crop_px, crop_px)
    try:
        # The default device covers networks that make tensors in `forward` without naming one.
        with torch.no_grad(), torch.device("meta"), recorded(shadow) as operations:
            logits_of(shadow(torch.empty(clips_shape)))
    except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{type(model).__name__} cannot be counted on clips of {num_frames} frames of "
            f"{crop_px} px: {first_line(error)}"
        ) from None
    return Count(
        operations,
        tuple(_own_parameters(shadow)),
        {path: type(module).__name__ for path, module in shadow.named_modules()},
        classifier or _classifier_of(shadow),
    )


def untapped(model: nn.Module) -> nn.Module:
    """The network without the recording that training needs, where it knows how to shed it."""
    shed = getattr(model, "without_taps", None)
    return shed() if callable(shed) else model


def logits_of(output: Any) -> torch.Tensor:
    """Logits [N, K] of whatever a network returned: the tensor itself, or its `.logits`."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor):
        raise UserError(
            f"the network returned a {type(output).__name__}; a tensor of logits or an object "
            "with .logits is needed"
        )
    return logits


def _num_ops(operations: Sequence[Operation], convention: Convention) -> int:
    weights = WEIGHTS[convention]
    return sum(one.amount * weights.get(one.kind, 0) for one in operations if one.kind)


def _without_head(operations: Sequence[Operation], classifier: str) -> list[Operation]:
    """All but the final linear layer and what pools for it."""
    body = [one for one in operations if not f"{one.path}.".startswith(f"{classifier}.")]
    while body and body[-1].kind in (None, "pooled"):
        body.pop()
    return body


def _classifier_of(model: nn.Module) -> str:
    said = getattr(model, "classifier", None)
    if isinstance(said, str):
        return f"network.{said}"
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else "no linear layer"


def _own_parameters(model: nn.Module) -> list[tuple[str, int]]:
    seen: set[int] = set()
    found: list[tuple[str, int]] = []
    for path, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen |= {id(parameter) for parameter in own}
        found.append((path, sum(parameter.numel() for parameter in own)))
    return found


def _shadow_of(model: nn.Module) -> nn.Module:
    try:
        return on_meta(model)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from None
