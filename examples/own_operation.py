"""An operation of one's own: a gated convolution."""

from torch import nn

import topocell
from topocell.nn.primitives import Primitive
from topocell.testing import check_operation


def gated_conv(channels, stride, affine):
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, stride, 1, bias=False),
        nn.GLU(dim=1),
        nn.BatchNorm2d(channels, affine=affine),
    )


topocell.register("operation", "my_gated_conv", Primitive(gated_conv, label="gated 3×3", family="conv"))


if __name__ == "__main__":
    check_operation("my_gated_conv")
    recipe = topocell.load_recipe("darts-v1", ["space.candidates=[skip_connect,my_gated_conv]"], budget="smoke")
    topocell.run(recipe, "runs/gated")
