"""Every temporal module in every family of backbone: shapes on meta, a few for real."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videokd.errors import ConfigError
from videokd.models.students import TimmVideoConfig, create_timm_video
from videokd.models.temporal import (
    AttentionPoolConfig,
    BranchModule,
    DepthwiseConfig,
    GruConfig,
    NoTemporalConfig,
    ShiftConfig,
    TamConfig,
    TemporalAdaptive,
    TemporalDepthwise,
)
from videokd.models.video_model import VideoModel

NUM_CLASSES = 7
NUM_FRAMES = 5
IN_BRANCHES = [ShiftConfig(), DepthwiseConfig(), TamConfig()]
ALL = [NoTemporalConfig(), *IN_BRANCHES, AttentionPoolConfig(), GruConfig(hidden_dim=12)]
# Backbone -> how many shifts (and depthwise filters), how many TAMs; all at the published places.
BACKBONES = {
    "mobilenetv2_100": (10, 10),
    "mobilenetv3_large_100": (10, 10),
    "mobilenetv3_small_100": (6, 6),
    "mobilenetv4_conv_small": (10, 10),
    "mobilenetv4_conv_medium": (18, 18),
    "mobilenetv4_hybrid_medium": (27, 27),
    "efficientnet_lite0": (9, 9),
    "tf_efficientnetv2_b0": (15, 15),
    "lcnet_100": (4, 4),
    "resnet18": (8, 8),
    "resnet50": (16, 16),
    "resnet101": (18, 33),
    "regnety_002": (13, 13),
    "convnext_atto": (12, 12),
}
DEEP = ("mobilenetv4_hybrid_medium", "tf_efficientnetv2_b0", "resnet101")
TINY = {  # families of block, small enough to run
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16], "zero_init_last": False},
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "zero_init_last": False},
    "mobilenetv2_035": {},
    "lcnet_050": {},
}


@pytest.fixture
def student(spec_of):
    """A student in eval mode with weights and statistics drawn, on 5 frames of 32 px."""

    def make(backbone, temporal, **settings):
        config = TimmVideoConfig(
            input=spec_of(NUM_FRAMES, 32),
            backbone=backbone,
            backbone_kwargs=TINY[backbone],
            temporal=temporal,
            **settings,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = create_timm_video(config, NUM_CLASSES)
            for module in parts.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    nn.init.uniform_(module.weight, 0.8, 1.2)
                    nn.init.normal_(module.bias, std=0.3)
                    module.momentum = None  # statistics of one batch: signals neither die nor grow
            for parameter in parts.network.pool.parameters():
                nn.init.normal_(parameter, std=0.3)
            with torch.no_grad():
                parts.network.train()(clips_of(4, seed=1))
        return parts.network.eval()

    return make


def clips_of(num_clips, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_clips, 3, NUM_FRAMES, 32, 32, generator=generator)


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in BACKBONES],
)
def test_every_module_fits_every_family(spec_of, backbone):
    names, dims = {}, {}
    for temporal in ALL:
        spec = spec_of(NUM_FRAMES, 64)
        config = TimmVideoConfig(input=spec, backbone=backbone, temporal=temporal)
        with torch.device("meta"):
            parts = create_timm_video(config, NUM_CLASSES)
            logits = parts.network.eval()(torch.zeros(2, 3, NUM_FRAMES, 64, 64))
        assert logits.shape == (2, NUM_CLASSES)
        assert (parts.attention is not None) == (temporal.kind == "attention_pool")
        num_modules = sum(isinstance(m, BranchModule) for m in parts.network.modules())
        num_shifts, num_tams = BACKBONES[backbone]
        expected = {"shift": num_shifts, "depthwise": num_shifts, "tam": num_tams}
        assert num_modules == expected.get(temporal.kind, 0)
        names[temporal.kind] = parts.network.state_dict().keys()
        dims[temporal.kind] = parts.network.get_submodule(parts.classifier).in_features
    # The names of the 2D network's weights are timm's, whatever stands in its branches.
    assert names["shift"] == names["none"]
    for kind, child in {"depthwise": "temporal_conv", "tam": "tam", "gru": "pool"}.items():
        assert names["none"] < names[kind]
        assert all(f"{child}." in name for name in names[kind] - names["none"])
    assert dims.pop("gru") == 12
    assert len(set(dims.values())) == 1


@pytest.mark.parametrize("backbone", ["mobilenetv4_hybrid_medium", "lcnet_100", "resnet50"])
def test_taps_and_classifier_are_as_declared(spec_of, backbone):
    spec = spec_of(NUM_FRAMES, 64)
    for temporal in (TamConfig(), GruConfig(hidden_dim=12)):
        config = TimmVideoConfig(input=spec, backbone=backbone, temporal=temporal)
        with torch.device("meta"):
            parts = create_timm_video(config, NUM_CLASSES)
            model = VideoModel(
                parts.network,
                spec=spec,
                num_classes=NUM_CLASSES,
                classifier=parts.classifier,
                taps=parts.taps,
            )
        assert list(model.tap_shapes) == [f"stage{n + 1}" for n in range(len(parts.taps))]
        assert {shape.t for shape in model.tap_shapes.values()} == {NUM_FRAMES}
        strides = [64 // shape.h for shape in model.tap_shapes.values()]
        assert strides == sorted(strides)
        assert strides[-1] == 32


@pytest.mark.parametrize("temporal", IN_BRANCHES, ids=lambda config: config.kind)
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "vgg11", "ghostnet_100"])
def test_a_family_that_is_not_known_is_refused_by_name(spec_of, backbone, temporal):
    config = TimmVideoConfig(input=spec_of(3, 224), backbone=backbone, temporal=temporal)
    message = rf"^temporal {temporal.kind} does not know where to go in '{backbone}' \(timm family"
    message += r".*\); families it knows: ResNet, .*; kinds none, attention_pool and gru work wi"
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        create_timm_video(config, NUM_CLASSES)


@pytest.mark.parametrize("temporal", IN_BRANCHES, ids=lambda config: config.kind)
@pytest.mark.parametrize("backbone", TINY)
def test_a_frame_reaches_its_neighbours_and_no_other_clip(student, backbone, temporal):
    network = student(backbone, temporal)
    block = next(m for m in network.modules() if isinstance(m, BranchModule))
    clips, seen = clips_of(2), []
    block.register_forward_hook(lambda module, args, output: seen.append(output))
    network(clips)
    changed = clips.clone()
    changed[0, :, 2] += 1
    network(changed)
    before, after = (frames.unflatten(0, (2, NUM_FRAMES)) for frames in seen)
    differs = (before != after).flatten(2).any(2)
    near = [True] * NUM_FRAMES if temporal.kind == "tam" else [False, True, True, True, False]
    assert differs.tolist() == [near, [False] * NUM_FRAMES]


@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize("kind", ["depthwise", "tam"])
def test_a_module_set_to_identity_is_the_plain_network_bit_for_bit(student, backbone, kind):
    temporal = {"depthwise": DepthwiseConfig(), "tam": TamConfig()}[kind]
    plain, with_module = student(backbone, NoTemporalConfig()), student(backbone, temporal)
    with_module.load_state_dict(plain.state_dict(), strict=False)
    for module in with_module.modules():
        if isinstance(module, BranchModule):
            set_to_identity(module)
    clips = clips_of(2)
    assert torch.equal(with_module(clips), plain(clips))


@torch.no_grad()
def set_to_identity(module):
    if isinstance(module, TemporalDepthwise):
        module.weight.copy_(torch.tensor([0.0, 1.0, 0.0]))
        return
    assert isinstance(module, TemporalAdaptive)
    for branch in (module.importance, module.kernel):
        branch[1].weight.zero_()
        branch[1].bias.fill_(1.0)  # each branch is then a constant: the sum of its last weights
    module.importance[3].weight.fill_(100.0)
    module.kernel[3].weight.copy_(torch.tensor([[-100.0], [100.0], [-100.0]]))


@pytest.mark.parametrize("backbone", TINY)
def test_a_depthwise_student_starts_as_the_tsm_with_the_same_weights(student, backbone):
    shifted, filtered = student(backbone, ShiftConfig()), student(backbone, DepthwiseConfig())
    filtered.load_state_dict(shifted.state_dict(), strict=False)
    clips = clips_of(2)
    assert torch.equal(filtered(clips), shifted(clips))


@pytest.mark.parametrize("temporal", ALL, ids=lambda config: config.kind)
@pytest.mark.parametrize("backbone", TINY)
def test_only_a_temporal_module_knows_the_order_of_the_frames(student, backbone, temporal):
    network = student(backbone, temporal).double()
    clips = clips_of(2).double()
    order = torch.tensor([3, 0, 4, 1, 2])
    there, shuffled = network(clips), network(clips[:, :, order])
    if temporal.kind == "none":
        torch.testing.assert_close(shuffled, there, rtol=1e-10, atol=1e-10)
    else:
        assert (shuffled - there).abs().max() > 1e-3 * there.abs().max()


@pytest.mark.parametrize("temporal", ALL, ids=lambda config: config.kind)
def test_clips_of_a_batch_do_not_see_each_other(student, temporal):
    network = student("resnet50", temporal)
    clips = clips_of(3)
    alone = torch.cat([network(clip[None]) for clip in clips])
    torch.testing.assert_close(network(clips), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temporal", ALL, ids=lambda config: config.kind)
def test_training_reaches_every_weight_under_autocast(student, temporal):
    network = student("resnet50", temporal).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(clips_of(2))
    logits.float().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "temporal", [DepthwiseConfig(), TamConfig(), GruConfig()], ids=lambda config: config.kind
)
def test_it_compiles_to_one_graph_for_any_number_of_clips(student, temporal):
    network = student("resnet18", temporal)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        for num_clips in (2, 3):
            clips = clips_of(num_clips)
            torch.testing.assert_close(compiled(clips), network(clips), rtol=1e-5, atol=1e-6)


def test_tanet_r50_has_the_published_size_and_work(spec_of):
    """mmaction2's configs/recognition/tanet/README.md: 25.6 M and 43.0 G (at 256 px, its way)."""
    config = TimmVideoConfig(input=spec_of(8, 256), backbone="resnet50", temporal=TamConfig())
    with torch.device("meta"):
        network = create_timm_video(config, 400).network.eval()
    num_params = sum(parameter.numel() for parameter in network.parameters())
    # The R50 of 400 classes; a TAM has C*3C/4 + C/2 + C/4*C and 8*16 + 32 + 16*3 weights.
    num_blocks = {64: 3, 128: 4, 256: 6, 512: 3}
    tams = sum(n * (c * c + c // 2 + 8 * 16 + 32 + 16 * 3) for c, n in num_blocks.items())
    assert num_params == 24_327_632 + tams
    assert round(num_params / 1e6, 1) == 25.6
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 8, 256, 256, device="meta"))
    norms = sum_of_norm_elements(network)
    head = 2048 * 400
    published_way = counter.get_total_flops() / 2 - head + 2 * norms
    assert round(published_way / 1e9, 1) == 43.0


def sum_of_norm_elements(network):
    sizes = []
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    handles = [
        module.register_forward_hook(lambda m, args, output: sizes.append(output.numel()))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    network(torch.zeros(1, 3, 8, 256, 256, device="meta"))
    for handle in handles:
        handle.remove()
    return sum(sizes)
