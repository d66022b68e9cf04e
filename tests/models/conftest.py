import pytest
import torch
from torch import nn

from videokd.types import Dense, InputSpec


class TinyNet(nn.Module):
    """A 3D network with one of everything that a tap can get wrong."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.stem = nn.Conv3d(3, 4, 3, stride=(2, 2, 2), padding=1)
        self.bn = nn.BatchNorm3d(4)
        self.relu = nn.ReLU(inplace=True)
        self.twice = nn.Identity()
        self.unused = nn.Identity()
        self.frames5d = Frames5d()
        self.pair = Pair()
        self.drop = nn.Dropout(0.5, inplace=True)
        self.tokens = Tokens()
        self.head = nn.Linear(4, num_classes)

    def forward(self, clips):
        maps = self.relu(self.bn(self.stem(clips)))
        maps = self.twice(self.twice(maps))
        self.frames5d(maps)
        maps, _ = self.pair(maps)
        tokens = self.tokens(maps)
        return self.head(self.drop(tokens.mean(1)))


class Pair(nn.Module):
    def forward(self, maps):
        return [maps * 2, maps.mean((3, 4))]


class Frames5d(nn.Module):
    """Rank 5, but a row a frame."""

    def forward(self, maps):
        return maps.transpose(1, 2).flatten(0, 1).unsqueeze(2)


class Tokens(nn.Module):
    def forward(self, maps):
        return maps.flatten(2).transpose(1, 2)


@pytest.fixture
def tiny_net():
    torch.manual_seed(0)
    return TinyNet()


@pytest.fixture
def spec_of():
    """InputSpec of T frames of S px."""

    def make(num_frames, side, **kwargs):
        sampling = Dense(num_frames=num_frames, stride=1)
        return InputSpec(sampling=sampling, short_side_px=side, crop_px=side, **kwargs)

    return make
