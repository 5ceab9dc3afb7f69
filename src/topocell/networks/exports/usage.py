"""How each format is used: the block of code on its model card, and what to know of it."""

from collections.abc import Sequence

from topocell.data.preprocessing import Preprocessing
from topocell.io.files import file_name
from topocell.networks.exports.reading import READERS
from topocell.networks.exports.standalone import model_name

#: What the blocks that read images by Pillow alone leave out.
_DEEP = " Images of more than 8 bits per channel are to be brought to 8 first."


def usage(to: str, how: Preprocessing, name: str, imports: Sequence[str]) -> tuple[str, str]:
    """Return Python code that runs in the directory of an export, beside an image `photo.jpg`, and sentences on it.

    Args:
        to: the format.
        how: how images are prepared.
        name: of the network.
        imports: pieces of the user's own that loading it may need.
    """
    return {
        "safetensors": _safetensors,
        "onnx": _onnx,
        "standalone": _standalone,
        "pt2": _pt2,
        "timm": _timm,
    }[to](how, name, imports)


def _safetensors(how: Preprocessing, name: str, imports: Sequence[str]) -> tuple[str, str]:
    named = ", ".join(map(file_name, imports))
    brings = f" It was trained with `--import` {named}, which loading it needs where its cell has pieces of these."
    brings = brings if imports else ""
    image = '"photo.jpg"' if how.channels in (1, 3) else f"torch.zeros({how.channels}, {how.size[0]}, {how.size[1]})"
    head = "import topocell\n" if how.channels in (1, 3) else "import torch\n\nimport topocell\n"
    code = f"""{head}
model = topocell.load(".")
for prediction in model.predict({image}):
    print(prediction.name, prediction.label, prediction.probability)
"""
    return code, f"For topocell (`pip install topocell`), also as a command: `topocell predict . photo.jpg`.{brings}"


def _onnx(how: Preprocessing, name: str, imports: Sequence[str]) -> tuple[str, str]:
    code = f"""import json

import numpy as np
import onnxruntime
{_pillow(how)}
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
{_pixels(how)}
logits = session.run(["logits"], {{"pixels": pixels}})[0]
print(classes[int(logits[0].argmax())])
"""
    return code, (
        "For ONNX Runtime and whatever else reads ONNX. The input `pixels` is uint8 (N, C, H, W) with any N, from 0 to "
        "255: normalisation is part of the graph. The output `logits` is float32 (N, classes); softmax makes "
        "probabilities of it. Class names and preprocessing are in the metadata of the model and in preprocessing.json."
        + _DEEP
    )


def _standalone(how: Preprocessing, name: str, imports: Sequence[str]) -> tuple[str, str]:
    reads = ""
    if how.channels in (1, 3):
        reads = (
            " To read files of images it needs Pillow; `python network.py photo.jpg` prints the most probable classes."
        )
        reader = READERS[how.resize].__name__
        constants = "BACKGROUND, CHANNELS, CLASSES, SIZE"
        image, names = f'{reader}("photo.jpg", SIZE, CHANNELS, BACKGROUND)[None]', f"{constants}, {reader}, load"
    else:
        image, names = "torch.zeros(1, CHANNELS, *SIZE, dtype=torch.uint8)", "CHANNELS, CLASSES, SIZE, load"
    code = f"""import torch
from network import {names}

model = load()
pixels = {image}
with torch.no_grad():
    probabilities = model(pixels).softmax(1)[0]
print(CLASSES[int(probabilities.argmax())], float(probabilities.max()))
"""
    return code, (
        "For PyTorch alone: network.py holds the network as plain modules, network.pt its weights (a state dict of "
        "PyTorch, read with weights_only=True, since safetensors would be one more package)." + reads
    )


def _pt2(how: Preprocessing, name: str, imports: Sequence[str]) -> tuple[str, str]:
    code = f"""import json

import numpy as np
import torch
{_pillow(how)}
files = {{"preprocessing.json": ""}}
model = torch.export.load("model.pt2", extra_files=files).module()
classes = json.loads(files["preprocessing.json"])["classes"]
{_pixels(how)}
with torch.no_grad():
    logits = model(torch.from_numpy(pixels))
print(classes[int(logits[0].argmax())])
"""
    return code, (
        "A graph of `torch.export`, for PyTorch alone, AOTInductor or ExecuTorch. It takes pixels (N, C, H, W), uint8, "
        "with any N, and returns logits (N, classes)." + _DEEP
    )


def _timm(how: Preprocessing, name: str, imports: Sequence[str]) -> tuple[str, str]:
    called = model_name(name)
    if how.channels in (1, 3):
        head = f"import timm\nimport torch\n{_pillow(how)}\nimport {called}  # registers the model\n"
        image = (
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
            f"{_opened(how)}\nx = transform(image)[None]"
        )
    else:
        head = f"import timm\nimport torch\n\nimport {called}  # registers the model\n"
        image = f"x = torch.zeros(1, {how.channels}, {how.size[0]}, {how.size[1]})"
    code = f"""{head}
model = timm.create_model("{called}", pretrained=True).eval()
{image}
with torch.no_grad():
    logits = model(x)
print({called}.CLASSES[int(logits[0].argmax())])
"""
    return code, (
        f"For timm: importing {called}.py registers the model; the weights are in model.safetensors. It takes images "
        "that are normalised already, as all models of timm do; its default_cfg has their mean and standard deviation. "
        "`num_classes` gives it another last layer, `in_chans` another number of channels. timm's own transforms round "
        "differently where images are scaled." + _DEEP
    )


def _pillow(how: Preprocessing) -> str:
    return "from PIL import Image, ImageOps\n" if how.channels in (1, 3) else ""


def _pixels(how: Preprocessing) -> str:
    """Lines that make `pixels`, an array (1, C, H, W) of uint8."""
    height, width = how.size
    if how.channels not in (1, 3):
        return f"pixels = np.zeros((1, {how.channels}, {height}, {width}), np.uint8)"
    order = "[None, None]" if how.channels == 1 else ".transpose(2, 0, 1)[None]"
    size = f"({width}, {height}), Image.Resampling.BILINEAR"
    sized = {
        "fit": f"image = ImageOps.fit(image, {size})",
        "stretch": f"image = image.resize({size})",
        "centre": f"""side = min(image.size)
image = image.resize([{round(width * 8 / 7)} * length // side for length in image.size], Image.Resampling.BILINEAR)
left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)
image = image.crop((left, top, left + {width}, top + {height}))""",
    }[how.resize]
    return f"{_opened(how)}\n{sized}\npixels = np.array(image){order}"


def _opened(how: Preprocessing) -> str:
    """The lines that make `image`, upright and laid on the background, of a mode of Pillow."""
    mode = "L" if how.channels == 1 else "RGB"
    return f"""image = ImageOps.exif_transpose(Image.open("photo.jpg"))
if image.has_transparency_data:
    background = Image.new("RGBA", image.size, {(*how.background, 255)})
    image = Image.alpha_composite(background, image.convert("RGBA"))
image = image.convert("{mode}")"""
