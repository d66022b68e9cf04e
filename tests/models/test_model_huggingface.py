"""Hugging Face's video transformers behind our interface: the library's own logits, our taps."""

from __future__ import annotations

import builtins
import copy
import sys
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError
from torch import Tensor, nn

from videokd.errors import UserError
from videokd.models.catalog import entry
from videokd.models.teachers.huggingface import (
    Architecture,
    HuggingFaceConfig,
    create_huggingface,
    installed_names,
)
from videokd.models.video_model import VideoModel
from videokd.models.weights import load_weights
from videokd.models.zoo import create_video_model
from videokd.types import Dense, InputSpec

ARCHITECTURES: tuple[Architecture, ...] = ("videomae", "timesformer", "vivit", "vjepa2")
LIBRARY: dict[Architecture, tuple[Any, Any]] = {
    "videomae": (transformers.VideoMAEConfig, transformers.VideoMAEForVideoClassification),
    "timesformer": (transformers.TimesformerConfig, transformers.TimesformerForVideoClassification),
    "vivit": (transformers.VivitConfig, transformers.VivitForVideoClassification),
    "vjepa2": (transformers.VJEPA2Config, transformers.VJEPA2ForVideoClassification),
}
FRAMES, PX, PATCH, WIDTH, CLASSES = 4, 32, 16, 24, 5


def tiny(architecture: Architecture, **changes: Any) -> HuggingFaceConfig:
    spec = InputSpec(
        sampling=Dense(num_frames=FRAMES, stride=1),
        short_side_px=PX,
        crop_px=PX,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )
    settings = {
        "architecture": architecture,
        "input": spec,
        "depth": 4,
        "width": WIDTH,
        "num_heads": 2,
        "mlp_width": 48,
        "probe_depth": 1,
    }
    return HuggingFaceConfig(**settings | changes)


def tiny_model(architecture: Architecture) -> VideoModel:
    return create_video_model(tiny(architecture), num_classes=CLASSES, seed=0).eval()


def original(architecture: Architecture) -> nn.Module:
    """The library's network, set up by hand."""
    own: dict[Architecture, dict[str, Any]] = {
        "videomae": {"image_size": PX, "num_frames": FRAMES, "patch_size": PATCH,
                     "tubelet_size": 2, "intermediate_size": 48},
        "timesformer": {"image_size": PX, "num_frames": FRAMES, "patch_size": PATCH,
                        "intermediate_size": 48},
        "vivit": {"image_size": PX, "num_frames": FRAMES, "tubelet_size": [2, PATCH, PATCH],
                  "intermediate_size": 48},
        "vjepa2": {"crop_size": PX, "frames_per_clip": FRAMES, "patch_size": PATCH,
                   "tubelet_size": 2, "mlp_ratio": 2.0, "num_pooler_layers": 1},
    }  # fmt: skip
    config, model = LIBRARY[architecture]
    common = {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 2}
    network: nn.Module = model(config(num_labels=CLASSES, **common, **own[architecture]))
    return network.eval()


def clips(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, FRAMES, PX, PX, generator=torch.Generator().manual_seed(seed))


def normalised(given: Tensor) -> Tensor:
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1, 1)
    return (given - mean) / std


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_logits_are_the_librarys_own(architecture: Architecture) -> None:
    theirs = original(architecture)
    ours = tiny_model(architecture)
    report = load_weights(
        ours.network,
        {key: value for key, value in theirs.state_dict().items() if ".predictor." not in key},
        replace_head=False,
        classifier=ours.classifier,
        source="the library's",
    )
    assert not report.missing
    assert not report.unexpected
    given = clips()
    expected = theirs(normalised(given).transpose(1, 2)).logits
    torch.testing.assert_close(ours(given).logits, expected, rtol=1e-5, atol=1e-6)
    # Not the same by being constant: another clip, other logits.
    assert not torch.allclose(ours(clips(1)).logits, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_last_tap_is_the_last_layers_tokens_in_their_places(architecture: Architecture) -> None:
    """Against the library's own hidden states, and its order of tokens by where pixels act."""
    model = tiny_model(architecture)
    num_steps = FRAMES if architecture == "timesformer" else FRAMES // 2
    assert model.tap_shapes["stage4"] == (WIDTH, num_steps, 2, 2)
    assert list(model.tap_shapes) == ["stage1", "stage2", "stage3", "stage4"]
    given = clips()
    out = model(given)
    step_seconds = torch.arange(FRAMES, dtype=torch.float32).view(num_steps, -1).mean(1)
    torch.testing.assert_close(out.taps["stage4"].step_seconds[0], step_seconds)
    # Right behind the embedding each token knows its own patch alone: change one, see where.
    frozen = copy.deepcopy(model)
    for name, module in frozen.network.named_modules():
        if name.endswith(("attention.output.dense", "o_proj", "attention.proj", "temporal_dense")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    step, row, column = num_steps - 1, 0, 1
    first = step * FRAMES // num_steps
    changed = given.clone()
    changed[:, :, first, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 0
    before, after = frozen(given).taps["stage1"], frozen(changed).taps["stage1"]
    moved = (before.features - after.features).abs().amax((0, 1)) > 1e-5
    expected = torch.zeros(num_steps, 2, 2, dtype=torch.bool)
    expected[step, row, column] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_trains_and_copies(architecture: Architecture) -> None:
    model = tiny_model(architecture).train()
    model(clips()).logits.sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        torch.testing.assert_close(twin(clips()).logits, model.eval()(clips()).logits)


def test_same_seed_same_weights() -> None:
    first, second = (tiny_model("videomae").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_positions_of_videomae_follow_the_device_and_stay_out_of_files() -> None:
    network = create_huggingface(tiny("videomae"), CLASSES).network
    buffers = dict(network.named_buffers())
    assert buffers["videomae.embeddings.position_embeddings"].shape == (1, 8, WIDTH)
    assert not any("position_embeddings" in key for key in network.state_dict())


def test_predictor_of_vjepa2_is_not_there() -> None:
    network = create_huggingface(tiny("vjepa2"), CLASSES).network
    assert not any("predictor" in key for key in network.state_dict())


PUBLISHED = {
    "videomae": {
        "videomae.encoder.layer.3.attention.attention.q_bias",
        "videomae.encoder.layer.3.attention.attention.v_bias",
        "videomae.encoder.layer.3.attention.attention.key.weight",
        "videomae.encoder.layer.3.attention.output.dense.weight",
        "videomae.encoder.layer.3.intermediate.dense.bias",
        "videomae.embeddings.patch_embeddings.projection.weight",
        "fc_norm.weight",
        "classifier.bias",
    },
    "vivit": {
        "vivit.embeddings.cls_token",
        "vivit.embeddings.position_embeddings",
        "vivit.encoder.layer.3.attention.attention.query.weight",
        "vivit.encoder.layer.3.attention.attention.key.bias",
        "vivit.encoder.layer.3.attention.attention.value.weight",
        "vivit.encoder.layer.3.attention.output.dense.weight",
        "vivit.encoder.layer.3.intermediate.dense.bias",
        "vivit.encoder.layer.3.output.dense.weight",
        "vivit.encoder.layer.3.layernorm_before.weight",
        "vivit.layernorm.weight",
        "classifier.weight",
    },
    "timesformer": {
        "timesformer.embeddings.time_embeddings",
        "timesformer.encoder.layer.3.temporal_attention.attention.qkv.weight",
        "timesformer.encoder.layer.3.temporal_dense.bias",
        "classifier.weight",
    },
    "vjepa2": {
        "vjepa2.encoder.layer.3.attention.query.weight",
        "vjepa2.encoder.embeddings.patch_embeddings.proj.weight",
        "pooler.query_tokens",
        "pooler.cross_attention_layer.cross_attn.q_proj.weight",
        "classifier.weight",
    },
}
"""Names as they stand in the published files."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_published_names_are_found_in_the_installed_library(architecture: Architecture) -> None:
    wanted = create_huggingface(tiny(architecture), CLASSES).network.state_dict()
    named = installed_names(dict.fromkeys(PUBLISHED[architecture], 0), wanted)
    assert len(named) == len(PUBLISHED[architecture])
    assert set(named) <= set(wanted)


def test_what_is_not_of_the_network_keeps_its_name_or_is_left_out() -> None:
    given = {"vivit.pooler.dense.weight": 1, "vjepa2.predictor.layernorm.weight": 2}
    assert installed_names(given, ["classifier.weight"]) == {"vivit.pooler.dense.weight": 1}


def published_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ViViT's tensors as they were named when its file was published."""
    named = {}
    for key, value in state.items():
        old = key.replace("vivit.layers.", "vivit.encoder.layer.")
        for new, published in (
            (".attention.q_proj.", ".attention.attention.query."),
            (".attention.k_proj.", ".attention.attention.key."),
            (".attention.v_proj.", ".attention.attention.value."),
            (".attention.o_proj.", ".attention.output.dense."),
            (".mlp.fc1.", ".intermediate.dense."),
            (".mlp.fc2.", ".output.dense."),
        ):
            old = old.replace(new, published)
        named[old] = value
    return named


@torch.no_grad()
def test_a_published_file_loads_whole() -> None:
    theirs = original("vivit")
    ours = tiny_model("vivit")
    report = load_weights(
        ours.network,
        published_names(dict(theirs.state_dict())),
        replace_head=False,
        classifier=ours.classifier,
        source="model.safetensors",
        layout="huggingface",
    )
    assert not report.missing
    expected = theirs(normalised(clips()).transpose(1, 2)).logits
    torch.testing.assert_close(ours(clips()).logits, expected, rtol=1e-5, atol=1e-6)


def test_without_the_library_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "transformers")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'pip install "videokd\[hf\]"') as caught:
        create_huggingface(tiny("videomae"), CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"patch_px": 12}, "crop_px 32 is not a multiple of patch_px 12"),
        ({"num_heads": 5}, "num_heads 5 does not divide width 24"),
        ({"depth": 3}, "greater than or equal to 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        tiny("videomae", **changes)


def test_half_a_tubelet_is_refused() -> None:
    odd = InputSpec(sampling=Dense(num_frames=5, stride=1), short_side_px=PX, crop_px=PX)
    with pytest.raises(ValidationError, match="videomae sees 2 frames as one step"):
        tiny("videomae", input=odd)
    assert tiny("timesformer", input=odd).grid == (5, 2, 2)


@pytest.mark.parametrize(
    ("name", "params_m"),
    # ViT-B is 86.6 M by its authors, TimeSformer 121.4, V-JEPA 2's ViT-L 300 and its probe.
    [("timesformer_b_8x32", 121.6), ("vivit_b_16x2", 88.95), ("vjepa2_l_ssv2", 353.4)],
)
def test_published_sizes(name: str, params_m: float) -> None:
    assert entry(name).cost.params_m == pytest.approx(params_m, abs=0.05)
