"""Taps: named points in a network, declared by how their axes lie, and the hooks that take them.

Letters: **N** clips, **T** frames, **C t h w** a tap's channels, steps in time, cells in space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from videokd.config import Config, did_you_mean
from videokd.errors import ConfigError

Layout = Literal["NCTHW", "NTHWC", "NTCHW_flat", "NLC"]
_RANKS: dict[Layout, int] = {"NCTHW": 5, "NTHWC": 5, "NTCHW_flat": 4, "NLC": 3}


class Tap(Config):
    """A named point in a network whose output is kept, and how its axes lie."""

    name: str = Field(min_length=1)
    """What losses and logs call it."""
    module: str = Field(min_length=1)
    """Dotted path of the module in the network, as `named_modules` spells it."""
    output: int | None = Field(default=None, ge=0)
    """Which one, where the module returns several tensors."""
    layout: Layout = "NCTHW"
    """`NCTHW`: [N,C,t,h,w]. `NTHWC`: [N,t,h,w,C]. `NTCHW_flat`: a 2D network run on N*T frames,
    [N*T,C,h,w]. `NLC`: tokens, [N,t*h*w,C] or [N*t,h*w,C], which need `grid`."""
    pathway: int | None = Field(default=None, ge=0)
    """Whose frames it sees, where a network has several pathways (SlowFast: 0 slow, 1 fast)."""
    grid: tuple[int, int, int] | None = None
    """(t, h, w) of the tokens; for `NLC` only."""
    num_prefix_tokens: int = Field(default=0, ge=0)
    """Tokens ahead of the grid that are dropped (a class token); for `NLC` only."""
    token_order: Literal["thw", "hwt"] = "thw"  # noqa: S105 - not that kind of token
    """How tokens follow one another, the last axis fastest; for `NLC` only. TimeSformer's lie with
    time last."""

    @model_validator(mode="after")
    def _grid_for_tokens(self) -> Tap:
        if (self.layout == "NLC") != (self.grid is not None):
            raise ValueError(
                f"tap {self.name!r}: layout NLC needs grid: [t, h, w], other layouts have none"
            )
        return self


class Catch:
    """Keeps what passes one module during one forward.

    An object with bound methods for hooks, not a closure: a deep copy of the model (an average of
    weights, a twin) then catches into its own store, not into the original's.
    """

    def __init__(self, label: str, output: int | None = None) -> None:
        self.label = label
        self._output = output
        self._is_open = False
        self._caught: list[tuple[Any, int]] = []
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def hook_output_of(self, module: nn.Module) -> Catch:
        """Catch what the module returns."""
        self._handle = module.register_forward_hook(self._take_output)
        return self

    def hook_input_of(self, module: nn.Module) -> Catch:
        """Catch the module's first argument."""
        self._handle = module.register_forward_pre_hook(self._take_input)
        return self

    def remove(self) -> None:
        """Take the hook off the module."""
        if self._handle is not None:
            self._handle.remove()

    def open(self) -> None:
        """Begin a forward."""
        self._caught.clear()
        self._is_open = True

    def close(self) -> None:
        """Outside a forward nothing is caught (recomputation in backward) and nothing is held."""
        self._caught.clear()
        self._is_open = False

    @property
    def tensor(self) -> Tensor:
        """What was caught in this forward."""
        return self._caught[0][0]

    def refuse_faults(self) -> None:
        """For the dry forward: `ConfigError` unless one tensor was caught and left as it was."""
        if len(self._caught) != 1:
            raise ConfigError(
                f"{self.label} fires {len(self._caught)} times in a forward; "
                "name a module that runs exactly once"
            )
        value, version = self._caught[0]
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"{self.label} gives {describe(value)}, not one tensor; say which with `output`"
            )
        if value._version != version:
            raise ConfigError(
                f"{self.label} is overwritten in place after it fires; "
                "name the module that overwrites it, or one further on"
            )

    def _take_output(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if self._is_open:
            self._keep(output)

    def _take_input(self, _module: nn.Module, inputs: Any) -> None:
        if self._is_open:
            self._keep(inputs[0])

    def _keep(self, value: Any) -> None:
        # Now, not after the forward: SlowFast's stages hand on one list and replace its entries.
        if self._output is not None:
            if not isinstance(value, (list, tuple)) or self._output >= len(value):
                raise ConfigError(f"{self.label} has no output {self._output}: {describe(value)}")
            value = value[self._output]
        # Only the dry forward compares versions; inference tensors do not have any.
        on_meta = isinstance(value, Tensor) and value.is_meta and not value.is_inference()
        self._caught.append((value, value._version if on_meta else 0))


def step_seconds(frame_seconds: Tensor, num_steps: int) -> Tensor:
    """When `num_steps` steps happened: [N,T] -> float32 [N,t], the mean over each step's frames.

    Step k stands for the frames [floor(k*T/t), ceil((k+1)*T/t)), as adaptive average pooling has
    it. Strides in time keep to that up to half a frame.
    """
    return F.adaptive_avg_pool1d(frame_seconds.float().unsqueeze(1), num_steps).squeeze(1)


def as_ncthw(features: Tensor, tap: Tap, num_clips: int) -> Tensor:
    """Any layout as [N,C,t,h,w]; `ConfigError` where the rank or the token count is another."""
    rank = _RANKS[tap.layout]
    is_by_clip = rank == 5
    num_extra = features.shape[0] - num_clips if is_by_clip else features.shape[0] % num_clips
    if features.ndim != rank or num_extra:
        raise ConfigError(
            f"tap {tap.name!r} ({tap.module}) gives {list(features.shape)} for {num_clips} clips; "
            f"layout {tap.layout} has rank {rank}"
        )
    if is_by_clip:
        return features if tap.layout == "NCTHW" else features.permute(0, 4, 1, 2, 3)
    if tap.layout == "NTCHW_flat":
        return features.unflatten(0, (num_clips, -1)).transpose(1, 2)
    assert tap.grid is not None
    tokens = features[:, tap.num_prefix_tokens :]
    num_tokens = tokens.shape[0] * tokens.shape[1] // num_clips
    if num_tokens != tap.grid[0] * tap.grid[1] * tap.grid[2]:
        raise ConfigError(
            f"tap {tap.name!r} ({tap.module}) has {num_tokens} tokens a clip after "
            f"{tap.num_prefix_tokens} prefix tokens; grid {list(tap.grid)} holds another number"
        )
    t, h, w = tap.grid
    if tap.token_order == "hwt":  # noqa: S105 - likewise
        return tokens.reshape(num_clips, h, w, t, tokens.shape[-1]).permute(0, 4, 3, 1, 2)
    return tokens.reshape(num_clips, t, h, w, tokens.shape[-1]).permute(0, 4, 1, 2, 3)


def pathway_ids(network: nn.Module, tap: Tap) -> Tensor | None:
    """Which of the T frames the tap's pathway sees, int64; None for all of them."""
    if tap.pathway is None:
        return None
    frame_ids = getattr(network, "pathway_frame_ids", None)
    if frame_ids is None:
        raise ConfigError(
            f"tap {tap.name!r} names pathway {tap.pathway}, but a {type(network).__name__} has "
            "no pathways; leave it out"
        )
    try:
        return frame_ids(tap.pathway)
    except IndexError:
        raise ConfigError(
            f"tap {tap.name!r}: a {type(network).__name__} has no pathway {tap.pathway}"
        ) from None


def module_at(network: nn.Module, path: str, *, what: str) -> nn.Module:
    """The module at a dotted path; `ConfigError` with the nearest path where there is none."""
    modules = dict(network.named_modules())
    if path not in modules or not path:
        known = [name for name in modules if name]
        # Every name of a deep network is no help: without a near one, show the first level.
        hint = did_you_mean(path, known)
        if not hint.startswith("did you mean"):
            hint = did_you_mean(path, [name for name, _ in network.named_children()])
        raise ConfigError(f"{what}: the network has no module {path!r}; {hint}")
    return modules[path]


def refuse_same_names(taps: Sequence[Tap]) -> None:
    """`ConfigError` where two taps would share an entry of the output."""
    names = [tap.name for tap in taps]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{names.count(name)} taps are named {name!r}; give each its own")


def describe(value: Any) -> str:
    """A module's output in a few words, for errors."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
