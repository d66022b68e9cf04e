"""Networks with the module names of published checkpoints, written from their naming rules.

Nothing here comes from the package: these are the references that loaded weights are held against.
Frames are [N*T,3,S,S], logits [N,K]; time is the outer part of neither.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

MOBILENET_V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
MOBILENET_V2 += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
"""Expansion, channels, blocks, stride of each stage (arXiv:1801.04381, table 2)."""


class Shifted(nn.Module):
    """What comes after a shift is called `net`."""

    def __init__(self, net, num_frames):
        super().__init__()
        self.net, self.num_frames = net, num_frames

    def forward(self, frames):
        clips = frames.unflatten(0, (-1, self.num_frames)).clone()
        part = clips.shape[2] // 8
        from_next = torch.roll(clips[:, :, :part], -1, 1)
        from_next[:, -1] = 0
        from_last = torch.roll(clips[:, :, part : 2 * part], 1, 1)
        from_last[:, 0] = 0
        rest = clips[:, :, 2 * part :]
        return self.net(torch.cat([from_next, from_last, rest], 2).flatten(0, 1))


class Tam(nn.Module):
    """TANet's module, by its formula: y[t] = sum over k of kernel[k] * (x * scale)[t + k - 1]."""

    def __init__(self, channels, num_frames):
        super().__init__()
        self.num_frames = num_frames
        self.G = nn.Sequential(
            nn.Linear(num_frames, 2 * num_frames, bias=False),
            nn.BatchNorm1d(2 * num_frames),
            nn.ReLU(),
            nn.Linear(2 * num_frames, 3, bias=False),
            nn.Softmax(-1),
        )
        self.L = nn.Sequential(
            nn.Conv1d(channels, channels // 4, 3, padding=1, bias=False),
            nn.BatchNorm1d(channels // 4),
            nn.ReLU(),
            nn.Conv1d(channels // 4, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, frames):
        clips = frames.unflatten(0, (-1, self.num_frames))
        means = clips.mean((3, 4)).transpose(1, 2)  # [N,C,T]
        kernel = self.G(means.flatten(0, 1)).unflatten(0, means.shape[:2])  # [N,C,3]
        weighed = clips * self.L(means).transpose(1, 2)[..., None, None]
        padded = F.pad(weighed, (0, 0, 0, 0, 0, 0, 1, 1))
        total = 0
        for k in range(3):
            part = padded[:, k : k + self.num_frames]
            total = total + part * kernel[:, None, :, k, None, None]
        return total.flatten(0, 1)


class ConvModule(nn.Module):
    """mmcv's: `conv`, `bn`, an activation."""

    def __init__(self, dim_in, dim_out, kernel, stride=1, groups=1, act=None):
        super().__init__()
        self.conv = nn.Conv2d(
            dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(dim_out)
        self.act = act or nn.Identity()

    def forward(self, frames):
        return self.act(self.bn(self.conv(frames)))


class Bottleneck(nn.Module):
    """mmaction2's, style pytorch: the stride is that of the 3x3."""

    def __init__(self, dim_in, dim, stride, has_downsample):
        super().__init__()
        self.conv1 = ConvModule(dim_in, dim, 1, act=nn.ReLU())
        self.conv2 = ConvModule(dim, dim, 3, stride, act=nn.ReLU())
        self.conv3 = ConvModule(dim, 4 * dim, 1)
        self.downsample = ConvModule(dim_in, 4 * dim, 1, stride) if has_downsample else None

    def forward(self, frames, tam=None):
        out = self.conv1(frames)
        out = self.conv3(self.conv2(out if tam is None else tam(out)))
        return F.relu(out + (frames if self.downsample is None else self.downsample(frames)))


class TaBlock(nn.Module):
    def __init__(self, block, num_frames):
        super().__init__()
        self.block = block
        self.tam = Tam(block.conv1.conv.out_channels, num_frames)

    def forward(self, frames):
        return self.block(frames, self.tam)


class MmactionResNet(nn.Module):
    def __init__(self, depths, num_frames, temporal, every=1):
        super().__init__()
        self.conv1 = ConvModule(3, 64, 7, 2, act=nn.ReLU())
        dim_in = 64
        for stage, depth in enumerate(depths):
            dim, blocks = 64 * 2**stage, []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                block = Bottleneck(dim_in, dim, stride, has_downsample=number == 0)
                dim_in = 4 * dim
                if temporal == "shift" and number % every == 0:
                    block.conv1.conv = Shifted(block.conv1.conv, num_frames)
                blocks.append(TaBlock(block, num_frames) if temporal == "tam" else block)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, frames):
        maps = F.max_pool2d(self.conv1(frames), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(maps))))


class MmactionInverted(nn.Module):
    def __init__(self, dim_in, dim_out, stride, expansion, num_frames):
        super().__init__()
        wide = dim_in * expansion
        layers = [ConvModule(dim_in, wide, 1, act=nn.ReLU6())] if expansion > 1 else []
        layers.append(ConvModule(wide, wide, 3, stride, groups=wide, act=nn.ReLU6()))
        layers.append(ConvModule(wide, dim_out, 1))
        self.adds = stride == 1 and dim_in == dim_out
        if self.adds and expansion > 1 and num_frames:
            layers[0] = Shifted(layers[0], num_frames)
        self.conv = nn.Sequential(*layers)

    def forward(self, frames):
        return frames + self.conv(frames) if self.adds else self.conv(frames)


class MmactionMobileNetV2(nn.Module):
    def __init__(self, num_frames):
        super().__init__()
        self.conv1 = ConvModule(3, 32, 3, 2, act=nn.ReLU6())
        dim = 32
        for stage, (expansion, dim_out, depth, stride) in enumerate(MOBILENET_V2, start=1):
            blocks = []
            for number in range(depth):
                own = 1 if number else stride
                blocks.append(MmactionInverted(dim, dim_out, own, expansion, num_frames))
                dim = dim_out
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.conv2 = ConvModule(dim, 1280, 1, act=nn.ReLU6())

    def forward(self, frames):
        maps = self.conv1(frames)
        for stage in range(1, 8):
            maps = getattr(self, f"layer{stage}")(maps)
        return self.conv2(maps)


class Recognizer(nn.Module):
    """mmaction2's Recognizer2D: `backbone`, `cls_head.fc_cls`, the mean of the frames' logits."""

    def __init__(self, backbone, dim, num_classes, num_frames):
        super().__init__()
        self.backbone = backbone
        self.cls_head = nn.ModuleDict({"fc_cls": nn.Linear(dim, num_classes)})
        self.num_frames = num_frames

    def forward(self, frames):
        logits = self.cls_head["fc_cls"](self.backbone(frames).mean((2, 3)))
        return logits.unflatten(0, (-1, self.num_frames)).mean(1)


class MitInverted(nn.Module):
    """Convolutions, norms and activations of a block in one row."""

    def __init__(self, dim_in, dim_out, stride, expansion, num_frames):
        super().__init__()
        wide = dim_in * expansion
        row = []
        if expansion > 1:
            row += [nn.Conv2d(dim_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        row += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)]
        row += [nn.BatchNorm2d(wide), nn.ReLU6()]
        row += [nn.Conv2d(wide, dim_out, 1, bias=False), nn.BatchNorm2d(dim_out)]
        self.adds = stride == 1 and dim_in == dim_out
        if self.adds and len(row) == 8:
            row[0] = Shifted(row[0], num_frames)
        self.conv = nn.Sequential(*row)

    def forward(self, frames):
        return frames + self.conv(frames) if self.adds else self.conv(frames)


class MitMobileNetV2(nn.Module):
    def __init__(self, num_frames):
        super().__init__()
        row = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())]
        dim = 32
        for expansion, dim_out, depth, stride in MOBILENET_V2:
            for number in range(depth):
                own = 1 if number else stride
                row.append(MitInverted(dim, dim_out, own, expansion, num_frames))
                dim = dim_out
        head = nn.Sequential(nn.Conv2d(dim, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6())
        self.features = nn.Sequential(*row, head)

    def forward(self, frames):
        return self.features(frames).mean((2, 3))


class MitTsn(nn.Module):
    """`base_model` without its classifier, `new_fc`, all in `module` of DataParallel."""

    def __init__(self, base_model, dim, num_classes, num_frames):
        super().__init__()
        self.base_model = base_model
        self.new_fc = nn.Linear(dim, num_classes)
        self.num_frames = num_frames

    def forward(self, frames):
        logits = self.new_fc(self.base_model(frames))
        return logits.unflatten(0, (-1, self.num_frames)).mean(1)


def mit_resnet(build, dim, num_classes, num_frames, every=1):
    net = build(weights=None)
    net.fc = nn.Identity()
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for number, block in enumerate(stage):
            if every and number % every == 0:
                block.conv1 = Shifted(block.conv1, num_frames)
    return MitTsn(net, dim, num_classes, num_frames)


def with_random_norms(network, seed=0):
    """In eval mode, with statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 10)
    return network.eval()
