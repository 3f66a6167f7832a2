#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""timm beside `dressage bench forward`: the frozen backbones as the library of image models builds them, with random weights.

    dressage bench forward --model eva02-l --peer "python3 tools/dressage/peers/timm_forward.py"

Takes the options that `dressage bench` hands to a peer, of which the sizes of the network are not used, and writes the
median, the best and the worst time in ms. Patches are 16 px, as in the published recipes; convolutional networks run in
the layout that is fastest on a CPU (channels last); the four tapped maps are what is computed. Needs Python 3.10, PyTorch 2
and timm 1.
"""
import argparse
import json

import timm
import torch

from torch_parts import timed

VIT = {
    "dinov2-s": "vit_small_patch14_dinov2",
    "dinov2-b": "vit_base_patch14_dinov2",
    "dinov2-l": "vit_large_patch14_dinov2",
    "dinov2-g": "vit_giant_patch14_dinov2",
    "dinov3-l": "vit_large_patch16_dinov3",
    "dinov3-h-plus": "vit_huge_plus_patch16_dinov3",
    "clip-l": "vit_large_patch14_clip_quickgelu_224",
    "mae-l": "vit_large_patch16_224",
    "eva02-l": "eva02_large_patch14_224",
    "sam-h": "samvit_huge_patch16",
}
STAGED = {"convnext-l": "convnext_large", "resnet50": "resnet50c", "resnet101": "resnet101c"}


def network(name, size):
    """The network as a function of an image."""
    if name in STAGED:
        net = timm.create_model(STAGED[name], features_only=True, out_indices=(0, 1, 2, 3))
        net = net.eval().to(memory_format=torch.channels_last)
        return lambda image: net(image.to(memory_format=torch.channels_last))
    net = timm.create_model(VIT[name], img_size=size, patch_size=16, num_classes=0).eval()
    taps = [(i + 1) * len(net.blocks) // 4 - 1 for i in range(4)]
    return lambda image: net.forward_intermediates(image, indices=taps, norm=False, intermediates_only=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--part", choices=("forward",), required=True)
    p.add_argument("--network", choices=tuple(VIT) + tuple(STAGED), required=True)
    p.add_argument("--precision", choices=("fp32",), default="fp32")
    p.add_argument("--device", choices=("cpu",), default="cpu")
    for name, value in (("batch", 1), ("size", 512), ("iters", 5), ("warmup", 1)):
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--json", metavar="OUT")
    a, _ = p.parse_known_args()
    torch.manual_seed(0)
    forward = network(a.network, a.size)
    image = torch.randn(a.batch, 3, a.size, a.size)
    environment = {"torch": torch.__version__, "timm": timm.__version__, "threads": torch.get_num_threads()}
    with torch.inference_mode():
        result = {"ms": {"inference": timed(a, lambda: forward(image))}}
    print(json.dumps(result))
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"args": vars(a), "environment": environment, "forward": result}, f, indent=1)


if __name__ == "__main__":
    main()
