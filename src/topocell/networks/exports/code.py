"""The Python source of one network: its cells as data, and of `plain` the modules that they need."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from textwrap import dedent
from typing import Any

from topocell.errors import RunError
from topocell.genotype.genotype import CellGenotype
from topocell.networks.classifier import Classifier
from topocell.networks.exports import plain
from topocell.spaces.operations import RESIDUAL_OPERATIONS
from topocell.spaces.skeletons import stacking

#: Operation → an expression that makes its module from channels c and stride s, and the classes of `plain` in it.
OPERATIONS: dict[str, tuple[str, tuple[type, ...]]] = {
    "none": ("Zero(s)", (plain.Zero,)),
    "max_pool_3x3": ("nn.MaxPool2d(3, s, 1)", ()),
    "avg_pool_3x3": ("nn.AvgPool2d(3, s, 1, count_include_pad=False)", ()),
    "skip_connect": ("nn.Identity() if s == 1 else FactorizedReduce(c, c)", (plain.FactorizedReduce,)),
    "sep_conv_3x3": ("SepConv(c, s, 3)", (plain.SepConv,)),
    "sep_conv_5x5": ("SepConv(c, s, 5)", (plain.SepConv,)),
    "sep_conv_7x7": ("SepConv(c, s, 7)", (plain.SepConv,)),
    "dil_conv_3x3": ("DilConv(c, s, 3)", (plain.DilConv,)),
    "dil_conv_5x5": ("DilConv(c, s, 5)", (plain.DilConv,)),
    "conv_7x1_1x7": ("Conv7x1(c, s)", (plain.Conv7x1,)),
    "noise": ("Noise(s)", (plain.Noise,)),
    "nor_conv_1x1": ("ReLUConvBN(c, c, 1, s)", (plain.ReLUConvBN,)),
    "nor_conv_3x3": ("ReLUConvBN(c, c, 3, s)", (plain.ReLUConvBN,)),
}
OPERATIONS |= {
    name: (f"Residual({OPERATIONS[inner][0]}, c, s)", (*OPERATIONS[inner][1], plain.FactorizedReduce, plain.Residual))
    for name, inner in RESIDUAL_OPERATIONS.items()
}


def network_source(model: Classifier) -> tuple[str, str]:
    """Return the source of what a network is built of, and the name of the class among it that is the network.

    The source has the constants `CLASSES`, `MEAN`, `STD`, `SIZE` (height, width), `CHANNELS`, `CELLS`, `SLOTS`,
    `OPERATIONS`, and the classes. It needs the names `torch`, `F`, `Tensor` and `nn`.

    Raises:
        RunError: an operation that is not one of topocell's.
    """
    genotype, how = model.file.genotype, model.preprocessing
    kind = stacking(genotype.skeleton)
    placed = {slot.cell_type for slot in model.net.slots}
    cells = {name: cell for name, cell in genotype.cells.items() if name in placed}
    names = [name for name in OPERATIONS if any(name in _names(cell) for cell in cells.values())]
    foreign = sorted({name for cell in cells.values() for name in _names(cell)} - OPERATIONS.keys())
    if foreign:
        raise RunError(
            f"source code is written of topocell's own operations, but this cell has {', '.join(foreign)}; export it "
            f"to safetensors, onnx or pt2"
        )
    constants = [
        ("The classes, in the order of the outputs.", "CLASSES", _tuple(map(quoted, how.classes))),
        ("Images are normalised as (pixels / 255 - mean) / std, one number per channel.", "MEAN", repr(how.mean)),
        ("", "STD", repr(how.std)),
        ("Height and width of the images that it was trained on, in pixels.", "SIZE", repr(how.size)),
        ("", "CHANNELS", repr(how.channels)),
        (
            "The cells: (operation, from node, to node) for each edge; nodes from 0 are the inputs.",
            "CELLS",
            _cells(cells, kind.strides),
        ),
        (
            "The network: type and channels of each cell, in order.",
            "SLOTS",
            _list(f"({quoted(slot.cell_type)}, {slot.channels})" for slot in model.net.slots),
        ),
    ]
    network: type = plain.TwoInputNetwork if kind.preprocess else plain.OneInputNetwork
    stem: type = plain.CifarStem if how.stem == "cifar" else plain.ImageNetStem
    needed = {stem, plain.Cell, plain.PlacedCell, plain.Head, network, *(c for n in names for c in OPERATIONS[n][1])}
    needed |= {plain.ReLUConvBN, plain.FactorizedReduce if kind.preprocess else plain.ResidualBlock}
    ordered = [found for found in vars(plain).values() if isinstance(found, type) and found in needed]
    table = "".join(f"    {quoted(name)}: lambda c, s: {OPERATIONS[name][0]},\n" for name in names)
    parts = [
        "\n".join((f"#: {comment}\n" if comment else "") + f"{name} = {value}" for comment, name, value in constants),
        *(inspect.getsource(found).strip() for found in ordered),
        f"#: Operation → its module for channels c and stride s.\nOPERATIONS = {{\n{table}}}",
    ]
    return "\n\n\n".join(parts), network.__name__


def arguments(model: Classifier) -> dict[str, str]:
    """Return the arguments of the network's class besides `classes`, as expressions; `in_channels` is in scope."""
    how, skeleton = model.preprocessing, stacking(model.file.genotype.skeleton)
    width = model.file.channels * (3 if skeleton.preprocess and how.stem == "cifar" else 1)
    stem = "CifarStem" if how.stem == "cifar" else "ImageNetStem"
    step = f", {skeleton.stem_stride}" if how.stem == "cifar" and skeleton.stem_stride > 1 else ""
    return {
        "cells": "CELLS",
        "slots": "SLOTS",
        "operations": "OPERATIONS",
        "stem": f"{stem}(in_channels, {width}{step})",
        "width": str(width),
        "reduction": str(8 if how.stem == "imagenet" else skeleton.stem_stride),
        **({"shrunk": str(how.stem == "imagenet")} if skeleton.preprocess else {}),
        "norm": str(how.head == "bn-relu" or not skeleton.preprocess),
    }


def source_of(function: Callable[..., Any]) -> str:
    """The source of a function of a module."""
    return dedent(inspect.getsource(function)).strip()


def quoted(text: str) -> str:
    """A text as a literal of Python, on one line, that shows what is in it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in json.dumps(text, ensure_ascii=False))


def _names(cell: CellGenotype) -> set[str]:
    return {name for pairs in cell.nodes for name, _ in pairs}


def _cells(cells: Mapping[str, CellGenotype], strides: Mapping[str, int]) -> str:
    entries = []
    for kind, cell in cells.items():
        numbered = list(enumerate(cell.nodes, cell.inputs))
        edges = [(name, source, node) for node, pairs in numbered for name, source in pairs]
        read = {source for _, source, _ in edges}.union(cell.concat)
        zeros = [node for node, pairs in numbered if not pairs and node in read]
        listed = "".join(f"            ({quoted(name)}, {source}, {node}),\n" for name, source, node in edges)
        entries.append(
            f"    {quoted(kind)}: {{\n"
            f'        "inputs": {cell.inputs},\n'
            + (f'        "edges": [\n{listed}        ],\n' if edges else '        "edges": [],\n')
            + f'        "zeros": {zeros},\n'
            f'        "concat": {list(cell.concat)},\n'
            f'        "stride": {strides[kind]},\n'
            f"    }},\n"
        )
    return f"{{\n{''.join(entries)}}}"


def _tuple(items: Iterable[str]) -> str:
    return "(\n" + "".join(f"    {item},\n" for item in items) + ")"


def _list(items: Iterable[str]) -> str:
    return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
