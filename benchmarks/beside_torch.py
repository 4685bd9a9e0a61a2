"""CPU time of Torch-Pruning on one architecture: python benchmarks/beside_torch.py NAME prints a line of JSON.

`analysis_speed.py --graphs FOLDER` runs this for the graphs that it knows, in turns with tgonnx. It needs torch,
torchvision, timm and torch-pruning, and nothing of tgonnx, so that it may run in an environment of its own. A graph is
of an architecture if its file's name starts with that and a dot, as `resnet18.ts.onnx`. Units are ranked by norm, or at
random where Torch-Pruning cannot do that.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

SIDE = 224  # of images
TORCHVISION = """
    alexnet densenet121 efficientnet_b0 googlenet mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18
    resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t vgg11_bn
""".split()
TIMM = """
    cait_xxs24_224 coat_lite_tiny convnext_atto cspresnet50 deit_tiny_distilled_patch16_224 dla46_c edgenext_xx_small
    efficientvit_b0 ese_vovnet19b_slim eva02_tiny_patch14_224 fastvit_t8 focalnet_tiny_srf gernet_s ghostnet_050
    gmlp_ti16_224 hiera_tiny_224 hrnet_w18_small levit_128s mixer_s32_224 mixnet_s mobilevit_xxs nfnet_l0 pit_ti_224
    poolformer_s12 pvt_v2_b0 repvgg_a0 res2net50_26w_4s rexnet_100 seresnet18 skresnet18 starnet_s050
    vit_tiny_patch16_224 xcit_nano_12_p16_224
""".split()
ARCHITECTURES = (*TORCHVISION, *TIMM)


def module(name: str) -> tuple[Any, Any]:
    """A model without trained weights, and an input of it."""
    import torch

    if name in TORCHVISION:
        import torchvision

        options = {"init_weights": False} if name == "googlenet" else {}
        made = torchvision.models.get_model(name, weights=None, **options)
    else:
        import timm

        made = timm.create_model(name)
    size = getattr(made, "default_cfg", {}).get("input_size", (3, SIDE, SIDE))
    return made.eval(), torch.randn(1, *size)


def seconds(name: str, by: str) -> tuple[float, float]:
    """CPU time of finding what is coupled, and of cutting half of the channels, chosen by norm or at random."""
    import torch
    import torch_pruning

    model, inputs = module(name)
    criteria = {
        "norm": torch_pruning.importance.MagnitudeImportance,
        "random": torch_pruning.importance.RandomImportance,
    }
    ends = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1000]
    started = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model, inputs, importance=criteria[by](), pruning_ratio=0.5, ignored_layers=ends
    )
    built = time.process_time()
    pruner.step()
    return built - started, time.process_time() - built


def main() -> None:
    import torch

    torch.set_num_threads(1)
    seconds("squeezenet1_1", "norm")  # what is imported or compiled at the first use counts for neither side
    try:
        found = seconds(sys.argv[1], "norm")
    except (IndexError, RuntimeError):  # it cannot rank the units of all models
        found = seconds(sys.argv[1], "random")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
