"""What chance does to a training clip: geometry in the worker, the rest on the device.

`geometry` cuts and mirrors, `appearance` and `operations` change colours and places, `mixing` mixes
two clips and their labels, `policy` has the settings of all of it, and `device` (not imported here:
it stands on `clips`) is what the training loop calls.
"""

from videokd.data.augment.appearance import (
    ColourConfig,
    EraseConfig,
    RandAugmentConfig,
    apply_appearance,
    apply_erase,
    draw_colour,
    draw_erase,
    draw_rand_augment,
)
from videokd.data.augment.geometry import (
    CentreCrop,
    CropConfig,
    FlipConfig,
    Frames,
    RandomCrop,
    RandomResizedCrop,
    draw_crop,
    eval_crops,
    flip_targets,
    render,
    source_rectangle,
    swap_indices,
)
from videokd.data.augment.mixing import (
    MixConfig,
    apply_mix,
    check_mixing,
    draw_mix,
    mix_labels,
    partner_position,
    with_partners,
)
from videokd.data.augment.policy import AugmentConfig, with_appearance

__all__ = [
    "AugmentConfig",
    "CentreCrop",
    "ColourConfig",
    "CropConfig",
    "EraseConfig",
    "FlipConfig",
    "Frames",
    "MixConfig",
    "RandAugmentConfig",
    "RandomCrop",
    "RandomResizedCrop",
    "apply_appearance",
    "apply_erase",
    "apply_mix",
    "check_mixing",
    "draw_colour",
    "draw_crop",
    "draw_erase",
    "draw_mix",
    "draw_rand_augment",
    "eval_crops",
    "flip_targets",
    "mix_labels",
    "partner_position",
    "render",
    "source_rectangle",
    "swap_indices",
    "with_appearance",
    "with_partners",
]
