"""How published checkpoints name their tensors, and what those are called in our networks.

A layout has families, one for each way in which its authors name a kind of network. A family is
recognised by one key (`mark`), and its rules are tried in order: the first whose pattern is a whole
key gives the new name. A key that no rule knows keeps its name and ends as unexpected.

Read off the published code: mmaction2 1.2 (`ConvModule` holds `conv` and `bn`; `backbone` and
`cls_head` hold all) and MIT's temporal-shift-module (torchvision's names under `base_model`). Both
wrap what follows a temporal shift in a module `net`, so the keys say which blocks are shifted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

Rule = tuple[str, str]
"""A pattern of whole keys, and the new name with its groups. `{classifier}` in a new name is the
path of the network's classifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One way to name a kind of network."""

    mark: str
    """A pattern that only its keys match."""
    rules: tuple[Rule, ...] = ()
    """None: the names are those of our network, as they are."""
    shifts: tuple[Rule, ...] = ()
    """Keys of blocks behind a temporal shift, and the name of the block here."""
    left_out: str | None = None
    """Keys of what is no weight: index tables that the network makes itself."""


_NUM_BLOCKS_OF_MOBILENET_V2 = (1, 2, 3, 4, 3, 3, 1)
_MOBILENET_V2_CONVS = {True: ("pw", "dw", "pwl"), False: ("dw", "pw")}
"""timm's names of a block's convolutions, by whether it expands first; the first block does not."""


def _mmaction2_resnet() -> Family:
    block = r"backbone\.(layer\d\.\d+)\.(?:block\.)?"  # TANet holds each block as `block`
    return Family(
        mark=r"backbone\.layer1\.0\.(block\.)?conv1\.conv\.(net\.)?weight",
        rules=(
            (r"backbone\.conv1\.conv\.(\w+)", r"backbone.conv1.\1"),
            (r"backbone\.conv1\.bn\.(\w+)", r"backbone.bn1.\1"),
            (rf"{block}conv1\.conv\.net\.(\w+)", r"backbone.\1.conv1.\2"),
            (rf"{block}conv(\d)\.conv\.(\w+)", r"backbone.\1.conv\2.\3"),
            (rf"{block}conv(\d)\.bn\.(\w+)", r"backbone.\1.bn\2.\3"),
            (rf"{block}downsample\.conv\.(\w+)", r"backbone.\1.downsample.0.\2"),
            (rf"{block}downsample\.bn\.(\w+)", r"backbone.\1.downsample.1.\2"),
            (r"backbone\.(layer\d\.\d+)\.tam\.G\.(.+)", r"backbone.\1.tam.kernel.\2"),
            (r"backbone\.(layer\d\.\d+)\.tam\.L\.(.+)", r"backbone.\1.tam.importance.\2"),
            (r"cls_head\.fc_cls\.(\w+)", r"{classifier}.\1"),
        ),
        shifts=((r"backbone\.(layer\d\.\d+)\.conv1\.conv\.net\.weight", r"backbone.\1"),),
    )


def _mmaction2_mobilenet_v2() -> Family:
    rules: list[Rule] = [
        (r"backbone\.conv1\.conv\.(\w+)", r"backbone.conv_stem.\1"),
        (r"backbone\.conv1\.bn\.(\w+)", r"backbone.bn1.\1"),
        (r"backbone\.conv2\.conv\.(\w+)", r"backbone.conv_head.\1"),
        (r"backbone\.conv2\.bn\.(\w+)", r"backbone.bn2.\1"),
        (r"cls_head\.fc_cls\.(\w+)", r"{classifier}.\1"),
    ]
    shifts: list[Rule] = []
    for stage in range(len(_NUM_BLOCKS_OF_MOBILENET_V2)):
        for position, conv in enumerate(_MOBILENET_V2_CONVS[stage > 0]):
            there = rf"backbone\.layer{stage + 1}\.(\d)\.conv\.{position}\.(?:net\.)?"
            here = rf"backbone.blocks.{stage}.\1"
            rules.append((rf"{there}conv\.(\w+)", rf"{here}.conv_{conv}.\2"))
            rules.append((rf"{there}bn\.(\w+)", rf"{here}.bn{position + 1}.\2"))
        shifts.append(
            (
                rf"backbone\.layer{stage + 1}\.(\d)\.conv\.0\.net\.conv\.weight",
                rf"backbone.blocks.{stage}.\1",
            )
        )
    return Family(
        mark=r"backbone\.layer1\.0\.conv\.0\.conv\.weight",
        rules=tuple(rules),
        shifts=tuple(shifts),
    )


def _mmaction2_swin() -> Family:
    # timm 0.6, with which they were trained, counted a stage's downsampling to the stage before.
    stages = r"backbone\.layers\."
    return Family(
        mark=r"backbone\.layers\.0\.downsample\.reduction\.weight",
        rules=(
            *(
                (rf"{stages}{n}\.downsample\.(.+)", rf"backbone.layers.{n + 1}.downsample.\1")
                for n in range(3)
            ),
            (r"cls_head\.fc_cls\.(\w+)", r"{classifier}.\1"),
        ),
        left_out=r".+\.(attn_mask|relative_position_index)",
    )


def _mmaction2_other() -> Family:
    """Backbones that mmaction2 takes from torchvision or timm, under their own names."""
    return Family(
        mark=r"cls_head\.fc_cls\.weight",
        rules=((r"cls_head\.fc_cls\.(\w+)", r"{classifier}.\1"),),
    )


_MIT = r"(?:module\.)?base_model\."
_MIT_HEAD: tuple[Rule, ...] = (
    (r"(?:module\.)?new_fc\.(\w+)", r"{classifier}.\1"),
    (rf"{_MIT}(?:fc|classifier)\.(\w+)", r"{classifier}.\1"),  # trained without dropout
)


def _mit_resnet() -> Family:
    ours = r"(?:conv1|bn1|layer\d\.\d+\.(?:conv\d|bn\d|downsample\.\d))\.\w+"
    return Family(
        mark=rf"{_MIT}layer1\.0\.conv1\.(net\.)?weight",
        rules=(
            *_MIT_HEAD,
            (rf"{_MIT}(layer\d\.\d+)\.conv1\.net\.(\w+)", r"backbone.\1.conv1.\2"),
            (rf"{_MIT}({ours})", r"backbone.\1"),
        ),
        shifts=((rf"{_MIT}(layer\d\.\d+)\.conv1\.net\.weight", r"backbone.\1"),),
    )


def _mit_mobilenet_v2() -> Family:
    # `features` is one row of stem, 17 blocks and head; a block one row of conv, norm, activation.
    rules: list[Rule] = [
        *_MIT_HEAD,
        (rf"{_MIT}features\.0\.0\.(\w+)", r"backbone.conv_stem.\1"),
        (rf"{_MIT}features\.0\.1\.(\w+)", r"backbone.bn1.\1"),
        (rf"{_MIT}features\.18\.0\.(\w+)", r"backbone.conv_head.\1"),
        (rf"{_MIT}features\.18\.1\.(\w+)", r"backbone.bn2.\1"),
    ]
    shifts: list[Rule] = []
    places = [(s, b) for s, num in enumerate(_NUM_BLOCKS_OF_MOBILENET_V2) for b in range(num)]
    for feature, (stage, block) in enumerate(places, start=1):
        here = f"backbone.blocks.{stage}.{block}"
        there = rf"{_MIT}features\.{feature}\.conv"
        for position, conv in enumerate(_MOBILENET_V2_CONVS[stage > 0]):
            net = r"(?:net\.)?" if position == 0 else ""
            rules.append((rf"{there}\.{3 * position}\.{net}(\w+)", rf"{here}.conv_{conv}.\1"))
            rules.append((rf"{there}\.{3 * position + 1}\.(\w+)", rf"{here}.bn{position + 1}.\1"))
        shifts.append((rf"{there}\.0\.net\.weight", here))
    return Family(mark=rf"{_MIT}features\.0\.0\.weight", rules=tuple(rules), shifts=tuple(shifts))


FAMILIES: Mapping[str, tuple[Family, ...]] = MappingProxyType(
    {
        "mmaction2": (
            _mmaction2_resnet(),
            _mmaction2_mobilenet_v2(),
            _mmaction2_swin(),
            _mmaction2_other(),
        ),
        "mit_tsm": (_mit_resnet(), _mit_mobilenet_v2()),
        # What the installed transformers renamed is known where its networks are made.
        "huggingface": (Family(mark=r"(videomae|timesformer|vivit|vjepa2)\..+"),),
        # Our networks of these kinds have the published names.
        "pytorchvideo": (
            Family(mark=r"blocks\.\d+\.(conv|multipathway_blocks|res_blocks|norm1|attn)\..+"),
            Family(mark=r"patch_embed\.patch_model\.weight"),
        ),
        "torchvision": (
            Family(mark=r"stem\.0\.weight"),  # r3d_18, mc3_18, r2plus1d_18
            Family(mark=r"features\.0\.0\.0\.weight"),  # s3d
            Family(mark=r"features\.0\.0\.attn\.qkv\.weight"),  # swin3d
            Family(mark=r"conv_proj\.weight"),  # mvit
        ),
        "timm": (Family(mark=r"(conv_stem|conv1|stem\.\w+|patch_embed\.proj)\..*weight"),),
    }
)
"""Layout -> its families, the first that matches taken."""
