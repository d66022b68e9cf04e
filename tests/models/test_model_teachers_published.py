"""Our networks are the published ones: names, shapes and work, on the meta device."""

import pytest
import torch
from network_counts import multiply_adds, num_parameters, shapes_of
from pytorchvideo.models import hub
from pytorchvideo.models.slowfast import create_slowfast

from videokd.models.teachers import (
    C2DConfig,
    CSNConfig,
    I3DConfig,
    MViTConfig,
    R2Plus1DConfig,
    SlowConfig,
    SlowFastConfig,
    X3DConfig,
)
from videokd.models.zoo import create_network

R101 = (3, 4, 23, 3)
SIX_OF_23 = (3,) * 6 + (1,) * 17


def slowfast_r50_4x16():
    # It is in the table of PyTorchVideo's zoo, not in its hub.
    return create_slowfast(
        model_depth=50,
        slowfast_fusion_conv_kernel_size=(5, 1, 1),
        slowfast_fusion_conv_stride=(8, 1, 1),
        head_pool_kernel_sizes=((4, 7, 7), (32, 7, 7)),
    )


# Builder, our settings, T, test px, exact parameters, published G,
# how many multiply-adds it counts for an element that a norm puts out (fvcore: 5).
PUBLISHED = {
    "slowfast_r50_4x16": (
        slowfast_r50_4x16,
        (SlowFastConfig, {"alpha": 8, "fusion_frames": 5, "head_pool_px": 7}),
        (32, 256),
        34_480_216,
        (36.69, 5),
    ),
    "slowfast_r50_8x8": (
        hub.slowfast_r50,
        (SlowFastConfig, {"head_pool_px": 7}),
        (32, 256),
        34_566_488,
        (65.71, 0),
    ),
    "slowfast_r101_8x8": (
        hub.slowfast_r101,
        (SlowFastConfig, {"head_pool_px": 7, "fusion_frames": 5, "stage_depths": R101}),
        (32, 256),
        62_826_968,
        (127.20, 5),
    ),
    "slowfast_r101_16x8": (
        hub.slowfast_16x8_r101_50_50,
        (
            SlowFastConfig,
            {
                "head_pool_px": 7,
                "fusion_frames": 5,
                "stage_depths": R101,
                "slow_stage_frames": (1, 1, SIX_OF_23, 3),
                "fast_stage_frames": (3, 3, SIX_OF_23, 3),
            },
        ),
        (64, 256),
        53_774_808,
        (215.61, 5),
    ),
    "slow_r50": (hub.slow_r50, (SlowConfig, {"head_pool_px": 7}), (8, 256), 32_454_096, (54.52, 0)),
    "slow_r50_4x16": (
        hub.slow_r50,
        (SlowConfig, {"head_pool_px": 7}),
        (4, 256),
        32_454_096,
        (27.55, 5),
    ),
    "c2d_r50": (hub.c2d_r50, (C2DConfig, {"head_pool_px": 7}), (8, 256), 24_327_632, (25.89, 5)),
    "i3d_r50": (hub.i3d_r50, (I3DConfig, {"head_pool_px": 7}), (8, 256), 28_043_472, (37.53, 5)),
    "csn_r101": (
        hub.csn_r101,
        (CSNConfig, {"head_pool_px": 7}),
        (32, 256),
        22_213_776,
        (75.62, 5),
    ),
    "r2plus1d_r50": (
        hub.r2plus1d_r50,
        (R2Plus1DConfig, {"head_pool_px": 7}),
        (16, 256),
        28_107_600,
        (76.45, 5),
    ),
    "x3d_xs": (hub.x3d_xs, (X3DConfig, {"head_pool_px": 5}), (4, 182), 3_794_274, (0.91, 5)),
    "x3d_s": (hub.x3d_s, (X3DConfig, {"head_pool_px": 5}), (13, 182), 3_794_274, (2.96, 5)),
    "x3d_m": (hub.x3d_m, (X3DConfig, {"head_pool_px": 7}), (16, 256), 3_794_274, (6.72, 5)),
    "x3d_l": (
        hub.x3d_l,
        (X3DConfig, {"head_pool_px": 10, "depth_factor": 5.0}),
        (16, 356),
        6_153_384,
        (26.64, 5),
    ),
    "mvit_base_16x4": (hub.mvit_base_16x4, (MViTConfig, {}), (16, 224), 36_610_672, (70.80, 5)),
    "mvit_base_32x3": (hub.mvit_base_32x3, (MViTConfig, {}), (32, 224), 36_611_440, (170.37, 5)),
}


# Those that take seconds and add no block that others have not.
SLOW = ("slowfast_r101_8x8", "x3d_l", "mvit_base_32x3")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in PUBLISHED]
)
def test_names_shapes_and_work_are_pytorchvideos(name, spec_of):
    build, (config_type, settings), (num_frames, px), num_params, (published_g, per_norm) = (
        PUBLISHED[name]
    )
    with torch.device("cpu" if "mvit" in name else "meta"):  # its builder reads values
        theirs = build()
    with torch.device("meta"):
        ours = create_network(config_type(input=spec_of(num_frames, px), **settings), 400).network
    assert shapes_of(ours) == shapes_of(theirs)
    assert num_parameters(ours) == num_parameters(theirs) == num_params
    counted = multiply_adds(ours.eval(), (num_frames, px), per_norm)
    assert round(counted / 1e9, 2) == published_g
