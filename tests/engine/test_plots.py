import subprocess
import sys

import pytest
import torch
from matplotlib.image import imread

import processes
from inside_cnn.engine import plots
from inside_cnn.engine.plots import BOX_COLOR, curves_figure, save_charts, save_image_grid

pytestmark = pytest.mark.usefixtures("matplotlib_plots")


def test_image_grid_shows_every_pixel(tmp_path):
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    images[range(3), range(3)] = 255  # red, green, blue, black
    path = tmp_path / "grid.png"
    save_image_grid(images, path, columns=2, scale=2)
    picture = imread(path)[:, :, :3]
    assert picture.shape == (8 + 2 * 68 + 4, 4 + 2 * 68, 3)
    for index, (row, column) in enumerate([(8, 4), (8, 72), (76, 4), (76, 72)]):
        block = picture[row : row + 64, column : column + 64]
        expected = [float(channel == index) for channel in range(3)]
        assert (block == torch.tensor(expected).numpy()).all()


def test_image_grid_with_texts(tmp_path):
    """The second line of a caption has room too."""
    images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    names, captions = [f"class {i}" for i in range(10)], ["one\ntwo"] * 20
    save_image_grid(images, tmp_path / "plain.png")
    save_image_grid(images, tmp_path / "full.png", names, "title", captions)
    heights = [imread(tmp_path / f"{name}.png").shape[0] for name in ("plain", "full")]
    assert heights[1] == heights[0] + 38 + 2 * 26


def test_boxes_are_framed(tmp_path):
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    path = tmp_path / "grid.png"
    save_image_grid(images, path, columns=1, scale=4, boxes=[(2, 3, 10, 32)])
    picture = (imread(path)[:, :, :3] * 255).round().astype(int)
    framed = (picture[8:136, 4:132] == BOX_COLOR).all(-1)
    rows, columns = framed.nonzero()
    assert (rows.min(), rows.max() + 1) == (8, 40)
    assert (columns.min(), columns.max() + 1) == (12, 128)
    assert not framed[10:38, 14:126].any()
    assert framed[8:10, 12:128].all()


@pytest.fixture
def plotted(monkeypatch):
    """A list of the saved figures."""
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_y_axis_of_a_chart_with_a_height_starts_at_0(plotted):
    for ys in ([0.0, 0.0], [40.0, 60.0]):
        chart = {"x": "layer", "y": "%", "height": 10, "lines": {"one": ([1, 2], ys, {})}}
        save_charts({"a": chart}, "charts.png")
    flat, high = (figure.axes[0].get_ylim() for figure in plotted)
    assert flat == (0, 10)
    assert high[0] == 0
    assert high[1] > 60


def test_charts_with_the_same_names_share_a_legend(plotted):
    axes = {"x": "x", "y": "y", "height": 1}
    charts = {
        title: axes | {"lines": {name: ([0, 1], [0, 1], {}) for name in names}}
        for title, names in (("1", "ab"), ("2", "ab"), ("3", "ac"), ("4", "ab"))
    }
    save_charts(charts, "charts.png")
    legends = [axes.get_legend() for axes in plotted[0].axes]
    assert [legend is not None for legend in legends] == [True, False, True, False]
    assert [text.get_text() for text in legends[2].get_texts()] == ["a", "c"]


def test_curves(tmp_path):
    records = [{"epochs_done": e, "loss": 1 / e} | ({"acc": e} if e > 1 else {}) for e in (1, 2, 3)]
    panels = {"loss": {"loss": "train"}, "acc": {"acc": "a", "no": "b"}}
    plots.save_figure(curves_figure(records, panels), tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").std() > 0
    assert curves_figure([], panels) is None


def test_evenly_chosen_items_include_both_ends():
    for count, expected in ((101, [0, 25, 50, 75, 100]), (3, [0, 1, 2]), (0, [])):
        assert plots.evenly_chosen(list(range(count)), 5) == expected


def test_long_class_names_are_shortened():
    assert plots.shortened("twelve lette") == "twelve lette"
    assert plots.shortened("golden retriever") == "golden retr…"
    assert plots.shortened("a very long name") == "a very long…"


def test_figures_do_not_depend_on_the_environment(tmp_path):
    """A matplotlibrc, and MPLBACKEND as Jupyter sets it for the commands of a notebook."""
    code = """
import hashlib, torch
from inside_cnn.engine.plots import image_grid
images = torch.arange(4 * 3072).reshape(4, 3, 32, 32).to(torch.uint8)
digest = hashlib.sha256(image_grid(images, ["a", "b"], "title", list("abcd"))).hexdigest()
"""
    lines = ("savefig.bbox: tight", "image.origin: lower", "text.usetex: True", "text.color: white")
    (tmp_path / "matplotlibrc").write_text("\n".join(lines))
    own = {"MPLBACKEND": "module://not_installed.backend", "MATPLOTLIBRC": str(tmp_path)}
    command = [sys.executable, "-c", f"{code}print(digest)"]
    printed = subprocess.check_output(command, env=processes.ENVIRONMENT | own, text=True)
    here = {}
    exec(code, here)
    assert printed.strip() == here["digest"]
