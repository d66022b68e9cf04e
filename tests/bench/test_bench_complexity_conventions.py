"""Conventions, rows of modules and traffic, against fvcore's own count and against hand sums."""

from __future__ import annotations

import pytest
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from videokd.bench.complexity import (
    CONVENTIONS,
    Complexity,
    convention_named,
    count_complexity,
    count_operations,
    count_traffic,
    format_by_module,
    rows_to_depth,
)
from videokd.errors import ConfigError
from videokd.models.zoo import create_video_model

T, S, K = 4, 8, 5


class Everything(nn.Module):
    """One of each thing that fvcore counts, and some that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(3, 6, (3, 3, 3), stride=(1, 2, 2), padding=1, groups=3)
        self.bn3d = nn.BatchNorm3d(6)
        self.relu = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0), groups=6, bias=False)
        self.plain = nn.BatchNorm3d(6, affine=False)
        self.conv2d = nn.Conv2d(6, 8, 3, padding=1, dilation=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.group = nn.GroupNorm(2, 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv1d = nn.Conv1d(8, 4, 3, padding=1, groups=2)
        self.layer = nn.LayerNorm(4)
        self.bare = nn.LayerNorm(4, elementwise_affine=False)
        self.mlp = nn.Linear(4, 7)
        self.head = nn.Linear(7, K)

    def forward(self, clips: Tensor) -> Tensor:
        maps = self.plain(self.depthwise(self.relu(self.bn3d(self.conv3d(clips)))))
        frames = self.conv2d(maps.transpose(1, 2).flatten(0, 1))
        frames = F.interpolate(frames, scale_factor=2, mode="nearest")
        frames = F.interpolate(frames, scale_factor=2, mode="bilinear")
        frames = self.group(self.up(frames))
        tokens = self.pool(frames).flatten(1).unflatten(0, (-1, T))
        tokens = self.bare(self.layer(self.conv1d(tokens.transpose(1, 2)).transpose(1, 2)))
        scores = torch.bmm(tokens, tokens.transpose(1, 2))
        tokens = torch.einsum("nts,nsc->ntc", scores.softmax(-1), tokens)
        tokens = torch.matmul(scores[:, None], tokens[:, None])[:, 0]
        return self.head(self.mlp(tokens).mean(1))


def by_fvcore(model: nn.Module, clips: Tensor) -> int:
    analysis = FlopCountAnalysis(model, clips)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())


def test_fvcore_convention_is_fvcore_on_a_network_in_training_mode():
    model, clips = Everything(), torch.rand(1, 3, T, S, S)
    counted = count_complexity(model, num_frames=T, crop_px=S, convention="fvcore")
    assert round(counted.gops * 1e9) == by_fvcore(model.train(), clips)


def test_mmaction2_convention_is_the_same_in_evaluation_mode_without_the_head():
    model, clips = Everything(), torch.rand(1, 3, T, S, S)
    counted = count_complexity(model, num_frames=T, crop_px=S, convention="mmaction2")
    model.head = nn.Identity()
    assert round(counted.gops * 1e9) == by_fvcore(model.eval(), clips)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_050", "efficientnet_lite0"])
def test_real_networks_agree_with_fvcore(name):
    """The pooling of the head, which mmaction2 leaves out too, is the last thing before it."""

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = timm.create_model(name, num_classes=K)

        def forward(self, clips: Tensor) -> Tensor:
            return self.body(clips.transpose(1, 2).flatten(0, 1))

    model, clips = Frames(), torch.rand(1, 3, 2, 32, 32)
    count = count_operations(model, num_frames=2, crop_px=32)
    assert round(count.complexity("fvcore").gops * 1e9) == by_fvcore(model.train(), clips)
    bare = FlopCountAnalysis(model.eval(), clips)
    bare.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    head = bare.by_module()[f"body.{count.classifier.split('.')[-1]}"]
    pool = bare.by_module()["body.global_pool"]
    body = round(bare.total()) - head - pool
    assert round(count.complexity("mmaction2").gops * 1e9) == body


def test_mac_and_flop_differ_by_two_and_nothing_else():
    count = count_operations(Everything(), num_frames=T, crop_px=S)
    mac, flop = count.complexity("mac"), count.complexity("flop")
    assert (mac.convention, flop.convention) == ("mac", "flop")
    assert flop.gops == 2 * mac.gops
    assert mac.gops == mac.gmacs == flop.gmacs
    assert all(count.complexity(name).params_m == mac.params_m for name in CONVENTIONS)
    assert mac.gops_per_video(30) == 30 * mac.gops


def test_unknown_convention_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'macs' is not known; did you mean 'mac'"):
        convention_named("macs")
    assert [convention_named(name) for name in CONVENTIONS] == list(CONVENTIONS)


class Body(nn.Module):
    def __init__(self, body: nn.Module, pooled: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(pooled, K)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.body(clips))


@given(
    groups=st.sampled_from([1, 2, 3, 6]),
    per_group=st.integers(1, 3),
    kernel=st.tuples(*[st.integers(1, 3)] * 3),
    stride=st.tuples(*[st.integers(1, 2)] * 3),
    dilation=st.integers(1, 2),
)
@settings(max_examples=25, deadline=None)
def test_grouped_3d_convolutions_by_formula(groups, per_group, kernel, stride, dilation):
    out = groups * per_group

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.widen = nn.Conv3d(3, 6, 1)
            self.conv = nn.Conv3d(
                6, out, kernel, stride=stride, dilation=dilation, groups=groups, padding=1
            )

        def forward(self, clips: Tensor) -> Tensor:
            return self.conv(self.widen(clips)).mean((2, 3, 4))

    sizes = zip((T, S, S), kernel, stride, strict=True)
    steps = [(n + 2 - dilation * (k - 1) - 1) // s + 1 for n, k, s in sizes]
    positions = steps[0] * steps[1] * steps[2]
    taps = kernel[0] * kernel[1] * kernel[2]
    macs = T * S * S * 3 * 6 + positions * taps * (6 // groups) * out + out * K
    counted = count_complexity(Body(Net(), out), num_frames=T, crop_px=S)
    assert round(counted.gmacs * 1e9) == macs


class Tokens(nn.Module):
    """Each frame's mean colour as a token [N, T, 3]; the mean over tokens of what `run` makes."""

    def __init__(self, module: nn.Module, run) -> None:
        super().__init__()
        self.module, self.run = module, run

    def forward(self, clips: Tensor) -> Tensor:
        return self.run(self.module, clips.mean((3, 4)).transpose(1, 2)).mean(1)


@pytest.mark.parametrize(("num_layers", "bidirectional", "hidden"), [(1, False, 6), (2, True, 4)])
def test_gru_by_formula(num_layers, bidirectional, hidden):
    gru = nn.GRU(3, hidden, num_layers, batch_first=True, bidirectional=bidirectional)
    ways = 2 if bidirectional else 1
    macs = 0
    for layer in range(num_layers):
        width = 3 if layer == 0 else hidden * ways
        macs += T * ways * 3 * hidden * (width + hidden)
    net = Body(Tokens(gru, lambda module, tokens: module(tokens)[0]), hidden * ways)
    counted = count_complexity(net, num_frames=T, crop_px=S)
    assert round(counted.gmacs * 1e9) == macs + hidden * ways * K


@pytest.mark.parametrize("seen", [T, 2])
def test_attention_over_other_tokens_by_formula(seen):
    """Cross-attention: T queries, `seen` keys, 2 heads of 3 channels, values of 5."""

    def attend(proj: nn.Module, tokens: Tensor) -> Tensor:
        wide = proj(tokens).unflatten(2, (2, 8)).transpose(1, 2)
        query, value = wide[..., :3], wide[:, :, :seen, 3:]
        mixed = F.scaled_dot_product_attention(query, query[:, :, :seen], value)
        return mixed.transpose(1, 2).flatten(2)

    net = Body(Tokens(nn.Linear(3, 16), attend), 10)
    counted = count_complexity(net, num_frames=T, crop_px=S)
    assert round(counted.gmacs * 1e9) == T * 3 * 16 + 2 * T * seen * (3 + 5) + 10 * K


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("convention", ["mac", "fvcore"])
def test_multi_head_attention_is_counted_however_it_runs(need_weights, convention):
    attention = nn.MultiheadAttention(3, 3, batch_first=True).eval()
    net = Body(Tokens(attention, lambda m, t: m(t, t, t, need_weights=need_weights)[0]), 3)
    counted = count_complexity(net, num_frames=T, crop_px=S, convention=convention)
    assert round(counted.gops * 1e9) == 4 * T * 9 + 2 * T * T * 3 + 3 * K


def test_fused_attention_of_a_transformer_counts_as_its_products(monkeypatch):
    class Frames(nn.Module):
        def __init__(self, fused: bool) -> None:
            super().__init__()
            self.body = timm.create_model("test_vit", num_classes=K, img_size=32)
            for block in self.body.blocks:
                block.attn.fused_attn = fused

        def forward(self, clips: Tensor) -> Tensor:
            return self.body(clips.transpose(1, 2).flatten(0, 1))

    fused, open_ = (
        count_complexity(Frames(f), num_frames=2, crop_px=32, convention="fvcore")
        for f in (True, False)
    )
    assert fused == open_
    assert fused.gmacs > 0


def test_products_with_vectors_count():
    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(7, 3))
            self.bias = nn.Parameter(torch.rand(7))

        def forward(self, clips: Tensor) -> Tensor:
            colour = clips.mean((0, 2, 3, 4))
            features = torch.mv(self.weight, colour) + torch.addmv(self.bias, self.weight, colour)
            return features[None] * torch.dot(colour, colour)

    counted = count_complexity(Body(Vector(), 7), num_frames=T, crop_px=S)
    assert round(counted.gmacs * 1e9) == 21 + 21 + 3 + 7 * K


# --- by module ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything():
    return count_operations(Everything(), num_frames=T, crop_px=S)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("depth", [None, 0, 1, 2])
def test_rows_add_up_to_the_network_at_any_depth(everything, convention, depth):
    counted = everything.complexity(convention, by_module=True)
    rows = rows_to_depth(counted.modules, depth)
    assert sum(row.params for row in rows) / 1e6 == counted.params_m
    assert sum(row.macs for row in rows) / 1e9 == counted.gmacs
    assert sum(row.ops for row in rows) / 1e9 == counted.gops
    assert len({row.path for row in rows}) == len(rows)
    if depth == 0:
        assert [row.path for row in rows] == [""]


def test_a_row_holds_what_its_module_does_itself(everything):
    rows = {row.path: row for row in everything.complexity("fvcore", by_module=True).modules}
    conv, norm, pool = rows["conv3d"], rows["bn3d"], rows["pool"]
    written = 6 * T * 4 * 4
    assert conv.kind == "Conv3d"
    assert conv.params == 6 * 27 + 6
    assert conv.macs == conv.ops == written * 27
    assert conv.activations == written
    assert conv.elements_moved == 3 * T * S * S + conv.params + written
    assert (norm.macs, norm.ops, norm.activations) == (0, 5 * written, 0)
    assert pool.ops == T * 8 * (4 * 8) ** 2
    assert rows[""].macs == 3 * T * T * 4  # bmm, einsum and matmul are the network's own
    assert "relu" in rows, "it reads and writes"


def test_the_head_has_no_operations_where_it_is_left_out(everything):
    rows = {row.path: row for row in everything.complexity("mmaction2", by_module=True).modules}
    assert rows["head"].ops == 0
    assert rows["head"].macs == 7 * K
    assert rows["head"].params == 8 * K


def test_a_shared_module_stands_once_and_counts_as_often_as_it_runs():
    shared = nn.Conv3d(3, 3, 1, bias=False)
    net = Body(nn.Sequential(shared, shared, nn.AdaptiveAvgPool3d(1), nn.Flatten()), 3)
    counted = count_complexity(net, num_frames=T, crop_px=S, by_module=True)
    rows = [row for row in counted.modules if row.kind == "Conv3d"]
    assert [(row.path, row.params, row.macs) for row in rows] == [("body.0", 9, 2 * T * S * S * 9)]


def test_rows_are_made_on_request_only():
    assert count_complexity(Everything(), num_frames=T, crop_px=S).modules == ()


def test_the_table_lists_modules_and_their_sum(everything):
    counted = everything.complexity("mmaction2", by_module=True)
    lines = format_by_module(counted, depth=1).splitlines()
    assert lines[0].split() == ["module", "params", "GMACs", "mmaction2", "share", "activations"]
    assert len({len(line) for line in lines}) == 1
    conv = next(line for line in lines if line.startswith("conv3d Conv3d"))
    assert conv.split()[2] == "168"
    total = lines[-1].split()
    assert total[0] == "total"
    assert total[1] == f"{round(counted.params_m * 1e6):,}"
    assert total[4:6] == ["100.0", "%"]


# --- traffic -----------------------------------------------------------------------------------


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 2, 1)
        self.head = nn.Linear(2 * T * S * S, K)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.conv(clips).relu().flatten(1))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("tf32", 4), ("bf16", 2), ("fp16", 2)])
def test_traffic_by_hand(batch, dtype, size):
    """Weights once a batch, activations once a clip; a flatten moves nothing."""
    read, made = batch * 3 * T * S * S, batch * 2 * T * S * S
    conv = read + (2 * 3 + 2) + made
    head = made + (2 * T * S * S * K + K) + batch * K
    traffic = count_traffic(Plain(), num_frames=T, crop_px=S, dtype=dtype, batch=batch)
    assert traffic.min_bytes == size * (conv + head)
    assert traffic.unfused_bytes == size * (conv + head + 2 * made)


def test_more_moves_unfused_than_fused():
    traffic = count_traffic(Everything(), num_frames=T, crop_px=S)
    assert traffic.unfused_bytes > traffic.min_bytes > 0


# --- our own networks --------------------------------------------------------------------------


@pytest.mark.parametrize("temporal", ["none", "shift", "gru"])
def test_taps_change_no_number(temporal, spec_of_student):
    config = spec_of_student(temporal)
    tapped = create_video_model(config, num_classes=K, seed=0)
    bare = create_video_model(config, num_classes=K, taps=(), seed=0)
    size = {"num_frames": 4, "crop_px": 32}
    assert tapped.taps
    for convention in CONVENTIONS:
        ours, theirs = (
            count_complexity(m, **size, convention=convention, by_module=True)
            for m in (tapped, bare)
        )
        assert isinstance(ours, Complexity)
        assert ours == theirs


def test_the_head_of_our_networks_is_found(spec_of_student):
    model = create_video_model(spec_of_student("none"), num_classes=K, seed=0)
    size = {"num_frames": 4, "crop_px": 32}
    whole = count_complexity(model, **size, convention="mac")
    count = count_operations(model, **size)
    assert count.classifier == f"network.{model.classifier}"
    norms = sum(one.amount for one in count.operations if one.kind == "batch_norm")
    without = count_complexity(model, **size, convention="mmaction2")
    head_macs = 16 * K  # frames are averaged first, so it runs once a clip
    assert round(1e9 * without.gops) == round(1e9 * whole.gmacs) - head_macs + 2 * norms


@pytest.fixture
def spec_of_student():
    from tiny_recipes import student_settings

    from videokd.experiments.reproduce.tables import model_config

    def make(temporal: str):
        settings = student_settings(temporal={"kind": temporal})
        return model_config(settings, source="test")

    return make
