"""What each network costs: counted, not published.

Millions of parameters, and multiply-adds (1e9) of one view of the entry's input, by
`videokd.bench.complexity` on the meta device. Kept as data, so that the list of networks needs
neither torch nor a minute; `tests/models/test_model_catalog.py` counts them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Cost(NamedTuple):
    """Of the network that is deployed: no taps, no projections."""

    params_m: float
    gmacs_per_view: float


# fmt: off
COSTS: Mapping[str, Cost] = MappingProxyType({
    "slow_r50_4x16": Cost(32.4541, 27.2621),
    "slow_r50_8x8": Cost(32.4541, 54.5208),
    "slowfast_r50_4x16": Cost(34.4802, 36.1020),
    "slowfast_r50_8x8": Cost(34.5665, 65.7117),
    "slowfast_r101_8x8": Cost(62.8270, 125.9083),
    "slowfast_r101_16x8": Cost(53.7748, 213.0240),
    "c2d_r50_8x8": Cost(24.3276, 25.4627),
    "i3d_r50_8x8": Cost(28.0435, 37.1061),
    "r2plus1d_r50_16x4": Cost(28.1076, 75.1484),
    "csn_r101_32x2": Cost(22.2138, 73.7566),
    "x3d_m": Cost(3.7943, 6.1857),
    "x3d_l": Cost(6.1534, 24.7776),
    "mvit_b_16x4": Cost(36.6107, 70.5994),
    "mvit_b_32x3": Cost(36.6114, 169.9581),
    "slow_r50_8x8_ssv2": Cost(31.9910, 54.5190),
    "slowfast_r50_8x8_ssv2": Cost(34.0456, 65.7096),
    "r3d_18": Cost(33.3715, 40.6966),
    "mc3_18": Cost(11.6954, 43.3426),
    "r2plus1d_18": Cost(31.5053, 40.5191),
    "s3d": Cost(8.3200, 143.8330),
    "swin3d_t": Cost(28.1581, 87.7642),
    "swin3d_s": Cost(49.8167, 165.6823),
    "swin3d_b": Cost(88.0490, 281.3328),
    "swin3d_b_22k": Cost(88.0490, 281.3328),
    "mvit_v1_b": Cost(36.6107, 70.5994),
    "mvit_v2_s": Cost(34.5377, 64.2238),
    "videomae_b": Cost(86.5348, 180.3449),
    "videomae_l": Cost(304.2707, 596.8331),
    "videomae_b_ssv2": Cost(86.3610, 180.3447),
    "timesformer_b_8x32": Cost(121.5664, 195.8303),
    "timesformer_hr_16x16": Cost(122.0241, 1702.6857),
    "vivit_b_16x2": Cost(88.9540, 451.5248),
    "vjepa2_l_ssv2": Cost(353.4000, 935.2429),
    "vjepa2_g_384_ssv2": Cost(1105.6681, 61169.3298),
    "x3d_xs": Cost(3.7943, 0.8439),
    "x3d_s": Cost(3.7943, 2.7270),
    "tsn_mobilenetv2": Cost(2.7363, 2.3965),
    "tsn_mobilenetv3_large": Cost(4.7144, 1.7230),
    "tsn_mobilenetv3_small": Cost(1.9279, 0.4443),
    "tsn_mobilenetv4_small": Cost(3.0054, 1.4783),
    "tsn_mobilenetv4_medium": Cost(8.9469, 6.6115),
    "tsn_efficientnet_lite0": Cost(3.8834, 3.0718),
    "tsn_lcnet": Cost(2.1852, 1.2359),
    "tsn_r18": Cost(11.3817, 14.5087),
    "tsn_r50": Cost(24.3276, 32.6979),
    "tsn_r50_mit": Cost(24.3276, 32.6979),
    "tsm_mobilenetv2": Cost(2.7363, 3.1299),
    "tsm_mobilenetv3_large": Cost(4.7144, 1.7230),
    "tsm_mobilenetv3_small": Cost(1.9279, 0.4443),
    "tsm_mobilenetv4_small": Cost(3.0054, 1.4783),
    "tsm_mobilenetv4_medium": Cost(8.9469, 6.6115),
    "tsm_efficientnet_lite0": Cost(3.8834, 3.0718),
    "tsm_lcnet": Cost(2.1852, 1.2359),
    "tsm_r18": Cost(11.3817, 14.5087),
    "tsm_r50": Cost(24.3276, 32.6979),
    "tsm_r50_16f": Cost(24.3276, 65.3950),
    "tsm_r50_dense": Cost(24.3276, 32.6979),
    "tsm_r50_ssv2": Cost(23.8646, 42.7068),
    "tsm_r50_16f_ssv2": Cost(23.8646, 85.4132),
    "tsm_r50_mit": Cost(24.3276, 32.6979),
    "tsm_r50_dense_mit": Cost(24.3276, 42.7072),
    "tsm_mobilenetv2_dense_mit": Cost(2.7363, 3.1299),
    "tsm_r50_ssv2_mit": Cost(23.8646, 42.7068),
    "tanet_mobilenetv2": Cost(2.8233, 2.4025),
    "tanet_mobilenetv3_large": Cost(4.8039, 1.7340),
    "tanet_mobilenetv3_small": Cost(1.9538, 0.4458),
    "tanet_mobilenetv4_small": Cost(3.1361, 1.4825),
    "tanet_mobilenetv4_medium": Cost(9.7935, 6.6286),
    "tanet_efficientnet_lite0": Cost(4.0364, 3.0782),
    "tanet_lcnet": Cost(2.2733, 1.2547),
    "tanet_r18": Cost(12.0807, 14.5327),
    "tanet_r50": Cost(25.5903, 42.7777),
    "depthwise_mobilenetv2": Cost(2.7386, 2.4017),
    "depthwise_r50": Cost(24.3670, 32.8328),
    "attention_mobilenetv2": Cost(9.3091, 2.4491),
    "attention_r50": Cost(41.1356, 32.8324),
    "gru_mobilenetv2": Cost(3.5079, 2.4055),
    "gru_r50": Cost(25.3818, 32.7113),
})
# fmt: on
"""Name of the entry -> its cost."""
