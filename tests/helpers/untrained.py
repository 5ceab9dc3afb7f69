"""Networks with weights and statistics that nobody trained, as classifiers and as directories of them."""

from pathlib import Path
from typing import Any

import torch

from topocell.data.preprocessing import Preprocessing
from topocell.genotype.genotype import Genotype
from topocell.networks.classifier import Classifier
from topocell.networks.exports.graphs import write_safetensors
from topocell.networks.kept import Kept, NetworkFile
from topocell.nn.network import FixedNet


def classifier(
    genotype: Genotype,
    layers: int = 5,
    channels: int = 4,
    *,
    images: tuple[int, int, int] = (3, 16, 16),
    classes: tuple[str, ...] = ("a", "b|c", "ü\n"),
    resize: Any = "fit",
    stem: str = "cifar",
    head: str = "plain",
) -> Classifier:
    """A network whose batch norms all differ from the identity."""
    torch.manual_seed(0)
    deep, *size = images
    mean, std = ((0.4, 0.5, 0.45)[:deep], (0.2, 0.25, 0.3)[:deep]) if deep <= 3 else ((0.5,) * deep, (0.25,) * deep)
    how = Preprocessing(classes, mean, std, (size[0], size[1]), deep, resize, (255, 0, 0), stem, head)
    file = NetworkFile(genotype, channels, layers, (Kept(0, "weights.safetensors", 0.5),))
    return Classifier(shaken(file.build(how)), how, file, file.networks[0])


def shaken(net: FixedNet) -> FixedNet:
    """Give every batch norm other numbers."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.3)
            for tensor in (module.running_var, module.weight.data):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return net


def directory(model: Classifier, path: Path) -> Path:
    """A directory that `topocell.load` takes."""
    path.mkdir(parents=True)
    write_safetensors(model, path, "untrained")
    return path
