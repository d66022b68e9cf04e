"""From a trained network to what is timed: its form, numbers, layout and mode, held to fp32."""

from __future__ import annotations

import copy
import itertools
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch._dynamo
from torch import nn

from videokd.bench.complexity import logits_of, untapped
from videokd.bench.latency.graph import GraphRun
from videokd.bench.latency.settings import DTYPES, BenchSetting
from videokd.bench.latency.timing import Run
from videokd.bench.parts import Dtype
from videokd.errors import UserError, first_line
from videokd.models.deployed import Deployed, compiled, deployed
from videokd.models.video_model import VideoModel

TOLERANCE: dict[Dtype, float] = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 1e-1, "fp16": 2e-2}
"""How far logits may lie from those of fp32 eager, as a part of the largest fp32 logit: about
thirteen, eleven, eight and eleven bits of mantissa (the order of sums included), times depth."""

T = TypeVar("T")
_NETWORK_ERRORS = (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError)
_numbers = itertools.count()


class Runner(NamedTuple):
    """What takes a batch and returns logits."""

    run: Run
    num_graphs: Literal["one", "several"] | None
    """How many graphs the network was compiled to; None where it was not compiled."""


def frozen_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy without taps, fp32, in eval mode, on the device."""
    try:
        net = copy.deepcopy(untapped(model))
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from None
    return net.eval().requires_grad_(False).to(device=device, dtype=torch.float32)


def formed(model: nn.Module, setting: BenchSetting) -> nn.Module:
    """`model` (a frozen copy) in the form, numbers and layout of the setting.

    Raises:
        UserError: the deployed form of something that is no `VideoModel`, or that has none.
    """
    if setting.form == "deployed":
        if not isinstance(model, VideoModel):
            raise UserError(
                f"form deployed is made of a VideoModel, not of a {type(model).__name__}; use form "
                "trained"
            )
        try:
            model = deployed(model)
        except RuntimeError as error:
            raise UserError(f"form deployed: {first_line(error)}; use form trained") from None
    model = model.to(DTYPES[setting.dtype])
    if setting.memory_format == "channels_last":
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            tensor.data = _channels_last(tensor.data)
    return model


def runner(net: nn.Module, setting: BenchSetting, example: torch.Tensor) -> Runner:
    """The network, compiled where the setting says so, and run once."""
    if "compile" not in setting.mode:
        net(example)
        return Runner(net, None)
    if isinstance(net, Deployed):
        return Runner(compiled(net, example), "one")
    return compiled_as_is(net, example)


def captured(run: Run, setting: BenchSetting, example: torch.Tensor) -> Run:
    """`run` as a CUDA graph where the setting says so, else as it is; run once."""
    run = GraphRun(run, example) if "graph" in setting.mode else run
    run(example)
    return run


def compiled_as_is(net: nn.Module, example: torch.Tensor) -> Runner:
    """A trained network through `torch.compile`, for this shape alone, compiled when this returns.

    Each call compiles a function of its own. torch keeps compiled code by the code object of what
    it compiles, and all our networks have one `forward`: after eight of them (its
    `recompile_limit`) it would silently go on uncompiled.

    Args:
        net: in eval mode, without gradients.
        example: a batch of the shape to compile for.
    """
    try:
        return Runner(_compiled(net, example, whole=True), "one")
    except torch._dynamo.exc.Unsupported:
        return Runner(_compiled(net, example, whole=False), "several")


def _compiled(net: nn.Module, example: torch.Tensor, *, whole: bool) -> Run:
    run: Run = torch.compile(_own_function(net), fullgraph=whole, dynamic=False)
    with warnings.catch_warnings(), _no_limits():
        warnings.simplefilter("ignore")
        run(example)
    return run


def check_logits(
    run: Run, setting: BenchSetting, batches: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
) -> None:
    """Refuse to time a network that does not compute what it computes in fp32 eager.

    Raises:
        UserError: it does not run, its logits are not finite, or further away than `TOLERANCE`.
    """
    how = f"{setting.dtype}, {setting.mode}"
    for clips, reference in zip(batches, wanted, strict=True):
        logits = logits_on_cpu(run, clips, how)
        if not bool(torch.isfinite(logits).all()):
            raise UserError(f"logits in {how} are not finite; measure in another dtype or mode")
        error_part = relative_error(logits, reference)
        if error_part > TOLERANCE[setting.dtype]:
            raise UserError(
                f"logits in {how} lie {error_part:.2g} of the largest logit away from fp32 eager; "
                f"at most {TOLERANCE[setting.dtype]:g} is allowed: measure in another dtype or mode"
            )


def logits_on_cpu(run: Run, clips: torch.Tensor, how: str) -> torch.Tensor:
    """Logits float32 [N,K] on the CPU, or a plain line why there are none."""
    return plainly(lambda: logits_of(run(clips)).float().cpu(), clips, how)


def plainly(work: Callable[[], T], clips: torch.Tensor, how: str) -> T:
    """What `work` returns; whatever a network says to clips that it cannot take, in one line."""
    try:
        return work()
    except _NETWORK_ERRORS as error:
        raise UserError(
            f"the network does not run in {how} on clips {list(clips.shape)}: {first_line(error)}"
        ) from None


def relative_error(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest distance between two tensors of logits, as a part of the largest wanted one."""
    scale = float(wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    return float((logits - wanted).abs().max()) / scale


def _own_function(net: nn.Module) -> Run:
    def run(clips: torch.Tensor) -> Any:
        return net(clips)

    own = run.__code__.replace(co_name=f"run_{next(_numbers)}")
    return types.FunctionType(own, run.__globals__, closure=run.__closure__)


def _no_limits() -> Any:
    """Also the parts of a network that breaks into several graphs share code with others'."""
    return torch._dynamo.config.patch(recompile_limit=2**16, accumulated_recompile_limit=2**16)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    return tensor if layout is None else tensor.contiguous(memory_format=layout)
