from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, nn

from videokd.bench.complexity import count_complexity, logits_of
from videokd.errors import UserError

T, S = 4, 8


class Head(nn.Module):
    """Means over time and space, then a linear layer: C x K multiply-adds."""

    def __init__(self, body: nn.Module, channels: int, num_classes: int = 5) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(channels, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.body(clips).mean((2, 3, 4)))


class Tokens(nn.Module):
    """Each frame's mean colour as a token: `body` sees [N, T, 3]; returns [N, 3, T, 1, 1]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, clips: Tensor) -> Tensor:
        tokens = self.body(clips.mean((3, 4)).transpose(1, 2))
        return tokens.transpose(1, 2)[..., None, None]


class Attend(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.mha = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.kind == "sdpa":
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.mha(tokens, tokens, tokens, need_weights=self.kind == "weights")[0]


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 3, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.gru(tokens)[0]


QK_AV = 2 * T * T * 3
IN_AND_OUT = 4 * T * 3 * 3

# Multiply-adds by hand: positions written x kernel x channels read, times channels written.
BODIES = {
    "conv3d": (nn.Conv3d(3, 6, 3, padding=1), 6, T * S * S * 27 * 3 * 6),
    "strided": (nn.Conv3d(3, 6, (1, 4, 4), stride=(2, 4, 4)), 6, 2 * 2 * 2 * 16 * 3 * 6),
    "grouped": (nn.Conv3d(3, 6, 3, padding=1, groups=3), 6, T * S * S * 27 * 1 * 6),
    "depthwise": (nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0), groups=3), 3, T * S * S * 3 * 3),
    "bias and norm are free": (
        nn.Sequential(nn.Conv3d(3, 6, 1, bias=True), nn.BatchNorm3d(6), nn.ReLU()),
        6,
        T * S * S * 3 * 6,
    ),
    "fused attention": (Tokens(Attend("sdpa")), 3, QK_AV),
    "multi-head attention": (Tokens(Attend("fused")), 3, QK_AV + IN_AND_OUT),
    "its weights wanted": (Tokens(Attend("weights")), 3, QK_AV + IN_AND_OUT),
    "encoder layer": (
        Tokens(nn.TransformerEncoderLayer(3, 1, dim_feedforward=7, batch_first=True)),
        3,
        QK_AV + IN_AND_OUT + 2 * T * 3 * 7,
    ),
    "recurrent": (Tokens(Gru()), 3, T * 2 * 3 * 9),
}


@pytest.mark.parametrize("name", BODIES)
def test_multiply_adds_are_those_counted_by_hand(name):
    body, channels, expected = BODIES[name]
    model = Head(body, channels)
    counted = count_complexity(model, num_frames=T, crop_px=S)
    assert round(counted.gmacs * 1e9) == expected + channels * 5
    assert counted.params_m == sum(p.numel() for p in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("name", "num_frames", "crop_px", "params_m", "gmacs"),
    [
        ("r3d_18", 16, 112, 33.371472, 40.697),
        ("r2plus1d_18", 16, 112, 31.505325, 40.519),
        ("mvit_v1_b", 16, 224, 36.610672, 70.599),
        ("swin3d_t", 16, 224, 28.158070, 43.882),
        ("s3d", 16, 224, 8.320048, 17.979),
    ],
)
def test_published_numbers_come_out(name, num_frames, crop_px, params_m, gmacs):
    """torchvision's own `_ops` and `num_params`, to the digits it prints."""
    with torch.device("meta"):
        model = getattr(torchvision.models.video, name)()
    counted = count_complexity(model, num_frames=num_frames, crop_px=crop_px)
    assert counted.params_m == pytest.approx(params_m, abs=1e-6)
    assert counted.gmacs == pytest.approx(gmacs, abs=6e-4)


def test_shared_parameters_count_once():
    layer = nn.Conv3d(3, 3, 1, bias=False)
    counted = count_complexity(Head(nn.Sequential(layer, layer), 3, 2), num_frames=T, crop_px=S)
    assert round(counted.params_m * 1e6) == 9 + 3 * 2 + 2
    assert round(counted.gmacs * 1e9) == 2 * T * S * S * 9 + 6


def test_the_model_is_left_as_it_was():
    model = Head(nn.Sequential(nn.Conv3d(3, 6, 1), nn.BatchNorm3d(6), nn.Dropout(0.5)), 6).train()
    before = {name: (t.data_ptr(), t.clone()) for name, t in model.state_dict().items()}
    rng_state = torch.get_rng_state()
    count_complexity(model, num_frames=T, crop_px=S)
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])


def test_networks_that_make_tensors_in_forward_can_be_counted():
    class Positions(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            return clips + torch.arange(clips.shape[2])[:, None, None]

    counted = count_complexity(Head(Positions(), 3), num_frames=T, crop_px=S)
    assert round(counted.gmacs * 1e9) == 15


def test_a_dataclass_with_logits_will_do_and_taps_are_shed():
    @dataclass
    class Output:
        logits: Tensor

    class Tapped(Head):
        shed = False

        def without_taps(self) -> Tapped:
            bare = Tapped(self.body, 3)
            bare.shed = True
            return bare

        def forward(self, clips: Tensor) -> Output:
            assert self.shed, "counted with its taps"
            return Output(super().forward(clips))

    counted = count_complexity(Tapped(nn.Identity(), 3), num_frames=T, crop_px=S)
    assert round(counted.gmacs * 1e9) == 15


def test_a_clip_that_does_not_fit_is_one_plain_line():
    model = Head(nn.Conv3d(3, 6, 9), 6)
    with pytest.raises(
        UserError, match="Head cannot be counted on clips of 4 frames of 8 px: "
    ) as e:
        count_complexity(model, num_frames=T, crop_px=S)
    assert "\n" not in str(e.value)


def test_an_output_without_logits_is_refused():
    with pytest.raises(UserError, match="returned a dict; a tensor of logits"):
        logits_of({"logits": torch.zeros(1, 2)})
