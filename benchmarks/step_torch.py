"""The seven networks of train_step.py in PyTorch: as ONNX files, and as training steps.

    python benchmarks/step_torch.py export FOLDER      # NAME.onnx of each, BatchNormalization kept
    python benchmarks/step_torch.py step NAME WAY THREADS   # answers train_step.py; WAY: nchw or channels_last

It needs torch and onnx, and nothing of tgonnx, so that it may run in an environment of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from step_turns import Network, networks, serve
from torch import nn


class Residual(nn.Module):
    """Two 3x3 convolutions and a way around them (He et al. 2016)."""

    def __init__(self, c: int, m: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Sequential(*unit(c, m, 3, stride)), nn.Sequential(*unit(m, m, 3, 1))
        self.around: nn.Module = nn.Sequential(*unit(c, m, 1, stride)) if c != m else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.around(x))


class Inverted(nn.Module):
    """Wider, by channels, narrower again (Sandler et al. 2018)."""

    def __init__(self, c: int, m: int, stride: int, wider: int) -> None:
        super().__init__()
        n, self.adds = c * wider, c == m and stride == 1
        first = [*unit(c, n, 1, 1), nn.ReLU6()] if wider > 1 else []
        self.body = nn.Sequential(*first, *unit(n, n, 3, stride, n), nn.ReLU6(), *unit(n, m, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def unit(c: int, m: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    """A convolution and its normalisation."""
    conv = nn.Conv2d(c, m, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(m)]


def stages(c: int, widths: Sequence[int], blocks: int) -> Iterator[nn.Module]:
    """Residual blocks; each stage but the first halves the image."""
    for place, m in enumerate(widths):
        for block in range(blocks):
            yield Residual(c, m, 2 if place and not block else 1)
            c = m


def pooled(channels: int, network: Network) -> list[nn.Module]:
    """The end of a CNN."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, network.classes)]


def small_resnet(network: Network, blocks: int) -> nn.Module:
    """The ResNets for small images: three stages of 16, 32 and 64 channels."""
    stem = [*unit(network.shape[0], 16, 3, 1), nn.ReLU()]
    return nn.Sequential(*stem, *stages(16, (16, 32, 64), blocks), *pooled(64, network))


def resnet18(network: Network) -> nn.Module:
    stem = [*unit(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *stages(64, (64, 128, 256, 512), 2), *pooled(512, network))


def mobilenet_v2(network: Network) -> nn.Module:
    layers: list[nn.Module] = [*unit(3, 32, 3, 2), nn.ReLU6()]
    c = 32
    for wider, m, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(count):
            layers.append(Inverted(c, m, 1 if block else stride, wider))
            c = m
    return nn.Sequential(*layers, *unit(c, 1280, 1, 1), nn.ReLU6(), *pooled(1280, network))


def encoder(width: int, heads: int, layers: int) -> nn.ModuleList:
    """Pre-norm layers without Dropout."""
    made = (
        nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        for _ in range(layers)
    )
    return nn.ModuleList(made)


class Vision(nn.Module):
    """ViT-tiny (Dosovitskiy et al. 2021): patches of 16, width 192, 12 layers, 3 heads."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 16, 16)
        self.first = nn.Parameter(torch.zeros(1, 1, 192))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + (network.shape[1] // 16) ** 2, 192))
        self.layers, self.norm, self.head = (
            encoder(192, 3, 12),
            nn.LayerNorm(192),
            nn.Linear(192, network.classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.first.expand(x.shape[0], -1, -1), patches], 1) + self.places
        for layer in self.layers:
            y = layer(y)
        return self.head(self.norm(y)[:, 0])


class Language(nn.Module):
    """A pre-norm transformer over tokens, of width 256; a causal one says the next token, the other one class."""

    def __init__(self, network: Network, causal: bool) -> None:
        super().__init__()
        width, length = 256, network.shape[0]
        self.tokens, self.places = nn.Embedding(network.tokens, width), nn.Embedding(length, width)
        self.layers = encoder(width, 4, 4)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, network.classes)
        self.causal = causal
        self.register_buffer("order", torch.arange(length))
        self.register_buffer("mask", torch.full((length, length), float("-inf")).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.tokens(x) + self.places(self.order)
        for layer in self.layers:
            y = layer(y, src_mask=self.mask if self.causal else None)
        y = self.head(self.norm(y))
        return y.transpose(1, 2) if self.causal else y.mean(1)


MAKERS: dict[str, Callable[[Network], nn.Module]] = {
    "resnet20": lambda n: small_resnet(n, 3),
    "resnet56": lambda n: small_resnet(n, 9),
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "vit_tiny": Vision,
    "bert": lambda n: Language(n, causal=False),
    "gpt": lambda n: Language(n, causal=True),
}


def make(network: Network) -> nn.Module:
    """The network with weights by a fixed seed."""
    torch.manual_seed(0)
    return MAKERS[network.name](network)


def export(folder: Path) -> None:
    """ONNX files with BatchNormalization as nodes of their own, one batch in size."""
    folder.mkdir(parents=True, exist_ok=True)
    for network in networks():
        model = make(network).eval()
        torch.backends.mha.set_fastpath_enabled(False)
        inputs = torch.from_numpy(network.inputs())
        torch.onnx.export(
            model, (inputs,), str(folder / f"{network.name}.onnx"), dynamo=False, opset_version=17,
            input_names=["x"], output_names=["y"], do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip


def stepper(network: Network, way: str) -> Callable[[], float]:
    """A training step in eager mode: cross-entropy and AdamW as torch has them."""
    model = make(network).train()
    x, labels = torch.from_numpy(network.inputs()), torch.from_numpy(network.labels())
    if way == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def main() -> None:
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]))
        return
    name, way, threads = sys.argv[2:]
    torch.set_num_threads(int(threads))
    network = next(n for n in networks() if n.name == name)
    serve(lambda: stepper(network, way))


if __name__ == "__main__":
    main()
