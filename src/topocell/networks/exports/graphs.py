"""The formats `safetensors`, `onnx` and `pt2`: weights for topocell, and graphs for ONNX Runtime and for PyTorch."""

import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topocell.data import preprocessing
from topocell.errors import RunError
from topocell.io import files
from topocell.networks.classifier import Classifier, load
from topocell.networks.exports.process import Compute
from topocell.networks.kept import FILE, weights_name

#: Names of input and output.
INPUT, OUTPUT = "pixels", "logits"


def write_safetensors(model: Classifier, folder: Path, name: str) -> Compute:
    """Write network.json, its weights and preprocessing.json, which `topocell.load` takes."""
    import safetensors.torch

    kept = replace(model.kept, weights=weights_name(0, model.kept.seed))
    described = replace(model.file, networks=(kept,)).to_dict()
    files.replace(folder / FILE, f"{files.to_json(described, indent=2)}\n".encode())
    contiguous = torch.contiguous_format
    weights = {k: v.detach().cpu().clone(memory_format=contiguous) for k, v in model.net.state_dict().items()}
    files.replace(folder / kept.weights, safetensors.torch.save(weights))
    model.preprocessing.save(folder / preprocessing.FILE)
    return computed_by(load(folder))


def write_pt2(model: Classifier, folder: Path, name: str) -> Compute:
    """Write model.pt2, of `torch.export.save`, with preprocessing.json in it and beside it."""
    program = _program(model)
    model.preprocessing.save(folder / preprocessing.FILE)
    extra = {preprocessing.FILE: (folder / preprocessing.FILE).read_text(encoding="utf-8")}
    with _quiet():
        files.replace_by(folder / "model.pt2", lambda file: torch.export.save(program, file, extra_files=extra))
        return computed_by(torch.export.load(folder / "model.pt2").module())


def write_onnx(model: Classifier, folder: Path, name: str) -> Compute:
    """Write model.onnx, with class names and preprocessing as its metadata, and preprocessing.json beside it.

    Raises:
        RunError: a cell with noise, which gives other numbers each time, so that nothing could be checked.
    """
    import onnx
    import onnxruntime

    if any(op == "noise" for cell in model.file.genotype.cells.values() for pairs in cell.nodes for op, _ in pairs):
        raise RunError(
            "a graph of ONNX is checked to give the numbers of the network, but the operation noise gives others each "
            "time; export it to safetensors, standalone or pt2"
        )
    path = folder / "model.onnx"
    with _quiet():
        torch.onnx.export(
            model,
            (_example(model),),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            external_data=False,
            verbose=False,
        )
    graph = onnx.load(path)
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.input):
        del part.metadata_props[:]  # stack traces, which name folders of this machine
    model.preprocessing.save(folder / preprocessing.FILE)
    facts = asdict(model.preprocessing)
    told = {"name": name, "producer": "topocell", "output": "logits; softmax gives probabilities", **facts}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}
    onnx.helper.set_model_props(graph, texts)
    onnx.checker.check_model(graph)
    files.replace(path, graph.SerializeToString(deterministic=True))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def compute(batches: Sequence[Tensor]) -> list[Tensor]:
        return [torch.from_numpy(session.run([OUTPUT], {INPUT: batch.numpy()})[0]) for batch in batches]

    return compute


def computed_by(model: Any) -> Compute:
    """Return what computes logits by a module, in this process; random operations have the seed 0."""

    def compute(batches: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return [model(batch) for batch in batches]

    return compute


def _example(model: Classifier) -> Tensor:
    """Pixels of two images; a batch of one would be taken for a size that is always one."""
    how = model.preprocessing
    return torch.zeros(2, how.channels, *how.size, dtype=torch.uint8)


def _program(model: Classifier) -> torch.export.ExportedProgram:
    with _quiet(), torch.no_grad():
        program = torch.export.export(model, (_example(model),), dynamic_shapes=({0: torch.export.Dim("N")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which names folders of this machine
    return program


@contextmanager
def _quiet() -> Any:
    """Let the exporters of PyTorch say nothing: what they warn of does not concern these networks."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
