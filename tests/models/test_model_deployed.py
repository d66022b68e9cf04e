"""The deployed form: the same logits, without what only training needs, as one graph."""

import shutil

import pytest
import torch
from pydantic import TypeAdapter
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from videokd.models.deployed import Deployed, compiled, deployed
from videokd.models.deployed import form as form_module
from videokd.models.deployed.folding import Pair, fold_, foldable_pairs
from videokd.models.deployed.tiles import Tiled, tile_
from videokd.models.meta import on_meta
from videokd.models.temporal import TemporalShift
from videokd.models.video_model import VideoModel
from videokd.models.zoo import ModelConfig, create_video_model

CONFIGS = TypeAdapter(ModelConfig)
SLIM = {"stage_depths": [1, 1, 1, 1], "width": 8}
SMALL_3D = {"stage_depths": [1, 1, 1], "width": 8, "stage_strides_px": [1, 2, 2]}
SMALL_SLOW = {**SMALL_3D, "stage_frames": [1, 1, 3], "stage_mid_frames": [1, 1, 1]}
TIMM = {"kind": "timm", "backbone": "mobilenetv2_035"}

# Settings, T, side, and how many batch norms stay because no convolution is before them.
NETWORKS = {
    "none": (TIMM, 4, 32, 0),
    "shift": (TIMM | {"temporal": {"kind": "shift"}, "dropout": 0.2, "drop_path": 0.2}, 4, 32, 0),
    "depthwise": (TIMM | {"temporal": {"kind": "depthwise"}}, 4, 32, 0),
    "attention_pool": (
        TIMM | {"temporal": {"kind": "attention_pool", "num_heads": 4, "shift_div": 8}}, 4, 32, 0,
    ),
    "gru": (TIMM | {"temporal": {"kind": "gru", "hidden_dim": 8}}, 4, 32, 0),
    # TAM: one norm a block follows a linear layer.
    "tam": ({"kind": "timm", "backbone": "resnet10t", "temporal": {"kind": "tam"}}, 4, 32, 4),
    "lcnet": ({"kind": "timm", "backbone": "lcnet_035"}, 2, 32, 0),
    "mobilenetv3": (
        {"kind": "timm", "backbone": "mobilenetv3_small_050", "temporal": {"kind": "shift"}},
        2, 32, 0,
    ),
    "vit": (
        {"kind": "timm", "backbone": "vit_tiny_patch16_224",
         "backbone_kwargs": {"img_size": 32, "depth": 1}}, 2, 32, 0,
    ),
    "slowfast": (
        {"kind": "slowfast", "alpha": 4, "beta": 4, "slow_stage_frames": [1, 1, 3],
         "fast_stage_frames": [3, 3, 3], **SMALL_3D}, 8, 32, 0,
    ),
    "slow": ({"kind": "slow", "stage_strides_frames": [1, 1, 1], **SMALL_SLOW}, 4, 32, 0),
    "x3d": (
        {"kind": "x3d", "width_factor": 0.7, "depth_factor": 0.9, "head_width": 32,
         "head_pool_px": 1}, 4, 32, 0,
    ),
    "csn": ({"kind": "csn", **SLIM, "head_pool_px": 1}, 8, 32, 0),
    "r2plus1d": ({"kind": "r2plus1d", **SLIM, "head_pool_px": 1}, 4, 32, 0),
    # Layer norm stays.
    "mvit": ({"kind": "mvit", "stage_depths": [1, 1], "width": 16, "kv_stride_px": 4}, 4, 32, 0),
    "mc3_18": ({"kind": "torchvision", "name": "mc3_18"}, 4, 16, 0),
}  # fmt: skip


@pytest.fixture
def network_named(spec_of):
    """A model of NETWORKS whose batch norms do something, as after a training."""

    def make(name):
        settings, num_frames, side, _ = NETWORKS[name]
        config = CONFIGS.validate_python(settings | {"input": spec_of(num_frames, side)})
        model = create_video_model(config, num_classes=5, seed=0)
        as_if_trained_(model)
        return model

    return make


def as_if_trained_(model):
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)


def clips_for(model, num_clips=2):
    side = model.spec.crop_px
    generator = torch.Generator().manual_seed(2)
    return torch.rand(num_clips, 3, model.spec.num_frames, side, side, generator=generator)


def batch_norms(module):
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def assert_same_logits(logits, wanted):
    torch.testing.assert_close(
        logits, wanted, rtol=1e-4, atol=1e-5 + 1e-4 * float(wanted.abs().max())
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_the_networks_own(name, network_named):
    model = network_named(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    num_norms = len(batch_norms(model))
    form = deployed(model)

    assert form.num_norms == len(batch_norms(form)) == NETWORKS[name][-1]
    assert form.num_folded == num_norms - form.num_norms
    clips = clips_for(model)
    with torch.no_grad():
        assert_same_logits(form(clips), model.eval()(clips).logits)
    # The original is as it was.
    assert len(batch_norms(model)) == num_norms
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert len(model(clips).taps) == len(model.taps)


def test_training_is_over(network_named):
    form = deployed(network_named("shift")).train()
    clips = clips_for(form)
    assert not any(module.training for module in form.modules())
    assert not any(isinstance(module, nn.Dropout) for module in form.modules())
    assert not any(parameter.requires_grad for parameter in form.parameters())
    assert not form(clips).requires_grad
    # The only hooks that are left are the shift's own.
    hooks = [
        h
        for m in form.modules()
        for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]
    assert hooks
    assert all(isinstance(hook.__self__, TemporalShift) for hook in hooks)


def test_the_model_stays_in_the_mode_it_was_in(network_named):
    model = network_named("none").train()
    model.network.backbone.bn1.eval()  # a frozen part of a network in training
    deployed(model)
    assert model.training
    assert not model.network.backbone.bn1.training


def test_weights_lie_channels_last(network_named):
    kinds = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}
    for name in ("shift", "x3d"):
        for module in deployed(network_named(name)).modules():
            if (layout := kinds.get(type(module))) is not None:
                assert module.weight.is_contiguous(memory_format=layout)


def test_clips_are_float(network_named):
    form = deployed(network_named("none"))
    with pytest.raises(ValueError, match=r"clips must be float \[N,3,T,S,S\], not torch.uint8"):
        form(torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8))


def test_other_numbers_and_layouts(network_named):
    model = network_named("shift")
    form, clips = deployed(model), clips_for(model)
    last = clips.contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(form(clips), form(last))
    wanted = form(clips)
    half = form.to(torch.bfloat16)(clips)
    assert half.dtype == torch.bfloat16
    assert float((half - wanted).abs().max()) < 0.05 * float(wanted.abs().max())


def test_a_form_that_computes_something_else_is_refused(network_named, monkeypatch):
    def wrong(network, pair):
        fold_(network, pair)
        network.get_submodule(pair.conv).bias.add_(1.0)

    monkeypatch.setattr(form_module, "fold_", wrong)
    with pytest.raises(RuntimeError, match=r"the deployed form's logits lie .* away from the"):
        deployed(network_named("none"))


def test_logits_that_are_no_numbers_are_refused(network_named):
    model = network_named("none")
    batch_norms(model)[0].bias.data[0] = float("nan")
    with pytest.raises(RuntimeError, match="lie nan of the largest one away"):
        deployed(model)


def test_without_weights_sizes_are_known_all_the_same(network_named):
    form = deployed(on_meta(network_named("shift")))
    assert form(torch.empty(3, 3, 4, 32, 32, device="meta")).shape == (3, 5)
    # 52 layers lose scale, shift (their weights) and gain a bias.
    trained, ours = network_named("shift"), sum(p.numel() for p in form.parameters())
    norm_channels = sum(norm.num_features for norm in batch_norms(trained))
    assert ours == sum(p.numel() for p in trained.parameters()) - norm_channels


# Folding one pair.


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_folded_pair_is_the_pair(dim, groups, has_bias, affine):
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dim - 1]
    pair = nn.Sequential(
        conv(4, 8, 3, padding=1, groups=groups, bias=has_bias), norm(8, affine=affine)
    ).double()
    pair(torch.randn(4, 4, *[5] * dim).double() * 3 + 1)  # statistics that are not 0 and 1
    if affine:
        nn.init.normal_(pair[1].weight)
        nn.init.normal_(pair[1].bias)
    pair.eval()
    x = torch.randn(2, 4, *[5] * dim).double()
    wanted = pair(x)
    fold_(pair, Pair("0", "1"))
    assert type(pair[1]) is nn.Identity
    torch.testing.assert_close(pair(x), wanted, rtol=1e-12, atol=1e-12)


def test_timms_norm_keeps_its_activation():
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4, act_layer=nn.ReLU6)).eval()
    x = torch.randn(2, 3, 5, 5)
    wanted = pair(x)
    fold_(pair, Pair("0", "1"))
    assert isinstance(pair[1], nn.ReLU6)
    torch.testing.assert_close(pair(x), wanted)


# Which pairs there are. The network takes [1,3,T,S,S]; a 1x1x1 convolution is enough.


class Seen(nn.Module):
    """Convolution, norm, and what `how` does between or after them."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3), how
        self.other = nn.Conv3d(3, 3, 1)

    def forward(self, x):
        return self.how(self, x)


SWISH = nn.SiLU()
HOWS = {
    "conv, norm": (lambda m, x: m.norm(m.conv(x)), True),
    "a size is no use": (lambda m, x: m.norm(y := m.conv(x)).flatten(y.dim() - 1), True),
    "a shortcut": (lambda m, x: m.norm(y := m.conv(x)) + y, False),
    "a shortcut, in place": (lambda m, x: m.norm(y := m.conv(x)).add_(y), False),
    "a view of it": (lambda m, x: m.norm(y := m.conv(x)) + y[:, :, :1], False),
    "written into another": (lambda m, x: copied(m.norm(y := m.conv(x)), y), False),
    "given out": (lambda m, x: (m.norm(y := m.conv(x)), y), False),
    "something between": (lambda m, x: m.norm(SWISH(m.conv(x))), False),
    "norm first": (lambda m, x: m.conv(m.norm(x)), False),
    "norm twice": (lambda m, x: m.norm(m.norm(m.conv(x))), False),
    "conv twice": (lambda m, x: m.norm(m.conv(m.conv(x))), False),
    "norm of two": (lambda m, x: m.norm(m.conv(x)) + m.norm(m.other(x)), False),
    "weights looked at": (lambda m, x: m.norm(m.conv(x)) * m.conv.weight.sum(), False),
    "statistics looked at": (lambda m, x: m.norm(m.conv(x)) * m.norm.running_var.sum(), False),
}


def copied(out, source):
    out[:, :1] = source[:, :1]
    return out


@pytest.mark.parametrize("how", HOWS)
def test_only_what_the_norm_alone_sees_is_folded(how):
    run, folds = HOWS[how]
    pairs = foldable_pairs(Seen(run).eval(), (1, 3, 2, 4, 4))
    assert pairs == ([Pair("conv", "norm")] if folds else [])


def test_a_weight_that_is_computed_is_left_alone():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    network = Seen(HOWS["conv, norm"][0]).eval()
    parametrize.register_parametrization(network.conv, "weight", Doubled())
    assert foldable_pairs(network, (1, 3, 2, 4, 4)) == []


def test_other_norms_are_left_alone():
    class Louder(nn.BatchNorm3d):
        def forward(self, x):
            return 2 * super().forward(x)

    for norm in (
        Louder(3),
        nn.BatchNorm3d(3, track_running_stats=False),
        nn.BatchNorm3d(3).train(),
    ):
        network = Seen(HOWS["conv, norm"][0]).eval()
        network.norm = norm
        assert foldable_pairs(network, (1, 3, 2, 4, 4)) == []


# A few frames at a time.


def test_a_tiled_block_is_the_block():
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, exp_ratio=4).double().eval()
    as_if_trained_(block)
    frames = torch.randn(5, 8, 6, 6).double().contiguous(memory_format=torch.channels_last)
    tiled = Tiled(block, num_rows=2)(frames)
    torch.testing.assert_close(tiled, block(frames), rtol=1e-12, atol=1e-12)
    assert tiled.is_contiguous(memory_format=torch.channels_last)


def test_only_wide_blocks_without_time_are_tiled(spec_of):
    def paths(kind):
        with torch.device("meta"):
            settings = {"kind": "timm", "backbone": "mobilenetv2_100", "temporal": {"kind": kind},
                        "input": spec_of(8, 224),}  # fmt: skip
            model = create_video_model(CONFIGS.validate_python(settings), num_classes=5)
        network = deployed(model).network
        return {p: m.num_rows for p, m in network.named_modules() if isinstance(m, Tiled)}

    # 32 channels of 112^2 in fp32 are 1.5 MiB a frame, 96 are 4.6 MiB; 144 of 56^2 1.7 MiB.
    shifted = {"backbone.blocks.0.0": 6, "backbone.blocks.1.0": 2, "backbone.blocks.2.0": 5}
    assert paths("shift") == shifted
    assert paths("none") == shifted | {"backbone.blocks.1.1": 5}


def test_narrow_blocks_are_not_tiled(network_named):
    network = network_named("none").bare_network().eval()
    assert tile_(network, (1, 3, 4, 32, 32)) == 0


# One graph.


class Recorder(TorchDispatchMode):
    """Devices and names of all operations."""

    def __init__(self):
        super().__init__()
        self.names, self.devices = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket._qualified_op_name)
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        self.devices |= {tensor.device.type for tensor in tensors}
        return out


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_waits_for_the_host(name, network_named):
    # On meta, whatever was made on the CPU, moved, or read back shows itself.
    form = deployed(network_named(name)).to("meta")
    clips = clips_for(form).to("meta")
    with Recorder() as record:
        form(clips)
    assert record.devices == {"meta"}
    assert not record.names & {"aten::_local_scalar_dense", "aten::nonzero", "aten::item"}


def graph_of(module, clips):
    """Logits by way of one graph of dynamo's; a break is an error."""
    torch._dynamo.reset()
    out = torch.compile(module, fullgraph=True, dynamic=False, backend="eager")(clips)
    return getattr(out, "logits", out)


QUICK = ("shift", "tam", "slow")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NETWORKS]
)
def test_the_deployed_form_is_one_graph(name, network_named):
    form = deployed(network_named(name))
    clips = clips_for(form)
    with torch.inference_mode():
        assert_same_logits(graph_of(form, clips), form(clips))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "tam" else pytest.mark.slow) for n in NETWORKS]
)
def test_the_model_in_training_is_one_graph(name, network_named):
    model = network_named(name).without_taps()
    clips = clips_for(model)
    torch.manual_seed(3)  # of dropout and drop path
    wanted = model.train()(clips).logits
    torch.manual_seed(3)
    logits = graph_of(model, clips)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert logits.requires_grad


needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile on a CPU needs a C++ compiler",
)


class Small(nn.Module):
    """Two convolutions with a shift between them, on every frame."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.shift = TemporalShift(4)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, clips):
        frames = clips.transpose(1, 2).flatten(0, 1)
        frames = torch.relu(self.bn1(self.conv1(frames)))
        frames = frames + self.bn2(self.conv2(self.shift(frames)))
        return self.head(frames.mean((2, 3)).unflatten(0, (-1, 4)).mean(1))


@pytest.fixture
def small_form(spec_of):
    def make(seed):
        torch.manual_seed(seed)
        model = VideoModel(Small(), spec=spec_of(4, 8), num_classes=5, classifier="head")
        as_if_trained_(model)
        return deployed(model)

    return make


@needs_compiler
def test_compiled_is_eager(small_form):
    torch._dynamo.reset()
    forms = [small_form(0), small_form(1)]
    with torch._dynamo.config.patch(recompile_limit=1):  # networks are no recompilations
        runs = [compiled(form, clips_for(form)) for form in forms]
    for form, run in zip(forms, runs, strict=True):
        for num_clips in (1, 3):
            clips = clips_for(form, num_clips)
            torch.testing.assert_close(run(clips), form(clips), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["shift", "tam", "attention_pool", "slowfast", "x3d"])
def test_compiled_networks_are_eager_ones(name, network_named):
    torch._dynamo.reset()
    form = deployed(network_named(name))
    clips = clips_for(form)
    run = compiled(form, clips)
    assert_same_logits(run(clips), form(clips))
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["shift", "tam", "attention_pool", "slowfast", "x3d"])
@torch.inference_mode()
def test_cuda_graphs_are_exact(name, network_named):
    form = deployed(network_named(name).cuda())
    static = clips_for(form).cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(
        stream
    ):  # cuDNN chooses its algorithms before, not while, it is recorded
        for _ in range(3):
            form(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = form(static)
    for seed in range(4):
        clips = torch.rand(static.shape, generator=torch.Generator().manual_seed(seed)).cuda()
        static.copy_(clips)
        graph.replay()
        assert torch.equal(recorded, form(clips))


def test_a_deployed_form_is_a_plain_module(network_named):
    form = deployed(network_named("shift"))
    assert isinstance(form, Deployed)
    program = torch.export.export(form, (clips_for(form),))
    assert_same_logits(program.module()(clips_for(form)), form(clips_for(form)))
