"""Figures without axes and text: matplotlib takes most of the time of many tests."""

import io

import numpy as np
from PIL import Image

from inside_cnn.engine import plots


def png_of(figure, dpi=None):
    """The pixels of an image grid; a single one of any other figure."""
    canvases = [image.get_array() for image in figure.images]
    buffer = io.BytesIO()
    Image.fromarray(np.asarray((canvases or [np.zeros((1, 1), np.uint8)])[0])).save(buffer, "png")
    return buffer.getvalue()


def use(replace=setattr):
    """Let all figures be such images. replace: called as setattr."""
    replace(plots, "png_of", png_of)
