"""The page: its parts, hostile input, and how it behaves in a real browser without network."""

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import report
from discriminator import Discriminator
from engine.plots import save_image_grid
from engine.weights import digest, export_model
from generator import Generator
from reporting.page import MAX_FRAMES, SCORES
from reporting.sections import PICTURES, SAMPLES
from training import panels

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def grid(path, colour, count=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = torch.full((count, 3, 32, 32), colour, dtype=torch.uint8)
    save_image_grid(images, path, title=path.stem)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """What two trainings, visualization.py and evaluate_gan.py leave, in small."""
    monkeypatch.chdir(tmp_path)
    for run, accuracy in (("baseline", 93.5), ("gan", 84.25)):
        folder = tmp_path / "output" / run
        settings = {"recipe": "muon", "width": 196, "data_dir": str(tmp_path)}
        write(folder / "config.json", {"settings": settings})
        write(folder / "summary.json", {"test_accuracy": accuracy})
        lines = [
            {"epochs_done": e, "test_accuracy": 10.0 * e, "train_loss": 3 / e, "critic_gap": e}
            for e in (1, 2, 3)
        ]
        write(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    for epoch in range(30):
        grid(tmp_path / f"output/gan/samples/{epoch:03d}.png", 8 * epoch)
    pictures = tmp_path / "visualization"
    for which in ("without", "with"):
        for epsilon in ("0", "0.5", "8", "16"):
            grid(pictures / f"perturbed_{which}_G_epsilon{epsilon}.png", int(10 * float(epsilon)))
    for section in PICTURES:
        for file in (file for file in section.files if "*" not in file):
            grid(pictures / file, 100)
    layers = {"receptive_field": [3, 5], "probe_accuracy": [40.0, 51.25]}
    perturbation = {"accuracy_after": 12.5, "epsilon": "8/255"}
    write(
        pictures / "summary.json", {"without G": {"perturbation": perturbation, "layers": layers}}
    )
    for section in SAMPLES:
        for file in section.files:
            grid(tmp_path / "evaluation" / file, 100)
    row = dict.fromkeys(SCORES, 0.5)
    write(tmp_path / "evaluation/evaluation.json", {"scores": {"samples": row}})
    return tmp_path


def made(run_main, *flags):
    code, out, _ = run_main(report, *flags)
    assert code == 0
    return Path("report.html").read_text(), out


def data_in(page, name):
    """The JSON that the page hands to its script under a name."""
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_what_the_runs_left(run_main, runs):
    page, out = made(run_main)
    assert "report: report.html" in out
    for shown in (
        "93.50 %",
        "84.25 %",
        "one step of 8/255, without G<b>12.50 %",
        "51.25",
        '"recipe": "muon"',
    ):
        assert shown in html.unescape(page)
    assert "left out" not in page
    assert str(runs) not in page
    sliders = data_in(page, "sliders")
    labels = [frame["label"] for frame in sliders["epoch"]]
    assert len(labels) == MAX_FRAMES
    assert (labels[0], labels[-1]) == ("epoch 0", "epoch 29")
    epsilons = [frame["label"] for frame in sliders["epsilon"]]
    assert epsilons == [f"{e} of 255 levels" for e in ("0", "0.5", "8", "16")]
    assert [len(frame["images"]) for frame in sliders["epsilon"]] == [2] * 4
    charts = data_in(page, "charts")
    accuracy = next(chart for chart in charts if chart["title"] == "accuracy")
    assert accuracy["xs"] == [1, 2, 3]
    assert accuracy["lines"] == [{"name": "test", "ys": [10.0, 20.0, 30.0]}]


def test_every_image_decodes_and_nothing_is_fetched(run_main, runs):
    page, _ = made(run_main)
    sources = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", page)
    assert len(sources) > 30
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source))) as image:
            image.load()
    rest = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.findall(r'(?:src|href)="(?!")', rest.replace('src=""', ""))
    assert re.findall(r"https?://[^\s\"'<]+", rest) == ["http://www.w3.org/2000/svg"]  # a name


def test_missing_parts_name_the_command_that_makes_them(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, _ = made(run_main)
    for command in ("train_discriminator.py", "train_gan.py", "evaluate_gan.py"):
        assert f"<code>python {command}</code>" in page
    assert page.count("left out") >= 10
    assert "<img" not in page


def test_published_runs_stand_in(run_main, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(published / "baseline/summary.json", {"test_accuracy": 94.125})
    assert "94.12 %" in made(run_main)[0]
    write(tmp_path / "output/gan/config.json", {})  # a run of one's own: nothing is mixed in
    assert "94.12 %" not in made(run_main)[0]
    page, _ = made(run_main, "--baseline", published / "baseline")
    assert "94.12 %" in page


def test_a_run_given_by_flag_is_not_mixed_with_published_ones(
    run_main, published, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write(published / "baseline/summary.json", {"test_accuracy": 94.125})
    write(tmp_path / "mine/summary.json", {"test_accuracy": 55.5})
    page, _ = made(run_main, "--gan", "mine")
    assert "55.50 %" in page
    assert "94.12 %" not in page


def test_hostile_and_damaged_files(run_main, runs):
    evil = "</script><script>alert(1)</script>{{ 7 * 191 }}"
    write(runs / "output/gan/config.json", {"settings": {"recipe": evil}})
    write(runs / "output/gan/metrics.jsonl", f'{{"epochs_done": 1, "critic_gap": 2}}\n{evil}\n')
    write(runs / "output/baseline/summary.json", "{")
    lines = '[1]\n{"epochs_done": "x"}\n{"epochs_done": NaN, "test_loss": 1}\n'
    write(runs / "output/baseline/metrics.jsonl", lines)
    write(runs / "visualization/summary.json", {evil: {"layers": {"cka": [evil]}}, "without G": 7})
    write(runs / "evaluation/evaluation.json", {"scores": {evil: {"recall": evil}, "samples": []}})
    (runs / "visualization/layers.png").write_bytes(b"no picture")
    page, _ = made(run_main)
    assert evil not in page
    assert html.escape(evil) in page  # as text
    assert "1337" not in page
    assert page.count("<script") == 3
    assert "NaN" not in page
    (runs / "output/gan/metrics.jsonl").write_bytes(b"\xff\xfe")
    assert "curves left out" in made(run_main)[0]
    half = "\ud800"  # of a surrogate pair, which JSON may hold and UTF-8 may not
    write(runs / "evaluation/evaluation.json", {"scores": {f"name {half}": {}}})
    assert "name ?" in made(run_main)[0]


def test_json_cannot_end_the_script_element_it_stands_in(run_main, runs, monkeypatch):
    evil = "</script><!--<script>'&"
    hostile = panels.CLASSIFIER._replace(curves={evil: {"test_accuracy": evil}})
    monkeypatch.setattr(panels, "CLASSIFIER", hostile)
    page, _ = made(run_main)
    assert page.count("<script") == page.count("</script>") == 3
    assert "<!--" not in page
    chart = data_in(page, "charts")[0]
    assert (chart["title"], chart["lines"][0]["name"]) == (evil, evil)


def test_every_chart_finds_its_lines(run_main, runs):
    page, _ = made(run_main)
    headings = re.findall(r'data-chart="(\d+)"><h4>(.*?)</h4>', page)
    titles = [chart["title"] for chart in data_in(page, "charts")]
    assert len(headings) > 3
    assert [(int(place), html.unescape(title)) for place, title in headings] == [*enumerate(titles)]


def test_bad_input(refused, runs):
    assert "no folder" in refused(report, "--gan", runs / "nowhere")
    (runs / "file").write_text("kept")
    assert "cannot write" in refused(report, "--output", runs / "file" / "report.html")
    assert (runs / "file").read_text() == "kept"


@pytest.fixture
def browse(run_main, runs):
    """Open the page from the file system in a headless Chromium; nothing may leave or fail."""
    sync = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    made(run_main)
    troubles, address = [], (runs / "report.html").as_uri()
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )

        def check(url):
            if url != address and not url.startswith("data:"):
                troubles.append(url)

        def open_page(**options):
            page = browser.new_page(**options)
            page.on("console", lambda message: troubles.append(message.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("request", lambda request: check(request.url))
            page.goto(address)
            return page

        yield open_page
        browser.close()
    assert troubles == []


DECODED = "images => images.every(image => image.complete && image.naturalWidth > 0)"


def test_in_a_browser(browse):
    page = browse(viewport={"width": 1280, "height": 900})
    assert page.eval_on_selector_all("img", DECODED)
    assert page.eval_on_selector_all(
        "img", "images => images.every(image => image.alt.length > 10)"
    )
    # The sliders change their images, by keyboard too.
    for slider, images in (("epoch", 1), ("epsilon", 2)):
        before = [page.get_attribute(f"#{slider}-{i}", "src") for i in range(images)]
        label = page.inner_text(f"#{slider}-now")
        page.focus(f"#{slider}")
        page.keyboard.press("ArrowLeft")
        after = [page.get_attribute(f"#{slider}-{i}", "src") for i in range(images)]
        assert all(a != b for a, b in zip(after, before, strict=True))
        assert page.inner_text(f"#{slider}-now") != label
        for index in range(images):
            page.eval_on_selector(f"#{slider}-{index}", "async image => await image.decode()")
        assert label not in page.get_attribute(f"#{slider}-0", "alt")
    # The charts read out their values, by pointer and by keyboard.
    chart = page.locator("[data-chart]").filter(has_text="accuracy").first
    assert "epoch 3" in chart.locator("output").inner_text()
    chart.locator("svg").hover(position={"x": 60, "y": 40})
    assert "epoch 1" in chart.locator("output").inner_text()
    chart.locator("svg").focus()
    page.keyboard.press("ArrowRight")
    assert "epoch 2 · test 20" in chart.locator("output").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out(browse, scheme):
    page = browse(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ground, ink = page.evaluate(
        "() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color] }"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in (ground, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")
    assert abs(brightness[0] - brightness[1]) > 150


def test_odd_figures_in_a_browser(request, runs):
    """A diverging loss, one figure without end, and more points than an argument list can hold."""
    losses = [1e16, 1.0, 1e299, -1e299]
    lines = [{"epochs_done": k, "train_loss": losses[k % 4], "lr": 1e17} for k in range(130_000)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write(runs / "output/baseline/metrics.jsonl", text)
    far = {"epochs_done": 1e17, "test_accuracy": 1e16}
    write(runs / "output/gan/metrics.jsonl", json.dumps(far) + "\n")
    page = request.getfixturevalue("browse")(viewport={"width": 1280, "height": 900})
    charts = page.locator("[data-chart]")
    assert charts.count() >= 3
    for index in range(charts.count()):
        assert charts.nth(index).locator("svg text").count() in range(3, 50)
        assert "NaN" not in charts.nth(index).inner_html()


def test_fid_and_controls(run_main, runs):
    row = {"images": 50000, "reference_images": 10000, "fid": 12.3456, "kid": 0.000789}
    content = {"inception": {"scores": {"samples against test images": row, "odd": 7}}}
    write(runs / "evaluation/evaluation.json", content)
    grid(runs / "visualization/max_class_seed_1.png", 100)
    page = made(run_main)[0]
    row = re.search(r'<th scope="row">samples against test images</th>(.*)</tr>', page)[1]
    assert re.findall("<td>(.*?)</td>", row) == ["50,000", "10,000", "12.35", "0.789", "", ""]
    assert page.count('alt="Images that maximise a class, control seed_1"') == 1
    assert page.count('alt="Images that maximise a class, network trained with a generator"') == 1


def test_results_of_other_weights_are_left_out(run_main, runs):
    """Scores, figures and pictures of a network that its run has replaced."""
    judge, critic = (runs / f"output/{r}/discriminator.safetensors" for r in ("baseline", "gan"))
    generator = runs / "output/gan/generator_raw.safetensors"
    networks = [Discriminator(2), Discriminator(2), Generator(2)]
    for path, network in zip((judge, critic, generator), networks, strict=True):
        export_model(network, path, {})
    of_baseline, of_gan, of_generator = map(digest, networks)
    scores = {"samples": dict.fromkeys(SCORES, 0.5)}
    write(runs / "evaluation/evaluation.json", {"sha256": of_generator, "scores": scores})
    layers = {"layers": {"receptive_field": [3], "probe_accuracy": [51.25]}}
    summary = {"without G": {"sha256": of_baseline, **layers}, "with G": {"sha256": of_gan}}
    write(runs / "visualization/summary.json", summary)
    page, out = made(run_main)
    assert "left out" not in page + out
    assert "51.25" in page

    export_model(Generator(2), generator, {})
    page, out = made(run_main)
    assert out.count("left out: evaluation (made of another generator than") == 1
    assert "Scores of the samples" not in page
    assert "The generator&#39;s samples left out" in page
    assert "51.25" in page
    export_model(Discriminator(2), critic, {})
    page, out = made(run_main)
    assert out.count("left out: visualization (made of another discriminator than that in ") == 1
    assert "51.25" not in page
    assert data_in(page, "sliders")["epsilon"] == []
    assert len(data_in(page, "sliders")["epoch"]) == MAX_FRAMES  # the run's own


def test_scores_are_short_and_never_minus_zero(run_main, runs):
    scores = dict.fromkeys(SCORES, 0.12345) | {"kernel_distance": -0.0004}
    write(runs / "evaluation/evaluation.json", {"scores": {"samples": scores}})
    row = re.search(r'<th scope="row">samples</th>(.*)</tr>', made(run_main)[0])[1]
    cells = re.findall("<td>(.*?)</td>", row)
    assert cells == ["0.123", "0", *["0.123"] * (len(SCORES) - 2)]
