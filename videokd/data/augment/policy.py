"""Everything that chance does to a training clip: the settings, and the draw of what the device
does. Where a clip is cut and whether it is mirrored is drawn with its frames (`geometry`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from videokd.config import Config
from videokd.data.augment.appearance import (
    ColourConfig,
    EraseConfig,
    RandAugmentConfig,
    draw_colour,
    draw_erase,
    draw_rand_augment,
)
from videokd.data.augment.geometry import CropConfig, FlipConfig, RandomResizedCrop
from videokd.data.augment.mixing import MixConfig
from videokd.types import Draw

_COLOUR_KEY, _RAND_AUGMENT_KEY, _ERASE_KEY = 1, 2, 3


class AugmentConfig(Config):
    """What chance does to a training clip, the same for all its frames and all renderings.

    In this order: crop and mirror (with the decoder), colour, RandAugment, erasing, mixing (on the
    device).
    """

    crop: CropConfig = RandomResizedCrop()
    """The rectangle that is cut out: random_resized, random, or centre."""
    flip: FlipConfig = FlipConfig()
    """Mirroring, off unless its probability is set."""
    colour: ColourConfig = ColourConfig()
    """Brightness, contrast, saturation, hue; off unless set."""
    rand_augment: RandAugmentConfig | None = None
    """A few random operations on colours and places; null: none."""
    erase: EraseConfig = EraseConfig()
    """A rectangle painted over, off unless its probability is set."""
    mix: MixConfig = MixConfig()
    """Mixup and cutmix, off unless one of their alphas is set."""


def with_appearance(draw: Draw, config: AugmentConfig) -> Draw:
    """The draw with its `appearance` and `erase`.

    Each comes from a generator of its own, seeded by the draw's entropy and a key, so that
    switching one on moves nothing else.
    """

    def generator(key: int) -> np.random.Generator:
        return np.random.default_rng((*draw.entropy, key))

    appearance = draw_colour(config.colour, generator(_COLOUR_KEY))
    if config.rand_augment is not None:
        appearance += draw_rand_augment(config.rand_augment, generator(_RAND_AUGMENT_KEY))
    return replace(
        draw, appearance=appearance, erase=draw_erase(config.erase, generator(_ERASE_KEY))
    )
