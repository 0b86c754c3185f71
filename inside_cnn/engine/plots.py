"""Learning curves, charts, image grids, animations."""

import contextlib
import io
import math
import os
import textwrap
import warnings

import numpy as np

try:
    import matplotlib
except ValueError:  # MPLBACKEND is not installed here, as in a command that Jupyter runs
    os.environ["MPLBACKEND"] = "agg"
    import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import MaxNLocator
from PIL import Image

from inside_cnn.core.files import is_number, write_atomically

_DPI = 100
# Fonts for class names with letters that matplotlib's own font lacks, if they are installed.
_FALLBACK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei"),
    *("WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS", "Noto Sans Devanagari"),
)
_INSTALLED = {font.name for font in fontManager.ttflist}


@contextlib.contextmanager
def own_style():
    """A context, or a decorator, in which figures do not depend on the user's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False  # class names may contain "$"
        fonts = [name for name in _FALLBACK_FONTS if name in _INSTALLED]
        matplotlib.rcParams["font.family"] = ["sans-serif", *fonts]
        yield


def save_figure(figure, path):
    """Write a matplotlib figure as PNG, atomically."""
    write_atomically(path, png_of(figure))


@own_style()
def png_of(figure, dpi=_DPI):
    """The bytes of a matplotlib figure as PNG."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _panels(columns, count, size):
    """A figure and its axes, one for each of `count` panels of `size` inches."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


@own_style()
def curves_figure(records, panels):
    """Learning curves by epoch, one panel for each title; None if there is nothing to plot.

    panels: {title: {field of the records: name in the legend}}. Panels without values are omitted.
    """
    lines = {}
    for title, fields in panels.items():
        for field, name in fields.items():
            points = [(r["epochs_done"], r[field]) for r in records if is_number(r.get(field))]
            if points:
                lines.setdefault(title, {})[name] = points
    if not lines:
        return None
    figure, all_axes = _panels(3, len(lines), (4.2, 3.1))
    for axes, (title, curves) in zip(all_axes, lines.items(), strict=True):
        for name, points in curves.items():
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3)
        axes.set(title=title, xlabel="epoch")
        if records[-1]["epochs_done"] >= 2:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(curves) > 1:
            axes.legend(frameon=False)
    return figure


@own_style()
def save_histograms(values, path, xlabel):
    """Overlaid histograms of {name: 1-D tensor}, each scaled to area 1."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    top = max(float(np.quantile(v, 0.995)) for v in values.values())
    low = min(0.0, *(float(np.quantile(v, 0.005)) for v in values.values()))
    for name, numbers in values.items():
        options = {"range": (low, top), "density": True, "histtype": "step", "label": name}
        axes.hist(np.asarray(numbers), bins=60, **options)
    axes.set(xlabel=xlabel, yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)


@own_style()
def save_charts(charts, path, columns=2):
    """Line charts side by side.

    charts: {title: {"x": label, "y": label, "height": where the y axis ends, or above, "lines":
    {name: (xs, ys, matplotlib style)}}}; optional "ticks": texts for x = 1, 2, ... Charts with the
    same names share one legend.
    """
    figure, all_axes = _panels(columns, len(charts), (5.4, 3.8))
    legends = []
    for axes, (title, chart) in zip(all_axes, charts.items(), strict=True):
        for name, (xs, ys, style) in chart["lines"].items():
            axes.plot(xs, ys, label=name, **style)
        axes.set(title=title, xlabel=chart["x"], ylabel=chart["y"])
        axes.set_ylim(0, max(axes.get_ylim()[1], chart["height"]))
        if "ticks" in chart:
            places = range(1, 1 + len(chart["ticks"]))
            axes.set_xticks(places, chart["ticks"], rotation=90, fontsize=7)
        names = list(chart["lines"])
        if len(names) > 1 and names not in legends:
            legends.append(names)
            beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(names) > 6 else {}
            axes.legend(frameon=False, fontsize=8, **beside)
    save_figure(figure, path)


def evenly_chosen(items, most):
    """At most `most` items of a list, evenly spaced, with the first and the last."""
    count = min(most, len(items))
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def save_animation(frames, path):
    """PNG files of one size -> an animated GIF that loops and pauses at its last frame.

    At most 40 frames, evenly spaced, of at most 640 pixels width.
    """
    images = [Image.open(frame).convert("RGB") for frame in evenly_chosen(frames, 40)]
    last = images[-1]  # has the most colors
    size = (min(640, last.width), round(last.height * min(1, 640 / last.width)))
    palette = last.resize(size).quantize(256, method=Image.Quantize.MEDIANCUT)
    images = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    options = {"append_images": images[1:], "loop": 0, "optimize": True}
    options["duration"] = [300] * (len(images) - 1) + [2000]  # milliseconds
    buffer = io.BytesIO()
    images[0].save(buffer, format="GIF", save_all=True, **options)
    write_atomically(path, buffer.getvalue())


BOX_COLOR = (255, 40, 160)
BOX_LINE = 2  # pixels
TITLE_PIXELS, TITLE_LETTER = 15, 10  # height of the text, width of a letter


def shortened(name, most=12):
    """A class name of at most `most` letters: "golden retriever" -> "golden retr…"."""
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def save_image_grid(images, path, *args, **options):
    """Write the `image_grid` of the same arguments, atomically."""
    write_atomically(path, image_grid(images, *args, **options))


@own_style()
def image_grid(
    images, column_names=(), title="", captions=(), columns=None, scale=3, gap=4, boxes=()
):
    """The bytes of a PNG of images in rows of `columns`.

    images: uint8 (n, 3, h, w); column_names: text above each column; columns: default: the number
    of names, or 10; captions: text below each image, one or two lines, n or none; boxes: (top,
    left, bottom, right) in image pixels of a frame in each image, n or none; gap: pixels between
    images; scale: how many times images of 32 pixels are enlarged, larger ones less.
    """
    columns = columns or len(column_names) or 10
    scale = math.ceil(scale * 32 / images.shape[2])
    images = images.cpu().numpy().transpose(0, 2, 3, 1)
    side = images.shape[1] * scale
    caption_lines = max((c.count("\n") + 1 for c in captions), default=0)
    pitch_x, pitch_y = side + gap, side + gap + 13 * caption_lines
    rows = math.ceil(len(images) / columns)
    width = columns * pitch_x + gap
    title_lines = textwrap.wrap(title, (width - 2 * gap) // TITLE_LETTER, break_long_words=False)
    top = 8 + 20 * len(title_lines) + 18 * bool(column_names)
    height = top + rows * pitch_y + gap
    canvas = np.full((height, width, 3), 255, np.uint8)
    places = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = gap + column * pitch_x, top + row * pitch_y
        scaled = image.repeat(scale, 0).repeat(scale, 1)
        if boxes:
            _draw_frame(scaled, *(scale * edge for edge in boxes[index]))
        canvas[y : y + side, x : x + side] = scaled
        places.append((x + side / 2, y + side))
    figure = Figure(figsize=(width / _DPI, height / _DPI))
    figure.figimage(canvas, 0, 0)

    def write(x, y, text, pixels, **style):
        size = pixels * 72 / _DPI
        figure.text(x / width, 1 - y / height, text, fontsize=size, **style)

    for number, line in enumerate(title_lines):
        write(gap, 6 + 20 * number, line, TITLE_PIXELS, va="top", weight="bold")
    for column, name in enumerate(column_names):
        x = gap + column * pitch_x + side / 2
        write(x, top - 4, shortened(name), 13, ha="center", va="bottom")
    for (x, y), caption in zip(places, captions, strict=False):
        write(x, y + 2, caption, 11, ha="center", va="top", linespacing=1.0)
    return png_of(figure)


def _draw_frame(image, top, left, bottom, right):
    box = image[top:bottom, left:right]
    for line in (box[:BOX_LINE], box[-BOX_LINE:], box[:, :BOX_LINE], box[:, -BOX_LINE:]):
        line[:] = BOX_COLOR
