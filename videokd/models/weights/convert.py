"""Weights of a 2D network for a 3D one of the same topology, and back.

Both kinds are ResNets: timm's (the 2D students) and pytorchvideo's of one pathway (Slow, C2D, I3D).
Letters: **O** channels out, **I** channels in, **t h w** the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from videokd.errors import UserError

Convert = Literal["none", "inflate", "inflate_centre", "deflate"]
"""`inflate`: a 2D checkpoint into a 3D network, each kernel repeated over time and divided by its
length (I3D, arXiv:1705.07750). `inflate_centre`: the same, with the kernel in the middle and zeros
around it. `deflate`: a 3D checkpoint into a 2D network, each kernel summed over time."""

_COMMON = re.compile(
    r"(conv1|bn1|layer\d+\.\d+\.(conv\d|bn\d|downsample\.[01])|fc)"
    r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
)
"""Names that ResNets share: torchvision's, which timm has too."""
_RESNET_3D = {
    r"blocks\.0\.conv\.(\w+)": r"conv1.\1",
    r"blocks\.0\.norm\.(\w+)": r"bn1.\1",
    r"blocks\.(\d+)\.res_blocks\.(\d+)\.branch1_conv\.(\w+)": r"layer{\1}.\2.downsample.0.\3",
    r"blocks\.(\d+)\.res_blocks\.(\d+)\.branch1_norm\.(\w+)": r"layer{\1}.\2.downsample.1.\3",
    r"blocks\.\d+\.proj\.(\w+)": r"fc.\1",
} | {
    rf"blocks\.(\d+)\.res_blocks\.(\d+)\.branch2\.{theirs}_{letter}\.(\w+)": (
        rf"layer{{\1}}.\2.{ours}{n}.\3"
    )
    for n, letter in enumerate("abc", start=1)
    for theirs, ours in (("conv", "conv"), ("norm", "bn"))
}
"""pytorchvideo's names; `{b}` stands for the stage that block b is, for some nets have a pool in
between."""


def inflate(weight: Tensor, num_steps: int, *, centre: bool = False) -> Tensor:
    """A 2D kernel [O,I,h,w] as a 3D one [O,I,t,h,w], with the same answer where nothing moves.

    Repeated and divided by t, or, with `centre`, in the middle step alone. `deflate` gives the
    same weight back, bit for bit: the middle step takes what the division rounds away.
    """
    part = torch.zeros_like(weight) if centre else weight / num_steps
    inflated = part.unsqueeze(2).repeat(1, 1, num_steps, 1, 1)
    middle = weight.double() - (num_steps - 1) * part.double()
    inflated[:, :, num_steps // 2] = middle.to(weight.dtype)
    return inflated


def deflate(weight: Tensor) -> Tensor:
    """A 3D kernel [O,I,t,h,w] as a 2D one [O,I,h,w]: its sum over time.

    What the 3D kernel answers where nothing moves; at the borders in time, where it sees padding,
    it answers less. Summed in float64, so that only the end is rounded.
    """
    return weight.sum(2, dtype=torch.float64).to(weight.dtype)


def convert_weights(
    given: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    convert: Convert,
    replace_head: bool,
    source: str,
) -> dict[str, Tensor]:
    """A state dict of one dimension under the names and with the shapes of the other.

    Keys that ResNets do not share (a temporal module's) are in the result as they were given.

    Raises:
        UserError: the two are not ResNets of the same topology; with the first difference.
    """
    theirs, ours = common_names(given), common_names(wanted)
    shared = set(theirs.values())
    converted = {key: value for key, value in given.items() if key not in shared}
    if replace_head:
        theirs, ours = _without_head(theirs), _without_head(ours)
    _refuse_other_names(theirs, ours, convert, source)
    for name, key in ours.items():
        if name not in theirs:
            continue  # a counter of an old checkpoint
        value = _converted(given[theirs[name]], wanted[key], convert)
        if value.shape != wanted[key].shape:
            raise UserError(
                f"{source}: convert {convert} makes {name} {list(value.shape)}, the network has "
                f"{list(wanted[key].shape)}; the two must have the same depth, widths and kernels "
                "in space"
            )
        converted[key] = value
    return converted


def common_names(keys: Iterable[str]) -> dict[str, str]:
    """The name that ResNets share -> the key, for those keys that have one."""
    keys = list(keys)
    blocks = {int(match[1]) for key in keys if (match := re.search(r"blocks\.(\d+)\.res_", key))}
    stages = {str(block): str(n) for n, block in enumerate(sorted(blocks), start=1)}
    names = {}
    for key in keys:
        if (name := _common_name(key, stages)) is not None:
            names[name] = key
    return names


def _common_name(key: str, stages: Mapping[str, str]) -> str | None:
    bare = key.removeprefix("backbone.")
    if _COMMON.fullmatch(bare):
        return bare
    for pattern, name in _RESNET_3D.items():
        if match := re.fullmatch(pattern, key):
            return re.sub(r"\{(\d+)\}", lambda found: stages[found[1]], match.expand(name))
    return None


def _converted(value: Tensor, wanted: Tensor, convert: Convert) -> Tensor:
    if convert == "deflate":
        return deflate(value) if value.ndim == 5 else value
    if value.ndim == 4 and wanted.ndim == 5:
        return inflate(value, wanted.shape[2], centre=convert == "inflate_centre")
    return value


def _without_head(names: Mapping[str, str]) -> dict[str, str]:
    return {name: key for name, key in names.items() if not name.startswith("fc.")}


def _refuse_other_names(
    theirs: Mapping[str, str], ours: Mapping[str, str], convert: Convert, source: str
) -> None:
    if not theirs or not ours:
        which = "the checkpoint" if not theirs else "the network"
        raise UserError(
            f"{source}: convert {convert} knows ResNets by timm's and pytorchvideo's names, and "
            f"{which} is none of these; set convert: none"
        )
    counters = {name for name in (*theirs, *ours) if name.endswith("num_batches_tracked")}
    only = [name for name in (*ours, *theirs) if (name in ours) != (name in theirs)]
    only = [name for name in only if name not in counters]
    if only:
        there, absent = ("network", "checkpoint")
        if only[0] in theirs:
            there, absent = absent, there
        raise UserError(
            f"{source}: convert {convert}: {only[0]} is in the {there} and not in the {absent}; "
            "the two must be ResNets of the same topology"
        )
