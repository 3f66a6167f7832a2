#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""PyTorch beside `dressage bench forward` and `dressage bench block`: a frozen DINOv2-style ViT, ConvNeXt or ResNet on random weights.

    dressage bench forward block --model l --peer "python3 tools/dressage/peers/torch_parts.py"

Takes the options that `dressage bench` hands to a peer and writes the medians, the best and the worst time in ms. The
blocks are what a careful user writes: fused attention (`scaled_dot_product_attention`), layer scale, no gradient to any
weight, inference mode where nothing is differentiated. Needs Python 3.10 and PyTorch 2.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

PATCH = 16


class Block(nn.Module):
    """x + ls1 Attention(LN x), then x + ls2 MLP(LN x)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ls1, self.ls2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(b, n, c)
        x = torch.addcmul(x, self.ls1, self.proj(y))
        return torch.addcmul(x, self.ls2, self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class Backbone(nn.Module):
    """Patches, class token, positions, blocks; the patch rows of four blocks as maps."""

    def __init__(self, a):
        super().__init__()
        self.grid = a.size // PATCH
        self.taps = {(i + 1) * a.depth // 4 - 1 for i in range(4)}
        self.patch = nn.Conv2d(3, a.width, PATCH, PATCH)
        self.cls = nn.Parameter(torch.randn(1, 1, a.width) * 0.02)
        self.pos = nn.Parameter(torch.randn(1, self.grid ** 2 + 1, a.width) * 0.02)
        self.blocks = nn.ModuleList(Block(a.width, a.heads) for _ in range(a.depth))

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                maps.append(x[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid)).contiguous())
        return maps


class ConvNextBlock(nn.Module):
    """x + gamma MLP(LN depthwise(x)) on channels-last maps, of which the permutations copy nothing."""

    def __init__(self, c):
        super().__init__()
        self.depthwise = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.ones(c))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.fc2(F.gelu(self.fc1(y)))
        return torch.addcmul(x.permute(0, 2, 3, 1), self.gamma, y).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm of the channels of each pixel."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Stem, stages with convolutions that halve the map between them, a norm of each tapped map."""

    def __init__(self, a):
        super().__init__()
        depths = [int(n) for n in a.stages.split(",")]
        widths = [a.width << i for i in range(len(depths))]
        self.reductions = nn.ModuleList([nn.Sequential(nn.Conv2d(3, a.width, 4, 4), ChannelNorm(a.width, eps=1e-6))])
        for c in widths[:-1]:
            self.reductions.append(nn.Sequential(ChannelNorm(c, eps=1e-6), nn.Conv2d(c, 2 * c, 2, 2)))
        blocks = zip(depths, widths)
        self.stages = nn.ModuleList(nn.Sequential(*(ConvNextBlock(c) for _ in range(n))) for n, c in blocks)
        self.norms = nn.ModuleList(ChannelNorm(c, eps=1e-6) for c in widths)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        x = x.to(memory_format=torch.channels_last)
        maps = []
        for reduction, stage, norm in zip(self.reductions, self.stages, self.norms):
            x = stage(reduction(x))
            maps.append(norm(x))
        return maps


def conv_norm(i, o, k, stride=1, relu=True):
    layers = [nn.Conv2d(i, o, k, stride, k // 2, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Bottleneck(nn.Module):
    """relu(shortcut(x) + expand(spatial(reduce(x))))."""

    def __init__(self, i, o, stride, first):
        super().__init__()
        c = o // 4
        self.branch = nn.Sequential(conv_norm(i, c, 1), conv_norm(c, c, 3, stride), conv_norm(c, o, 1, relu=False))
        self.shortcut = conv_norm(i, o, 1, stride, relu=False) if first else nn.Identity()

    def forward(self, x):
        return F.relu(self.branch(x).add_(self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    """A deep stem and four stages of bottlenecks, with the statistics of the weights."""

    def __init__(self, a):
        super().__init__()
        i = a.width // 4
        self.stem = nn.Sequential(
            conv_norm(3, i // 2, 3, 2), conv_norm(i // 2, i // 2, 3), conv_norm(i // 2, i, 3), nn.MaxPool2d(3, 2, 1)
        )
        self.stages = nn.ModuleList()
        for stage, n in enumerate(int(n) for n in a.stages.split(",")):
            o = a.width << stage
            blocks = [Bottleneck(i if k == 0 else o, o, 2 if stage and k == 0 else 1, k == 0) for k in range(n)]
            self.stages.append(nn.Sequential(*blocks))
            i = o
        self.eval().to(memory_format=torch.channels_last)

    def forward(self, x):
        x = self.stem(x.to(memory_format=torch.channels_last))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def timed(a, work):
    """Milliseconds of each run that counts."""
    ms = []
    for i in range(a.warmup + a.iters):
        start = time.perf_counter()
        work()
        if i >= a.warmup:
            ms.append((time.perf_counter() - start) * 1e3)
    return {"median": statistics.median(ms), "min": min(ms), "max": max(ms)}


def forward(a):
    staged = ResNet if a.bottlenecks else ConvNext
    net = (staged(a) if a.stages else Backbone(a)).requires_grad_(False)
    image = torch.randn(a.batch, 3, a.size, a.size)
    with torch.inference_mode():
        return {"inference": timed(a, lambda: net(image))}


def block(a):
    net = Block(a.width, a.heads).requires_grad_(False)
    x, dy = (torch.randn(a.batch, (a.size // PATCH) ** 2 + 1, a.width) for _ in range(2))
    with torch.inference_mode():
        inference = timed(a, lambda: net(x))
    x.requires_grad_()
    both = timed(a, lambda: torch.autograd.grad(net(x), x, dy))
    return {"inference": inference, "forward+backward": both}


def main():
    parts = {"forward": forward, "block": block}
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--part", choices=tuple(parts), required=True)
    p.add_argument("--precision", choices=("fp32",), default="fp32")
    p.add_argument("--device", choices=("cpu",), default="cpu")
    for name, value in (("batch", 1), ("size", 512), ("depth", 24), ("width", 1024), ("heads", 16), ("iters", 5), ("warmup", 1)):
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--network", default="dinov2-l", help="name of the network, for forward")
    p.add_argument("--stages", help="blocks of each stage, such as 3,3,27,3: a ConvNeXt")
    p.add_argument("--bottlenecks", action="store_true", help="the stages are those of a ResNet")
    p.add_argument("--json", metavar="OUT")
    a = p.parse_args()
    if not a.network.startswith(("dinov2-s", "dinov2-b", "dinov2-l", "mae", "convnext", "resnet")):
        p.error(f"no such network here: {a.network}; timm_forward.py has it")
    torch.manual_seed(0)
    result = {"args": vars(a), "environment": {"torch": torch.__version__, "threads": torch.get_num_threads()}}
    result[a.part] = {"ms": parts[a.part](a)}
    print(json.dumps(result[a.part]))
    if a.json:
        with open(a.json, "w") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
