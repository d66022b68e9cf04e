import pytest
import torch
from torch import nn

from videokd.config import parse_config
from videokd.errors import ConfigError
from videokd.models.teachers import MViTConfig
from videokd.models.zoo import create_network, create_video_model
from videokd.types import TapShape

MVIT = {"stage_depths": (1, 2, 1), "width": 16, "kv_stride_px": 4}


def test_mvit_taps_leave_the_class_token_out_and_keep_the_grid(spec_of):
    # 36 px are 9 cells, then 5, then 3.
    config = MViTConfig(input=spec_of(4, 36), **MVIT)
    model = create_video_model(config, num_classes=5, seed=0).eval()
    assert model.tap_shapes == {
        "stage1": TapShape(32, 2, 9, 9),
        "stage2": TapShape(64, 2, 5, 5),
        "stage3": TapShape(64, 2, 3, 3),
    }
    clips = torch.rand(2, 3, 4, 36, 36)
    out = model(clips, torch.tensor([[0.0, 2, 4, 6], [1, 2, 3, 4]]))
    network = model.network
    tokens = network.cls_positional_encoding(network.patch_embed((clips - model.mean) / model.std))
    thw = [2, 9, 9]
    expected = []
    for block in network.blocks:
        tokens, thw = block(tokens, thw)
        expected.append(tokens)
    assert thw == [2, 3, 3]
    for name, block, side in (("stage1", 0, 9), ("stage2", 2, 5), ("stage3", 3, 3)):
        features = out.taps[name].features
        for t, h, w in ((0, 0, 0), (1, 0, side - 1), (1, side - 1, 1)):
            token = expected[block][:, 1 + (t * side + h) * side + w]
            torch.testing.assert_close(features[:, :, t, h, w], token, rtol=0, atol=1e-6)
        assert out.taps[name].step_seconds.tolist() == [[1.0, 5.0], [1.5, 3.5]]
    torch.testing.assert_close(out.pooled, network.norm_embed(expected[-1])[:, 0])


def test_stochastic_depth_of_mvit_rises_from_block_to_block(spec_of):
    config = MViTConfig(input=spec_of(4, 32), **MVIT, drop_path=0.3)
    network = create_network(config, 5).network
    assert isinstance(network.blocks[0].drop_path, nn.Identity)
    shares = [block.drop_path.drop_prob for block in network.blocks[1:]]
    assert shares == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("size", "change", "message"),
    [
        ((3, 32), {}, "frames divide by 2 .* not 3 frames of 32 px"),
        ((4, 30), {}, "side divides by 4, not 4 frames of 30 px"),
        ((4, 32), {"num_heads": 5}, "num_heads 5 does not divide width 96"),
        ((4, 32), {"stage_depths": [1, 0]}, r"stage_depths \[1, 0\]: numbers above 0"),
        ((4, 32), {"head_pool_px": 7}, "unknown key 'head_pool_px'"),
    ],
)
def test_mvit_settings_that_cannot_be(size, change, message, spec_of):
    data = {"input": spec_of(*size).model_dump(mode="json"), **change}
    with pytest.raises(ConfigError, match=message):
        parse_config(MViTConfig, data, source="recipe")
