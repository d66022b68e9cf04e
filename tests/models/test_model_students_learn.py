"""Each temporal module gives a network time: it learns what only the order of frames tells."""

import pytest
import torch
from torch import nn

from videokd.models.students import TimmVideoConfig, create_timm_video
from videokd.models.temporal import (
    AttentionPoolConfig,
    DepthwiseConfig,
    GruConfig,
    NoTemporalConfig,
    ShiftConfig,
    TamConfig,
)

NUM_FRAMES, SIDE = 8, 16


def moving_bars(num_clips, generator):
    """Clips [N,3,8,16,16] of a bar that moves left or right around the picture, and which.

    A single frame shows a bar at a place drawn uniformly, whichever way it moves.
    """
    labels = torch.randint(2, (num_clips,), generator=generator)
    starts = torch.randint(SIDE, (num_clips,), generator=generator)
    steps = (2 * labels - 1)[:, None] * torch.arange(NUM_FRAMES)
    lefts = (starts[:, None] + steps)[..., None] % SIDE  # [N,T,1]
    is_bar = (torch.arange(SIDE) - lefts) % SIDE < 4  # [N,T,16]
    clips = is_bar[:, None, :, None, :].expand(-1, 3, -1, SIDE, -1).float()
    return clips + 0.1 * torch.randn(clips.shape, generator=generator), labels


def accuracy_after_training(network, *, num_steps):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
    network.train()
    for _ in range(num_steps):
        clips, labels = moving_bars(32, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(clips), labels).backward()
        optimizer.step()
        schedule.step()
    clips, labels = moving_bars(500, torch.Generator().manual_seed(1))
    with torch.no_grad():
        return (network.eval()(clips).argmax(1) == labels).double().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("temporal", "lowest", "highest"),
    [
        (NoTemporalConfig(), 0.42, 0.58),  # chance, +-3.6 standard errors of 500 clips
        (ShiftConfig(), 0.95, 1.0),
        (DepthwiseConfig(), 0.95, 1.0),
        (TamConfig(), 0.95, 1.0),
        (AttentionPoolConfig(), 0.95, 1.0),
        (GruConfig(hidden_dim=32), 0.95, 1.0),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_it_learns_what_only_the_order_tells(spec_of, temporal, lowest, highest):
    config = TimmVideoConfig(
        input=spec_of(NUM_FRAMES, SIDE),
        backbone="resnet18",
        backbone_kwargs={
            "layers": [1, 1, 1, 1],
            "channels": [16, 16, 32, 32],
            "zero_init_last": False,
        },
        temporal=temporal,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_timm_video(config, 2).network
    assert lowest <= accuracy_after_training(network, num_steps=120) <= highest
