"""Every operation of one forward pass, with what it multiplies, normalises, reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from videokd.bench.complexity.conventions import Kind

_FLOPS_PER_MAC = 2
"""torch's formulas count the multiplication and the addition."""

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as it ran: where, and how much of what."""

    path: str
    """The innermost module that it ran in; "" for the network itself."""
    kind: Kind | None
    """None: nothing that any convention counts."""
    amount: int
    """Of that kind: multiply-adds, or elements."""
    num_read: int
    """Elements of its floating-point inputs, weights included."""
    num_written: int
    """Elements of its floating-point outputs."""

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution, a linear layer, a matrix product or attention."""
        return self.kind == "mac"


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Operation]]:
    """Yield a list that fills with the operations that `network` runs in this block."""
    stack = [""]
    operations: list[Operation] = []
    handles = [
        handle
        for path, module in network.named_modules()
        for handle in (
            module.register_forward_pre_hook(_entering(stack, path)),
            module.register_forward_hook(_leaving(stack), always_call=True),
        )
    ]
    try:
        with _Functions(stack, operations), _Operations(stack, operations):
            yield operations
    finally:
        for handle in handles:
            handle.remove()


def _entering(stack: list[str], path: str) -> Callable[..., None]:
    def push(*_: Any) -> None:
        stack.append(path)

    return push


def _leaving(stack: list[str]) -> Callable[..., None]:
    def pop(*_: Any) -> None:
        stack.pop()

    return pop


class _Functions(TorchFunctionMode):
    """Notes what is gone below: adaptive pooling to one cell arrives there as a plain mean."""

    def __init__(self, stack: list[str], operations: list[Operation]) -> None:
        super().__init__()
        self._stack, self._operations = stack, operations

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is nn.functional.adaptive_avg_pool2d:
            num_read = args[0].numel()
            self._operations.append(Operation(self._stack[-1], "pooled", num_read, 0, 0))
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Notes every operation of torch's own set that computes or copies something."""

    def __init__(self, stack: list[str], operations: list[Operation]) -> None:
        super().__init__()
        self._stack, self._operations = stack, operations

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", None)
        if not _is_counted(packet) and hasattr(func, "decompose"):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if not _moves_nothing(func, packet):
            self._operations.append(self._note(packet, args, kwargs, result))
        return result

    def _note(
        self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Operation:
        kind, amount = _work(packet, args, kwargs, result)
        num_read, num_written = _num_elements((args, kwargs)), _num_elements(result)
        return Operation(self._stack[-1], kind, amount, num_read, num_written)


def _is_counted(packet: Any) -> bool:
    """Whether conventions know the operation as it is; any other may consist of some that are."""
    tables = (flop_registry, _PRODUCTS_WITH_VECTORS, _NORMS, _RESAMPLED)
    return any(packet in table for table in tables)


def _work(
    packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> tuple[Kind | None, int]:
    """What conventions count of an operation."""
    if packet in flop_registry:
        flops = flop_registry[packet](*args, **kwargs, out_val=result)
        return "mac", flops // _FLOPS_PER_MAC
    if packet in _PRODUCTS_WITH_VECTORS:
        matrix = args[_PRODUCTS_WITH_VECTORS[packet]]
        return "mac", matrix.numel()
    if packet in _NORMS:
        with_weight, without, weight_position = _NORMS[packet]
        has_weight = len(args) > weight_position and args[weight_position] is not None
        return (with_weight if has_weight else without), args[0].numel()
    if packet in _RESAMPLED:
        return _RESAMPLED[packet], result.numel()
    return None, 0


# Operation -> position of its matrix; a product with a vector is no matrix product to torch.
_PRODUCTS_WITH_VECTORS: dict[Any, int] = {aten.mv: 0, aten.addmv: 1, aten.dot: 0}

# Operation -> kind with weights, kind without, position of the weights among its arguments.
_NORMS: dict[Any, tuple[Kind, Kind, int]] = {
    aten.native_batch_norm: ("batch_norm", "batch_norm_plain", 1),
    aten.cudnn_batch_norm: ("batch_norm", "batch_norm_plain", 1),
    aten._native_batch_norm_legit: ("batch_norm", "batch_norm_plain", 1),
    aten._native_batch_norm_legit_no_training: ("batch_norm", "batch_norm_plain", 1),
    aten.native_layer_norm: ("norm", "norm_plain", 2),
    aten.native_group_norm: ("norm", "norm_plain", 1),
}

_RESAMPLED: dict[Any, Kind] = {
    aten.upsample_nearest2d: "upsampled",
    aten.upsample_bilinear2d: "sampled",
    aten.grid_sampler_2d: "sampled",
    aten.grid_sampler_3d: "sampled",
}

_NAMES_WITHOUT_TRAFFIC = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty")
"""Operations that are no view by their declaration, and read and write nothing all the same."""


def _moves_nothing(func: Any, packet: Any) -> bool:
    schema = getattr(func, "_schema", None)
    if schema is None or str(func).startswith("prim."):
        return True
    if str(packet).rsplit(".", 1)[-1] in _NAMES_WITHOUT_TRAFFIC:
        return True
    aliases = [returned.alias_info for returned in schema.returns]
    # A view shares memory with what it views and does not write to it.
    is_view = bool(aliases) and all(alias and not alias.is_write for alias in aliases)
    return is_view or not aliases


def _num_elements(values: Any) -> int:
    tensors: Sequence[Any] = tree_leaves(values)
    return sum(
        prod(tensor.shape)
        for tensor in tensors
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
    )
