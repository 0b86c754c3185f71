"""The page: its parts, hostile text, and its behavior in a browser without network."""

import base64
import html
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

import report
from browser import pages_of
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import BEFORE_ROUNDING, digest, export_model
from inside_cnn.reporting.page import MAX_FRAMES

FIGURES = (
    *("layers", "robustness", "attack_convergence", "frequency", "calibration", "transfer"),
    *("jittered_images", "jittered_images_with_G", "critic_score_with_G", "max_class_seed_1"),
    *("max_class_without_G", "max_features_without_G_layer4", "max_features_without_G_layer2"),
    *("max_class_with_G", "max_features_with_G_layer4", "max_features_with_G_layer2"),
    "attribution_without_G",
)
EPSILONS = ("0", "0.5", "8", "16")


def picture(path, gray):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (120, 60), (gray, gray, gray)).save(path)


def write(path, content):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    """Small versions of the results of two trainings, visualization.py and evaluate_gan.py."""
    for run, accuracy in (("baseline", 93.5), ("gan", 84.25)):
        write(f"output/{run}/config.json", {"settings": {"data_dir": str(tmp_path)}})
        write(f"output/{run}/summary.json", {"test_accuracy": accuracy})
        picture(f"output/{run}/curves.png", 50)
    for epoch in range(30):
        picture(f"output/gan/samples/{epoch:03d}.png", 8 * epoch)
    picture("output/gan/samples/020 2.png", 0)  # of the user, not displayed
    for name in FIGURES:
        picture(f"visualization/{name}.png", 100)
    for network in ("without_G", "with_G", "seed_1"):
        for epsilon in EPSILONS:
            path = f"visualization/perturbed_{network}_epsilon{epsilon}.png"
            picture(path, int(10 * float(epsilon)))
    perturbation = {"accuracy_after": 12.5, "epsilon": "8/255"}
    write("visualization/summary.json", {"without G": {"perturbation": perturbation}})
    for name in ("samples", "nearest"):
        picture(f"evaluation/{name}.png", 100)
    scores = {"samples": {"frechet_distance": 2.57946, "images": 10000}}
    inception = {"samples against test images": {"fid": 13.0206, "kid": -4e-7}}
    write("evaluation/evaluation.json", {"scores": scores, "inception": {"scores": inception}})
    return tmp_path


def make_page(succeed, *flags):
    """(the page, stdout)."""
    out = succeed(report, *flags)
    return Path("report.html").read_text(), out


def test_page_contains_all_results(succeed, runs):
    page, out = make_page(succeed)
    assert "report: report.html" in out
    for text in ("93.50 %", "84.25 %", "of 8/255, classifier<b>12.50 %"):
        assert text in page
    assert "not made yet" not in page
    assert str(runs) not in page
    labels = re.findall('data-label="(.*?)"', page)
    assert len(labels) == MAX_FRAMES + len(EPSILONS)
    assert (labels[0], labels[MAX_FRAMES - 1]) == ("epoch 0", "epoch 29")
    assert labels[MAX_FRAMES:] == [f"{e}/255" for e in EPSILONS]
    assert page.count(" hidden>") == len(labels) - 2
    cells = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(.*)</tr>", page)]
    assert [row for row in cells if row] == [["2.579", "10,000"], ["13.02", "0"]]

    images = re.findall(r'<img src="data:image/webp;base64,(.*?)" alt="(.*?)">', page)
    assert len(images) == page.count("<img")
    for content, _ in images:
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            image.load()
    alts = [alt for _, alt in images]
    assert alts.count("curves") == 2
    assert {alt.replace(" ", "_") for alt in alts} >= {*FIGURES, "samples", "nearest"}
    order = [f"max features {n} G layer{k}" for k in (2, 4) for n in ("without", "with")]
    assert [alt for alt in alts if "max features" in alt] == order
    assert not re.findall(r"https?://", page)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_missing_parts_show_the_command_that_makes_them(succeed):
    """Files may be missing, and those of an old run may lack fields."""
    write("output/baseline/summary.json", {"epochs_done": 3})
    write("visualization/summary.json", {"with G": {"layers": {"dead_share": [1.0]}}})
    write("evaluation/evaluation.json", {"scores": {"samples": {"precision": None}}})
    page, _ = make_page(succeed)
    assert 'class="card"' not in page
    for command in ("train_discriminator.py", "train_gan.py", "evaluate_gan.py"):
        assert f"<code>python {command}</code>" in page
    assert page.count("not made yet") >= 8
    assert "<img" not in page


def test_published_results_replace_missing_ones(succeed, published):
    for name, accuracy in (("baseline", 94.125), ("gan", 85.5)):
        write(published / name / "config.json", {"settings": {}})
        write(published / name / "summary.json", {"test_accuracy": accuracy})
    page, out = make_page(succeed)
    assert "94.12 %" in page
    assert "no output/gan/config.json: using the published" in out
    write("output/gan/config.json", {"settings": {}})
    write("output/gan/summary.json", {"test_accuracy": 55.5})
    write("mine/summary.json", {"test_accuracy": 66.5})
    page, _ = make_page(succeed)
    assert "94.12 %" in page
    assert "55.50 %" in page
    assert "66.50 %" in make_page(succeed, "--gan", "mine")[0]


def test_hostile_text_is_escaped(succeed, runs):
    """Names of classes and control networks are untrusted."""
    evil = "</script><script>alert(1)</script>{{ 7 * 191 }}"
    scores = {evil: {evil: 0.5}, "surrogate \ud800": {}}
    write("evaluation/evaluation.json", {"scores": scores, "inception": {"left_out": evil}})
    page, _ = make_page(succeed)
    assert evil not in page
    assert page.count(html.escape(evil)) == 2
    assert "1337" not in page
    assert page.count("<script") == 1
    assert "surrogate ?" in page


def test_invalid_paths(refused):
    assert "no folder" in refused(report, "--gan", "nowhere")
    Path("file").touch()
    assert "cannot write" in refused(report, "--output", "file/report.html")


def test_results_of_other_weights_are_left_out(succeed, runs):
    """Scores and figures of a network that a new run has replaced."""
    networks = {
        "baseline/discriminator": Discriminator(2),
        "gan/discriminator": Discriminator(2),
        "gan/generator_raw": Generator(2),
    }
    for name, network in networks.items():
        export_model(network, f"output/{name}.safetensors", {})
    classifier, critic, generator = ({"sha256": digest(n)} for n in networks.values())
    write("evaluation/evaluation.json", {"scores": {"samples": {"recall": 1}}} | generator)
    write("visualization/summary.json", {"without G": classifier, "with G": critic})
    # The metadata of published weights has the digest before rounding.
    rounded, exact = Discriminator(2), {BEFORE_ROUNDING: critic["sha256"]}
    export_model(rounded, "output/gan/discriminator.safetensors", exact)
    page, out = make_page(succeed)
    assert "left out" not in out
    assert "not made yet" not in page

    export_model(Generator(2), "output/gan/generator_raw.safetensors", {})
    page, out = make_page(succeed)
    assert out.count("left out: evaluation (not made with the generator of") == 1
    assert "recall" not in page
    assert 'alt="layers"' in page
    export_model(Discriminator(2), "output/gan/discriminator.safetensors", {})
    page, out = make_page(succeed)
    assert out.count("left out: visualization (not made with the discriminator of") == 1
    assert 'alt="layers"' not in page
    assert len(re.findall("data-label", page)) == MAX_FRAMES  # the run's own samples


def test_sliders_and_phones_in_a_browser(succeed, runs, browser):
    make_page(succeed)
    with pages_of(browser, ready="h1") as open_page:
        check_sliders(open_page(runs / "report.html", viewport={"width": 1280, "height": 900}))
        viewport = {"width": 390, "height": 844}
        page = open_page(runs / "report.html", viewport=viewport, color_scheme="dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        colors = page.evaluate("""() => {
            const style = getComputedStyle(document.body);
            return [style.backgroundColor, style.color];
        }""")
    background, text = (sum(map(int, re.findall(r"\d+", color)[:3])) / 3 for color in colors)
    assert text > background + 150


def check_sliders(page):
    for index, (last, before) in enumerate([("epoch 29", "epoch 28"), ("16/255", "8/255")]):
        slider = page.locator(".slider").nth(index)
        frame = slider.locator(".frame:visible")
        assert slider.locator("output").inner_text() == last == frame.get_attribute("data-label")
        slider.locator("input").focus()
        page.keyboard.press("ArrowLeft")
        assert slider.locator("output").inner_text() == before == frame.get_attribute("data-label")
        assert frame.locator("img").count() == index + 1
