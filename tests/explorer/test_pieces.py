import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from inside_cnn.explorer import pieces

HOSTILE = "<img src=x onerror=alert(1)>\"'&${1}{{2}}"


def pictures(html):
    """The images that HTML shows, uint8 (h, w, 3)."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', html)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)


def test_a_picture_is_shown_pixel_for_pixel(image):
    for html in (
        pieces.figures([(image, "a caption", "file.png")]),
        pieces.choices([(image, "a value", "a name", [("critic", "a line")])]),
    ):
        (shown,) = pictures(html)
        assert (shown == image.permute(1, 2, 0).numpy()).all()


def test_what_is_framed(image):
    html = pieces.figures([(image, "", "file.png", (8, 0, 16, 32)), (image, "", "file.png")])
    assert re.findall(r'<i style="([^"]+)"', html) == [
        "top:25.00%;left:0.00%;bottom:50.00%;right:0.00%"
    ]


def test_names_of_classes_are_text_whatever_they_are(image):
    said = {"with G": (1.5, torch.tensor([0.25, 0.75]))}
    names = [HOSTILE, "cat"]
    for html in (
        pieces.figures([(image, HOSTILE, HOSTILE)]),
        pieces.choices([(image, HOSTILE, HOSTILE, [("critic", HOSTILE)])]),
        pieces.verdicts(said, names),
        pieces.note(HOSTILE),
        pieces.heading("with G", HOSTILE),
    ):
        assert "<img src=x" not in html
        assert "&lt;img src=x" in html


def test_verdicts():
    before = {
        "without G": (0.1, torch.tensor([0.9, 0.1])),
        "with G": (2.0, torch.tensor([0.4, 0.6])),
    }
    after = {
        "without G": (0.2, torch.tensor([0.2, 0.8])),
        "with G": (1.0, torch.tensor([0.3, 0.7])),
    }
    html = pieces.verdicts(after, ["cat", "dog"], before)
    assert "<p>cat 90 % → dog 80 %</p>" in html  # whose critic head was not trained
    assert "<p>dog 60 % → dog 70 %; score 2.0 → 1.0</p>" in html
    assert html.count("marked") == 2
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", html)]
    assert widths == pytest.approx([90, 20, 10, 80, 40, 30, 60, 70])
