import copy

import pytest
import timm
import torch
from lightning_fabric import Fabric
from torch import nn

from videokd.config import parse_config
from videokd.errors import ConfigError, UserError
from videokd.models.students import TimmVideoConfig, place_temporal
from videokd.models.students import backbone as students_backbone
from videokd.models.temporal import (
    AttentionPoolConfig,
    DepthwiseConfig,
    NoTemporalConfig,
    ShiftConfig,
    TamConfig,
    TemporalAdaptive,
    TemporalShift,
)
from videokd.models.video_model import Tap
from videokd.models.zoo import create_video_model
from videokd.types import TapShape

SHIFT = ShiftConfig()
ATTENTION = AttentionPoolConfig(num_heads=2)
BOTH = AttentionPoolConfig(num_heads=2, shift_div=8)


@pytest.fixture
def student(spec_of):
    """A student on 5 frames of 32 px in eval mode, its zero-initialised parts drawn too."""

    def make(temporal, backbone="mobilenetv2_035", **settings):
        config = TimmVideoConfig(
            input=spec_of(5, 32), backbone=backbone, temporal=temporal, **settings
        )
        model = create_video_model(config, num_classes=7, seed=0).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.network.pool.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
        return model

    return make


@pytest.mark.parametrize("temporal", [NoTemporalConfig(), SHIFT, ATTENTION, BOTH])
@pytest.mark.parametrize("num_clips", [1, 3])
def test_shapes_of_each_temporal_module(student, temporal, num_clips):
    model = student(temporal)
    seconds = torch.rand(num_clips, 5).cumsum(1)
    out = model(torch.rand(num_clips, 3, 5, 32, 32), seconds)
    assert out.logits.shape == (num_clips, 7)
    assert out.pooled.shape == (num_clips, model.pooled_dim) == (num_clips, 1280)
    assert list(out.taps) == ["stage1", "stage2", "stage3", "stage4", "stage5"]
    assert model.tap_shapes["stage1"] == TapShape(8, 5, 16, 16)
    assert model.tap_shapes["stage5"] == TapShape(112, 5, 1, 1)
    for name, tap in out.taps.items():
        assert tap.features.shape == (num_clips, *model.tap_shapes[name])
        assert torch.equal(tap.step_seconds, seconds)
    if temporal.kind == "attention_pool":
        torch.testing.assert_close(out.attention.sum(1), torch.ones(num_clips))
        assert torch.equal(out.attention_seconds, seconds)
    else:
        assert out.attention is None


def test_without_time_the_logits_are_the_mean_of_the_frames(student):
    model = student(NoTemporalConfig())
    clips = torch.rand(2, 3, 5, 32, 32)
    frames = ((clips - model.mean) / model.std).transpose(1, 2).flatten(0, 1)
    by_frame = model.network.backbone(frames).unflatten(0, (2, 5)).mean(1)
    torch.testing.assert_close(model(clips).logits, by_frame)


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv2_035"])
def test_shift_is_the_published_residual_placement(student, backbone):
    class ShiftedConv(nn.Module):
        """What the TSM paper's code puts in the place of a branch's first convolution."""

        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, frames):
            clips = frames.unflatten(0, (-1, 5))
            part = frames.shape[1] // 8
            moved = torch.zeros_like(clips)
            moved[:, :-1, :part] = clips[:, 1:, :part]
            moved[:, 1:, part : 2 * part] = clips[:, :-1, part : 2 * part]
            moved[:, :, 2 * part :] = clips[:, :, 2 * part :]
            return self.conv(moved.flatten(0, 1))

    plain, shifted = student(NoTemporalConfig(), backbone), student(SHIFT, backbone)
    # The names of the weights are timm's, whatever the temporal module.
    assert list(plain.state_dict()) == list(shifted.state_dict())
    num_wrapped = 0
    for block in list(plain.network.backbone.modules()):
        entrance = {"BasicBlock": "conv1", "InvertedResidual": "conv_pw"}.get(type(block).__name__)
        if entrance and getattr(block, "has_skip", True):
            setattr(block, entrance, ShiftedConv(getattr(block, entrance)))
            num_wrapped += 1
    assert num_wrapped == {"resnet10t": 4, "mobilenetv2_035": 10}[backbone]
    clips = torch.rand(2, 3, 5, 32, 32)
    torch.testing.assert_close(plain(clips).logits, shifted(clips).logits)


@pytest.mark.parametrize("temporal", [NoTemporalConfig(), SHIFT, ATTENTION])
def test_only_a_temporal_module_knows_the_order_of_the_frames(student, temporal):
    model = student(temporal)
    clips = torch.rand(2, 3, 5, 32, 32)
    there, back = model(clips).logits, model(clips.flip(2)).logits
    same = torch.allclose(there, back, rtol=1e-4, atol=1e-5)
    assert same == (temporal.kind == "none")


def test_a_copy_shifts_with_its_own_weights(student):
    model = student(SHIFT)
    clips = torch.rand(2, 3, 5, 32, 32)
    before = model(clips)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(clips).logits, before.logits)
    assert twin(clips).logits.abs().max() == 0


def shifted_paths(backbone, **kwargs):
    """Paths of the blocks that hold a shift of 3 frames."""
    with torch.device("meta"):
        network = timm.create_model(backbone, **kwargs)
    num_placed = place_temporal(network, SHIFT, num_frames=3, name=backbone)
    shifts = {path: m for path, m in network.named_modules() if isinstance(m, TemporalShift)}
    assert len(shifts) == num_placed
    assert {shift.num_frames for shift in shifts.values()} == {3}
    return [path.removesuffix(".temporal_shift") for path in shifts]


def test_deep_resnets_shift_every_second_block():
    """As TSM's code does from 23 blocks in the third stage on: ResNet-101."""
    paths = shifted_paths("resnet101")
    assert [len([p for p in paths if p.startswith(f"layer{n}.")]) for n in (1, 2, 3, 4)] == [
        2,
        2,
        12,
        2,
    ]
    assert all(int(path.split(".")[1]) % 2 == 0 for path in paths)
    assert len(shifted_paths("resnet101", layers=[3, 4, 22, 3])) == 32


@pytest.mark.parametrize(
    ("backbone", "paths"),
    [
        ("lcnet_050", ["blocks.1.0", "blocks.2.0", "blocks.3.0", "blocks.5.0"]),
        ("mobilenetv1_100", ["blocks.1.0", "blocks.2.0", "blocks.3.0", "blocks.4.0"]),
        ("lcnetv2_base", ["stages.0.0", "stages.1.0", "stages.2.0", "stages.3.0"]),
    ],
)
def test_without_residual_branches_the_stages_are_shifted_in_place(backbone, paths):
    if not timm.is_model(backbone):
        pytest.skip(f"timm {timm.__version__} has no {backbone}")
    assert shifted_paths(backbone) == paths


def test_an_lcnet_block_sees_shifted_frames(student):
    model = student(SHIFT, "lcnet_050")
    block = model.network.backbone.blocks[2][0]
    seen = []
    block.temporal_shift.register_forward_hook(lambda m, args, output: seen.append(output))
    block.conv_dw.register_forward_hook(lambda m, args, output: seen.append(args[0]))
    model(torch.rand(2, 3, 5, 32, 32))
    assert seen[0] is seen[1]  # all of the block: it has no way round the shift


@pytest.mark.parametrize("backbone", ["resnet26t", "regnetx_002", "resnet10t"])
def test_tam_stands_after_the_first_convolution(student, backbone):
    model = student(TamConfig(), backbone)
    blocks = [block for block in model.modules() if hasattr(block, "tam")]
    assert len(blocks) == sum(isinstance(m, TemporalAdaptive) for m in model.modules())
    for block in blocks:
        seen = {}
        first = block.conv1 if backbone == "regnetx_002" else block.act1
        for name, module in {"first": first, "tam": block.tam, "second": block.conv2}.items():
            module.register_forward_hook(
                lambda m, args, output, name=name, seen=seen: seen.update({name: (args[0], output)})
            )
        block.seen = seen
    model(torch.rand(2, 3, 5, 32, 32))
    for block in blocks:
        assert list(block.seen) == ["first", "tam", "second"]
        assert block.seen["first"][1] is block.seen["tam"][0]
        assert block.seen["tam"][1] is block.seen["second"][0]


def test_tam_stands_where_an_inverted_residual_is_narrow(student):
    model = student(TamConfig())
    blocks = [block for block in model.modules() if hasattr(block, "tam")]
    widths = [(block.tam.importance[3].out_channels, block.conv_pw.in_channels) for block in blocks]
    assert widths == [(width, width) for width in (8, 16, 16, 24, 24, 24, 32, 32, 56, 56)]


def test_an_unknown_residual_block_is_refused():
    class Strange(nn.Module):
        has_skip = True

    backbone = timm.create_model("mobilenetv2_035")
    backbone.blocks.append(Strange())
    with pytest.raises(ConfigError, match="does not know the residual block Strange"):
        place_temporal(backbone, SHIFT, num_frames=3, name="mobilenetv2_035")


def test_a_backbone_too_narrow_for_the_shift_is_refused(spec_of):
    config = TimmVideoConfig(
        input=spec_of(3, 32), backbone="mobilenetv2_035", temporal=ShiftConfig(shift_div=64)
    )
    with pytest.raises(ConfigError, match=r"moves one channel in 64, and a block .* has only 8"):
        create_video_model(config, num_classes=4)


@pytest.mark.parametrize(
    ("backbone", "params_m"), [("resnet50", 24.33), ("mobilenetv2_100", 2.736)]
)
def test_tsm_students_have_the_published_size(spec_of, backbone, params_m):
    config = TimmVideoConfig(input=spec_of(8, 224), backbone=backbone, temporal=SHIFT)
    with torch.device("meta"):
        model = create_video_model(config, num_classes=400)
    digits = len(str(params_m).split(".")[1])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, digits) == params_m


def test_a_vision_transformer_has_token_taps(spec_of):
    config = TimmVideoConfig(
        input=spec_of(3, 32),
        backbone="vit_tiny_patch16_224",
        backbone_kwargs={"img_size": 32, "depth": 2},
    )
    model = create_video_model(config, num_classes=4, seed=0).eval()
    assert model.tap_shapes == dict.fromkeys(("stage1", "stage2"), TapShape(192, 3, 2, 2))
    out = model(torch.rand(2, 3, 3, 32, 32))
    tokens = model.network.backbone.norm(out.taps["stage2"].features.permute(0, 2, 3, 4, 1))
    assert tokens.shape == (2, 3, 2, 2, 192)
    assert out.logits.shape == (2, 4)


def test_taps_are_the_configs_the_familys_or_none(spec_of):
    tap = Tap(name="deep", module="backbone.blocks.5", layout="NTCHW_flat")
    config = TimmVideoConfig(input=spec_of(2, 32), backbone="mobilenetv2_035", taps=(tap,))
    assert set(create_video_model(config, num_classes=4).tap_shapes) == {"deep"}
    assert create_video_model(config, num_classes=4, taps=()).tap_shapes == {}
    bare = config.model_copy(update={"taps": ()})
    assert len(create_video_model(bare, num_classes=4).tap_shapes) == 5


def test_weights_come_from_the_seed_and_leave_the_generator_alone(spec_of):
    config = TimmVideoConfig(input=spec_of(2, 32), backbone="mobilenetv2_035", temporal=BOTH)
    state = torch.get_rng_state()
    first, again = (create_video_model(config, num_classes=4, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    other = create_video_model(config, num_classes=4, seed=4)
    stem = "network.backbone.conv_stem.weight"
    assert all(torch.equal(first.state_dict()[k], v) for k, v in again.state_dict().items())
    assert not torch.equal(first.state_dict()[stem], other.state_dict()[stem])


def test_training_under_autocast_reaches_every_weight(student):
    model = student(BOTH, dropout=0.2, drop_path=0.1).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.rand(2, 3, 5, 32, 32))
    loss = out.logits.float().square().sum() + out.attention.square().sum()
    (loss + sum(tap.features.float().square().mean() for tap in out.taps.values())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_dropout_and_drop_path_act_in_training_only(student):
    model = student(SHIFT, dropout=0.5, drop_path=0.5)
    clips = torch.rand(2, 3, 5, 32, 32)
    assert torch.equal(model(clips).logits, model(clips).logits)
    for module in model.modules():
        module.training = isinstance(module, nn.Dropout)
    assert not torch.equal(model(clips).pooled, model(clips).pooled)
    for module in model.modules():
        module.training = type(module).__name__ == "DropPath"
    assert not torch.equal(model(clips).pooled, model(clips).pooled)


def test_fabric_wraps_a_model_and_its_output(student):
    fabric = Fabric(accelerator="cpu", devices=1)
    model = student(ATTENTION)
    wrapped = fabric.setup(model)
    clips = torch.rand(2, 3, 5, 32, 32)
    out = wrapped(clips)
    assert torch.equal(out.logits, model(clips).logits)
    assert out.taps["stage2"].features.shape == (2, *model.tap_shapes["stage2"])
    fabric.backward(out.logits.sum())


def test_distributed_data_parallel_wraps_a_model(student, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = student(SHIFT).train()
        wrapped = nn.parallel.DistributedDataParallel(model)
        wrapped(torch.rand(2, 3, 5, 32, 32)).logits.sum().backward()
        assert model.network.backbone.conv_stem.weight.grad.abs().sum() > 0
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "mobilenetv2_10"}, r"'mobilenetv2_10' is not one .* did you mean 'mobile"),
        ({"backbone": "hf-hub:me/mine"}, r"'hf-hub:me/mine' is not one that timm"),
        ({"backbone": "qqqqqq"}, r"'qqqqqq' is not one .*; timm\.list_models\(\) lists all"),
        ({"backbone_kwargs": {"widht": 2}}, r"backbone_kwargs \{'widht': 2\} do not suit .*widht"),
        ({"backbone": "resnet18.nowhere"}, r"cannot create 'resnet18\.nowhere' with \{\}"),
        (
            {"backbone": "resnet18", "backbone_kwargs": {"channels": [8, 8], "layers": [1, 1]}},
            r"does not take clips of 3x32x32 .*: 'ResNet' object has no attribute 'layer3'",
        ),
        ({"backbone": "repvit_m0_9"}, r"'repvit_m0_9' does not end in one linear classifier"),
    ],
)
def test_backbones_that_cannot_be(spec_of, change, message):
    settings = {"input": spec_of(3, 32), "backbone": "mobilenetv2_035"} | change
    config = TimmVideoConfig(**settings)
    with pytest.raises(ConfigError, match=message):
        create_video_model(config, num_classes=4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 3}, "'num_classes' is not set here but by the class names"),
        ({"drop_rate": 0.1}, "'drop_rate' is not set here but by dropout"),
        ({"checkpoint_path": "x.pth"}, "'checkpoint_path' is not set here but by init"),
    ],
)
def test_arguments_that_have_settings_of_their_own(spec_of, kwargs, message):
    data = {
        "kind": "timm",
        "input": spec_of(3, 32).model_dump(mode="json"),
        "backbone": "resnet18",
        "backbone_kwargs": kwargs,
    }
    with pytest.raises(ConfigError, match=message):
        parse_config(TimmVideoConfig, data, source="recipe")


def test_image_weights_that_do_not_arrive(spec_of, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("huggingface.co cannot be reached\nlong story")

    monkeypatch.setattr(students_backbone.timm, "create_model", unreachable)
    config = TimmVideoConfig(input=spec_of(3, 32), backbone="resnet18", pretrained=True)
    with pytest.raises(UserError, match=r"^ImageNet weights of 'resnet18' .*reached\); set pretra"):
        create_video_model(config, num_classes=4)


@pytest.mark.slow
@pytest.mark.parametrize("temporal", [SHIFT, DepthwiseConfig(), TamConfig()])
def test_compiled_student_equals_eager(spec_of, temporal):
    """Inductor once left the borders of a shift unset: whole networks gave NaN."""
    config = TimmVideoConfig(
        backbone="mobilenetv2_050",
        temporal=temporal,
        input=spec_of(4, 32),
    )
    model = create_video_model(config, num_classes=5, seed=0).without_taps().eval()
    clips = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        eager = model(clips).logits
        compiled = torch.compile(model)(clips).logits
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)
