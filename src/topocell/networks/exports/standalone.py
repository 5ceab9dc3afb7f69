"""The formats `standalone` and `timm`: a network as one file of Python that needs PyTorch, or timm, and no topocell."""

import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from topocell.io import files
from topocell.networks.classifier import Classifier
from topocell.networks.exports import reading
from topocell.networks.exports.code import arguments, network_source, quoted, source_of
from topocell.networks.exports.process import Compute, in_process

#: What computes the logits of batches in a process that has no topocell; `load` makes the model in it.
_PROGRAM = """
import sys
sys.modules["topocell"] = None
sys.path.insert(0, ".")
import torch
{load}
batches = torch.load(sys.argv[1], weights_only=True)
torch.set_num_threads(int(sys.argv[3]))
torch.manual_seed(0)
with torch.no_grad():
    torch.save([model(batch) for batch in batches], sys.argv[2])
"""

#: What is said of it where files of images have its channels.
_OF_FILES = """, and Pillow to read files of images.

    python network.py photo.jpg        prints the most probable classes"""

_STANDALONE = '''"""{title}. It needs PyTorch{of_files}

    from network import load
    model = load()
    logits = model(pixels)             pixels (N, {channels}, {height}, {width}), uint8; logits (N, {classes})

Pixels of another type, such as floats for a gradient, are in 0..255 as well; what is not is warned of.

The weights are in network.pt, beside this file.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

{source}


class Classifier({network}):
    """The network, from pixels to logits."""

    def __init__(self, in_channels: int = CHANNELS) -> None:
        super().__init__(
{arguments}
        )
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, C, H, W), uint8, in the precision of the weights."""
        check_scale(pixels)
        return super().forward(((pixels.float() / 255 - self.mean) / self.std).to(self.mean.dtype))


{check}


def load() -> Classifier:
    """The trained network, in evaluation mode, on the CPU."""
    model = Classifier()
    weights = Path(__file__).with_name("network.pt")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()
'''

_READING = """

#: Red, green and blue of what transparent pixels are laid on.
BACKGROUND = {background}


{functions}


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # of names for which the terminal has no characters
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit("usage: python network.py photo.jpg ...")
    network = load()
    for name in sys.argv[1:]:
        try:
            pixels = {reader}(name, SIZE, CHANNELS, BACKGROUND)
        except Exception as fault:  # whatever a decoder makes of a damaged file
            sys.exit(f"error: {{name!r}} cannot be read as an image: {{fault}}")
        with torch.no_grad():
            shares = network(pixels[None]).softmax(1)[0]
        best = shares.argsort(descending=True)[:3].tolist()
        print(f"{{name}}: " + ", ".join(f"{{CLASSES[i]}} {{100 * shares[i]:.1f}} %" for i in best))
"""

_TIMM = '''"""{title}, as a model of timm.

    import timm
    import {name}
    model = timm.create_model("{name}", pretrained=True)

The weights are in model.safetensors, beside this file. Images are normalised with the mean and standard deviation of
the model's default_cfg, as timm's own transforms do.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

{source}


class {model}({network}):
    """The network as timm expects one: normalised images (N, C, H, W) to logits (N, num_classes)."""

    def __init__(
        self, num_classes: int = {classes}, in_chans: int = CHANNELS, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        in_channels = in_chans
        super().__init__(
{arguments}
        )
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.head_hidden_size = self.num_features
        self.reset_classifier(num_classes, global_pool)
        self.ends = [i for i, r in enumerate(self.reductions) if r not in self.reductions[i + 1 :]]
        widths = [channels * len(CELLS[kind]["concat"]) for kind, channels in SLOTS]
        self.feature_info = [
            {{"num_chs": widths[i], "reduction": self.reductions[i], "module": f"cells.{{i}}"}} for i in self.ends
        ]

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Take another last layer, with fresh weights; none for 0 classes. Pooling is avg, max, or empty for none."""
        if global_pool is not None:
            if global_pool not in ("avg", "max", ""):
                raise ValueError(f"global_pool is 'avg', 'max' or '', but got {{global_pool!r}}")
            self.global_pool = global_pool
        if num_classes and not self.global_pool:
            raise ValueError(f"without pooling there are maps, so num_classes is 0, but got {{num_classes}}")
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """The last cell's output (N, num_features, h, w)."""
        return self.features(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The last cell's output, and a list of those of the last cell of each resolution, or of some of these."""
        if norm or output_fmt != "NCHW":
            raise ValueError(f"intermediates are NCHW without norm, but got {{output_fmt!r}} with norm={{norm}}")
        taken = range(len(self.ends)) if indices is None else indices  # a number is that of the last ones
        taken = range(len(self.ends) - taken, len(self.ends)) if isinstance(taken, int) else taken
        outputs: list[Tensor] = []
        x = self.features(x, outputs)
        intermediates = [outputs[self.ends[i]] for i in taken]
        return intermediates if intermediates_only else (x, intermediates)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """There is none."""
        if enable:
            raise NotImplementedError("this model has no gradient checkpointing; use torch.utils.checkpoint")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of the last cell's output; with `pre_logits` the pooled features (N, num_features)."""
        x = self.head(x)
        if self.global_pool:
            x = x.mean((2, 3)) if self.global_pool == "avg" else x.amax((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {{
        "{name}": {{
            "file": str(Path(__file__).with_name("model.safetensors")),
            "num_classes": {classes},
            "input_size": (CHANNELS, *SIZE),
            "mean": MEAN,
            "std": STD,
            "interpolation": "bilinear",
            "crop_pct": {share},
            "crop_mode": {crop},
            "pool_size": None,
            "first_conv": {first},
            "classifier": "classifier",
            "label_names": CLASSES,
            "license": None,
        }},
    }}
)


@register_model
def {name}(pretrained: bool = False, **options: Any) -> {model}:
    """{title}."""
    levels: dict[str, Any] = {{"feature_cls": "getter"}}
    if options.get("features_only"):
        levels["out_indices"] = tuple(range(len({model}().feature_info)))
    return build_model_with_cfg({model}, "{name}", pretrained, feature_cfg=levels, **options)
'''


def write_standalone(model: Classifier, folder: Path, name: str) -> Compute:
    """Write network.py and network.pt. Raises RunError for operations of a user's own."""
    how = model.preprocessing
    source, network = network_source(model)
    text = _STANDALONE.format(
        title=_title(model, name),
        of_files=_OF_FILES if how.channels in (1, 3) else ".",
        source=source,
        network=network,
        arguments=_arguments(model, str(len(how.classes))),
        channels=how.channels,
        height=how.size[0],
        width=how.size[1],
        classes=len(how.classes),
        check=source_of(reading.check_scale),
    )
    if how.channels in (1, 3):
        reader = reading.READERS[how.resize]
        text += _READING.format(
            background=how.background,
            functions="\n\n\n".join(source_of(each) for each in (reader, reading.upright, reading.pixels_of)),
            reader=reader.__name__,
        )
    else:
        text = text.replace("import sys\n", "", 1).replace("from typing import Any\n", "", 1)
    files.replace(folder / "network.py", text.encode())
    files.replace_by(folder / "network.pt", lambda file: torch.save(_weights(model), file))
    return in_process(folder, _PROGRAM.format(load="from network import load\nmodel = load()"))


def write_timm(model: Classifier, folder: Path, name: str) -> Compute:
    """Write NAME.py, which registers the model NAME, and model.safetensors. Raises as `write_standalone`."""
    how = model.preprocessing
    source, network = network_source(model)
    called = model_name(name)
    text = _TIMM.format(
        title=_title(model, name),
        name=called,
        model="".join(word.capitalize() for word in called.split("_")),
        source=source,
        network=network,
        arguments=_arguments(model, "max(num_classes, 1)"),
        classes=len(how.classes),
        share="0.875" if how.resize == "centre" else "1.0",
        crop=quoted("squash" if how.resize == "stretch" else "center"),
        first=quoted("stem.conv" if how.stem == "cifar" else "stem.conv1"),
    )
    files.replace(folder / f"{called}.py", text.encode())
    files.replace(folder / "model.safetensors", safetensors.torch.save(_weights(model)))
    mean, std = (f"torch.tensor({values})[:, None, None]" for values in (how.mean, how.std))
    load = (
        f"import timm\nimport {called}\nnetwork = timm.create_model({quoted(called)}, pretrained=True).eval()\n"
        f"model = lambda pixels: network((pixels.float() / 255 - {mean}) / {std})"
    )
    return in_process(folder, _PROGRAM.format(load=load))


def model_name(name: str) -> str:
    """The name of a model of timm for that of a run: `topocell_photos_2` for `Photos 2`."""
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return "_".join(("topocell", words or "network"))


def _title(model: Classifier, name: str) -> str:
    """What the file is, without what would end a docstring."""
    plain = re.sub(r"[^\w .,+-]", "_", name)
    return f"{plain}: a network of {len(model.classes)} classes, exported by topocell"


def _arguments(model: Classifier, classes: str) -> str:
    values = {**arguments(model), "classes": classes}
    return "\n".join(f"            {key}={value}," for key, value in values.items())


def _weights(model: Classifier) -> dict[str, Tensor]:
    contiguous = torch.contiguous_format
    return {
        name: value.detach().cpu().clone(memory_format=contiguous) for name, value in model.net.state_dict().items()
    }
