"""Learning curves, charts, image grids, animations."""

import io
import itertools
import math
import unicodedata
import warnings

import numpy as np
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from PIL import Image

from inside_cnn.core.files import is_number, write_atomically

_DPI = 100
rcParams["text.parse_math"] = False  # a "$" in the name of a class is a "$"
# For letters that matplotlib's own font lacks, in the names of classes: those of these that a
# machine has.
_MORE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei"),
    *("WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS", "Noto Sans Devanagari"),
)
_INSTALLED = {font.name for font in fontManager.ttflist}
rcParams["font.family"] += [name for name in _MORE_FONTS if name in _INSTALLED]


def save_figure(figure, path):
    """Write a matplotlib figure as PNG, atomically."""
    write_atomically(path, png_of(figure))


def png_of(figure, dpi=_DPI):
    """The bytes of a matplotlib figure as PNG."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box replaces the letter
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


def save_curves(records, path, panels):
    """Write `curves_figure` of the same arguments, if it has any panel."""
    if figure := curves_figure(records, panels):
        save_figure(figure, path)


def curves_figure(records, panels):
    """Learning curves by epoch, a panel each; None if there is nothing to plot.

    panels: {title: {field of the records: name in the legend}}. A field may be missing in some
    records, or not be a number. Panels without any number are left out.
    """
    records = [r for r in records if is_number(r.get("epochs_done"))]
    panels = {
        title: {f: n for f, n in fields.items() if any(is_number(r.get(f)) for r in records)}
        for title, fields in panels.items()
    }
    panels = {title: fields for title, fields in panels.items() if fields}
    if not panels:
        return None
    figure, all_axes = _panels(3, len(panels), (4.2, 3.1))
    for axes, (title, fields) in zip(all_axes, panels.items(), strict=True):
        for field, name in fields.items():
            points = [(r["epochs_done"], r[field]) for r in records if is_number(r.get(field))]
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3)
        axes.set(title=title, xlabel="epoch")
        if records[-1]["epochs_done"] >= 2:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(fields) > 1:
            axes.legend(frameon=False)
    return figure


def save_histograms(values, path, xlabel):
    """Overlaid histograms of {name: 1-D tensor}, each scaled to area 1."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    top = max(float(np.quantile(v, 0.995)) for v in values.values())
    low = min(0.0, *(float(np.quantile(v, 0.005)) for v in values.values()))
    for name, numbers in values.items():
        options = {"range": (low, top), "density": True, "alpha": 0.5, "label": name}
        axes.hist(np.asarray(numbers), bins=60, **options)
    axes.set(xlabel=xlabel, yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)


def save_charts(charts, path, columns=2):
    """Line charts side by side.

    charts: {title: {"x": label, "y": label, "lines": {name: (xs, ys, matplotlib style)}}}; with
    "height", the y axis begins at 0 and reaches at least so far. A legend stands once for the same
    names.
    """
    figure, all_axes = _panels(columns, len(charts), (5.4, 3.8))
    explained = []
    for axes, (title, chart) in zip(all_axes, charts.items(), strict=True):
        for name, (xs, ys, style) in chart["lines"].items():
            axes.plot(xs, ys, label=name, **style)
        axes.set(title=title, xlabel=chart["x"], ylabel=chart["y"])
        if "height" in chart:
            axes.set_ylim(0, max(axes.get_ylim()[1], chart["height"]))
        names = list(chart["lines"])
        if len(names) > 1 and names not in explained:
            explained.append(names)
            axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def evenly_chosen(items, most):
    """At most `most` items of a list, evenly spaced, with the first and the last."""
    count = min(most, len(items))
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def save_animation(frames, path, most=40, width=640, seconds=0.3, last_seconds=2.0):
    """PNG files of one size -> an animated GIF that loops and rests at its last frame.

    At most `most` frames, evenly chosen; wider ones are scaled to `width` pixels.
    Raises OSError or ValueError if a frame cannot be read.
    """
    palette, images = None, []
    for frame in reversed(evenly_chosen(frames, most)):
        with Image.open(frame) as image:
            image = image.convert("RGB")
        if palette is None:  # of the last frame, which has the most colors, for all frames
            size = (min(width, image.width), round(image.height * min(1, width / image.width)))
            palette = image.resize(size).quantize(256, method=Image.Quantize.MEDIANCUT)
        image = image.resize(size, Image.Resampling.LANCZOS)
        images.insert(0, image.quantize(palette=palette, dither=Image.Dither.NONE))
    durations = [int(1000 * seconds)] * (len(images) - 1) + [int(1000 * last_seconds)]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        optimize=True,
    )
    write_atomically(path, buffer.getvalue())


BOX_COLOUR = (255, 40, 160)
TITLE_PIXELS = 15
NAME_WIDTH = 12  # letters that fit above or below a small image


def shortened(name, most=NAME_WIDTH):
    """The name of a class as it fits into a picture: at most so many letters, of wide ones half.

    "golden retriever" -> "golden retr…".
    """
    widths = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name]
    if sum(widths) <= most:
        return name
    fitting = sum(1 for end in itertools.accumulate(widths) if end < most)
    return name[:fitting].rstrip() + "…"


def save_image_grid(images, path, *args, **options):
    """Write an `image_grid` of the same arguments, atomically."""
    write_atomically(path, image_grid(images, *args, **options))


def image_grid(
    images, column_names=(), title="", captions=(), columns=None, scale=3, gap=4, boxes=()
):
    """Images in rows of `columns`, every pixel drawn as scale x scale pixels of a PNG: its bytes.

    images: uint8 (n, 3, h, w); column_names: text above each column; columns: as many as names, or
    10; captions: text below each image, one or two lines, n of them or none; gap: pixels between
    images; boxes: (top, left, bottom, right) in image pixels to be framed in each image or None, n
    of them or none.
    """
    columns = columns or len(column_names) or 10
    images = images.cpu().numpy().transpose(0, 2, 3, 1)
    side = images.shape[1] * scale
    caption_lines = max((c.count("\n") + 1 for c in captions), default=0)
    pitch_x, pitch_y = side + gap, side + gap + 13 * caption_lines
    rows = math.ceil(len(images) / columns)
    width = columns * pitch_x + gap
    title_lines = wrapped(title, width - 2 * gap)
    top = 8 + 20 * len(title_lines) + 18 * bool(column_names)
    height = top + rows * pitch_y + gap
    canvas = np.full((height, width, 3), 255, np.uint8)
    places = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = gap + column * pitch_x, top + row * pitch_y
        shown = image.repeat(scale, 0).repeat(scale, 1)
        if index < len(boxes) and boxes[index] is not None:
            _frame(shown, *(scale * edge for edge in boxes[index]))
        canvas[y : y + side, x : x + side] = shown
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


def wrapped(title, width):
    """A title in lines that are no wider than so many pixels, or of one word."""
    font = FontProperties(weight="bold", size=TITLE_PIXELS)
    lines = []
    for word in title.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_to_path.get_text_width_height_descent(longer, font, False)[0] <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _frame(image, top, left, bottom, right, thickness=2):
    inner = image[top + thickness : bottom - thickness, left + thickness : right - thickness].copy()
    image[top:bottom, left:right] = BOX_COLOUR
    image[top + thickness : bottom - thickness, left + thickness : right - thickness] = inner
