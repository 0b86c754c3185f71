"""The page as a user sees it."""

import re

import pytest
import torch
from PIL import Image

import own_images
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import export_model
from inside_cnn.explorer.page import contents_of, write_page

WAIT = 60_000  # ms, of a busy machine


def finished(page):
    """Wait for the end of the computation; returns the text of the result."""
    page.locator("#stop").wait_for(state="hidden", timeout=WAIT)
    assert page.locator("#status span").inner_text() == "ready"
    return page.locator("section:visible .result").inner_text()


def wait_for_step(page, step):
    """Wait until an optimization has reached a step."""
    script = "(n) => Number(/step (\\d+) of/.exec(find('#status span').textContent)?.[1]) >= n"
    page.wait_for_function(script, arg=step, timeout=WAIT)


def pictures(page, selector="section:visible .result canvas"):
    """The pixels of the displayed pictures."""
    return page.eval_on_selector_all(selector, "all => all.map((canvas) => canvas.toDataURL())")


def field(page, name):
    return page.locator(f"form:visible [name={name}]")


def set_slider(page, name, value):
    script = """(slider, value) => {
        slider.value = value;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
    }"""
    field(page, name).evaluate(script, str(value))


def test_attack(small, open_page):
    page = open_page(small.path, "attack.epsilon=16")
    text, (image, _, attacked) = finished(page), pictures(page)
    assert image != attacked
    assert "epsilon 16/255" in text
    assert re.search(r"classifier: 0_disc \d+ % → (?!0_disc)", text)  # the small one is not robust
    set_slider(page, "epsilon", 0)
    finished(page)
    assert pictures(page)[0] == pictures(page)[2]
    seen = {image, attacked}
    page.get_by_label("epsilon").fill("16")
    for name, value in (
        ("method", "step"),
        ("network", "1"),
        ("target", "3"),
        ("method", "noise"),
    ):
        field(page, name).select_option(value)
        finished(page)
        seen.add(pictures(page)[2])
    assert len(seen) == 6
    page.locator(".strip figure").nth(4).click()
    finished(page)
    assert pictures(page)[0] not in seen


def test_sample(small, open_page):
    page = open_page(small.path, "tab=sample")
    finished(page)
    first = pictures(page)
    assert len(first) == 17
    assert first[0] == first[1]
    assert page.locator("figcaption .critic").count() == 16
    set_slider(page, "position", 50)
    field(page, "grid").select_option("walk")
    finished(page)
    walk = pictures(page)
    assert walk[0] != first[0]
    page.locator(".grid button").nth(15).click()
    finished(page)
    assert pictures(page)[0] == walk[16]
    page.get_by_role("button", name="→ attack").click()
    finished(page)
    assert pictures(page)[0] == walk[16]
    page.get_by_role("button", name="Sample", exact=True).click()
    finished(page)
    page.get_by_text("Mixture of classes").click()
    set_slider(page, "position", 0)
    set_slider(page, "share4", 100)
    set_slider(page, "share0", 50)
    finished(page)
    assert pictures(page)[0] not in (*first, *walk)


def test_feature_visualization_can_be_stopped_and_continued(small, open_page):
    page = open_page(small.path, "tab=maximize&maximize.layer=3&maximize.feature=2")
    wait_for_step(page, 20)
    page.get_by_role("button", name="Stop").click()
    stopped = pictures(page)[0]
    page.wait_for_timeout(300)
    assert pictures(page)[0] == stopped
    page.get_by_role("button", name="Continue").click()
    wait_for_step(page, 30)
    assert pictures(page)[0] != stopped
    assert page.get_by_text("classifier: layer 3, feature 2").is_visible()
    assert page.locator(".small figure i").count() == 8  # strongest images with receptive fields
    page.get_by_role("button", name=re.compile(r"feature \d")).click()  # of the other network
    page.get_by_text(re.compile("critic: layer 3, feature")).wait_for()
    field(page, "method").select_option("pixels")
    field(page, "layer").select_option("0")
    field(page, "label").select_option("7")
    page.get_by_text("critic: 7_crescent").wait_for()
    wait_for_step(page, 3)


def test_activations_and_compare(small, open_page):
    page = open_page(small.path, "tab=compare&choose.image=3")
    finished(page)
    assert page.locator(".result figure").count() == 1 + 2 * 8 * 4
    button = page.locator(".four").nth(9).locator("button").first  # the critic's layer 5
    number = button.inner_text() or button.locator("xpath=..").inner_text()
    button.click()
    page.get_by_text(f"critic: layer 5, feature {number}").wait_for()
    wait_for_step(page, 3)
    assert page.get_by_text("std above mean").is_visible()
    assert page.locator(".result .row").nth(0).locator("figure").count() == 12
    assert page.locator(".result .row").nth(1).locator("figure").count() == 8  # all of the critic
    assert page.locator(".result figure i").count() == 1 + 1 + 8
    before = pictures(page)
    set_slider(page, "image", 5)
    wait_for_step(page, 3)
    assert pictures(page)[0] != before[0]


def test_ablation(small, open_page):
    page = open_page(small.path, "tab=ablation")
    whole = finished(page)
    assert "accuracy on 200 images" in whole
    page.get_by_label("or the ten that favor").select_option("2")
    text = finished(page)
    assert "without 10 of 12 features" in text
    before, after = re.search(r"all classes\s+([\d.]+) %\s+([\d.]+) %", text).groups()
    assert before in whole
    assert float(after) < float(before) - 10
    page.get_by_label("features, such as").fill("3, 99")
    page.get_by_text("99 is not a number or a range from 0 to 11").wait_for()
    field(page, "network").select_option("generator")
    page.get_by_label("features, such as").fill("0-7")
    assert "without 8 of 8 features" in finished(page)
    shown = pictures(page)
    assert len(shown) == 32
    assert len(set(shown[16:])) == 1  # nothing is left but the biases
    assert field(page, "layer").input_value() == "7"  # the generator has no eighth block
    page.evaluate("() => { location.hash = 'tab=ablation'; }")
    page.get_by_text("accuracy on 200 images").wait_for(timeout=WAIT)
    assert field(page, "layer").input_value() == "8"


def test_address_restores_the_state(small, open_page):
    page = open_page(small.path, "tab=attack&choose.image=9&attack.epsilon=6&attack.target=4")
    before = finished(page), pictures(page)
    field(page, "method").select_option("step")
    finished(page)
    again = open_page(small.path, page.url.partition("#")[2])
    assert (finished(again), pictures(again)) == (finished(page), pictures(page))
    again.locator("form:visible [name=method]").select_option("pgd")
    assert (finished(again), pictures(again)) == before


@pytest.mark.parametrize(
    "fragment",
    [
        "tab=nothing&attack.epsilon=1e9&attack.method=magic&choose.image=-5",
        "tab=sample&sample.number=x&sample.seed=-1&sample.label=99&sample.share3=1e99",
        "tab=activations&activations.layer=2.5&activations.feature=7:99&choose.source=own",
        "tab=activations&activations.feature=constructor:prototype",
        "tab=maximize&maximize.feature=99999&maximize.layer=9&maximize.method=pixels",
        "tab=ablation&ablation.layer=12&ablation.network=7&%%%",
    ],
)
def test_address_without_meaning(small, open_page, fragment):
    page = open_page(small.path, fragment)
    page.locator("section:visible .result > *").first.wait_for(timeout=WAIT)
    page.wait_for_timeout(300)
    assert "error" not in page.locator("#status").inner_text()


def test_many_quick_changes(small, open_page):
    """The last one counts."""
    page = open_page(small.path)
    for value in [*range(1, 16), 12]:
        set_slider(page, "epsilon", value)
    assert "epsilon 12/255" in finished(page)
    fresh = open_page(small.path, "attack.epsilon=12")
    assert finished(fresh) == finished(page)
    assert pictures(fresh) == pictures(page)


def open_picture(page, file):
    page.locator("[name=source]").select_option("own")
    page.locator("[type=file]").set_input_files(file)


def test_own_pictures(small, open_page, tmp_path):
    """The right pixels, of every kind of file."""
    blue, red = (40, 90, 220), (200, 30, 40)
    picture = Image.new("RGB", (300, 200), blue)
    picture.paste(red, (0, 0, 150, 200))  # the left half
    transparent = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 90 degrees clockwise to display it
    files = {
        "plain.png": (picture, {}, red, blue),
        "cmyk.jpg": (picture.convert("CMYK"), {"quality": 95}, red, blue),
        "turned.jpg": (picture, {"exif": turned, "quality": 95}, red, red),
        "gray16.png": (Image.new("I;16", (40, 40), 32768), {}, (128,) * 3, (128,) * 3),
        "transparent.png": (transparent, {}, (255,) * 3, (255,) * 3),
        "animated.gif": (
            Image.new("RGB", (50, 50), red),
            {"save_all": True, "append_images": [Image.new("RGB", (50, 50), blue)]},
            red,
            red,
        ),
    }
    page = open_page(small.path, "tab=compare")
    for name, (content, options, left, right) in files.items():
        content.save(tmp_path / name, **options)
        open_picture(page, tmp_path / name)
        page.get_by_text(name, exact=True).wait_for()
        finished(page)
        got = page.evaluate("() => [...ownPicture.image]")
        rows = torch.tensor(got).view(32, 32, 3)
        for column, expected in ((8, left), (24, right)):
            assert (rows[4, column] - torch.tensor(expected)).abs().max() <= 12, (name, column)


def test_bad_own_pictures(small, open_page, tmp_path):
    noise = torch.randint(256, (200, 200, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(tmp_path / "complete.png")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "complete.png").read_bytes()[:20_000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "huge.png").write_bytes(own_images.huge_png(20_000, 20_000))
    page = open_page(small.path, "tab=compare")
    for name in ("text.png", "truncated.png", "empty.jpg", "huge.png"):
        open_picture(page, tmp_path / name)
        page.get_by_text(re.compile(f"{name}: ")).wait_for()
        assert page.get_by_text("Open a picture.").is_visible()
    open_picture(page, tmp_path / "complete.png")  # the page goes on
    page.get_by_text("complete.png", exact=True).wait_for()
    assert page.locator("#choose .error").inner_text() == ""


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        pytest.param(390, "light", marks=pytest.mark.slow),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(1280, "light", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_cut_off(small, open_page, width, scheme):
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = open_page(small.path, **view)
    finished(page)
    for name in ("Sample", "Feature visualization", "Activations", "Compare", "Ablation"):
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_tabs_and_sliders_by_keyboard(small, open_page):
    page = open_page(small.path)
    finished(page)
    page.get_by_role("button", name="Compare").focus()
    page.keyboard.press("Enter")
    finished(page)
    page.locator("[name=image]").focus()
    page.keyboard.press("ArrowRight")
    finished(page)
    assert "choose.image=1" in page.url


def page_of(folder, models, classes, **options):
    paths = {"without G": None, "with G": None, "generator": None}
    for name, model in models.items():
        paths[name] = folder / f"{name}.safetensors"
        metadata = {"class_names": [f"class {k}" for k in range(classes)], "critic": "full"}
        export_model(model, paths[name], metadata)
    write_page(contents_of(paths, **options), folder / "explore.html")
    return folder / "explore.html"


@pytest.mark.parametrize("classes", [2, 7, 64])
def test_a_gan_alone(tmp_path, open_page, classes):
    models = {
        "with G": Discriminator(width=8, num_classes=classes),
        "generator": Generator(width=8, latent_dim=70),
    }
    page = open_page(page_of(tmp_path, models, classes))
    assert "critic: class" in finished(page)
    assert page.locator("section:visible table").count() == 1
    for name in ("Sample", "Compare", "Ablation", "Activations"):
        page.get_by_role("button", name=name, exact=True).click()
        finished(page)
    assert page.get_by_text("from the gallery").count() == 1
    assert pictures(page)


def test_a_classifier_alone_without_images(tmp_path, open_page):
    path = page_of(tmp_path, {"without G": Discriminator(width=8, num_classes=3)}, 3)
    page = open_page(path)
    page.get_by_text("Open a picture.").wait_for()
    assert page.locator("nav button").all_inner_texts() == [
        "Attack",
        "Feature visualization",
        "Activations",
        "Compare",
    ]
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    page.locator("[type=file]").set_input_files(tmp_path / "red.png")
    page.get_by_text(re.compile("attacked")).wait_for()
    finished(page)
    for name in ("Activations", "Compare"):
        page.get_by_role("button", name=name, exact=True).click()
        assert finished(page)
    page.get_by_role("button", name="Feature visualization").click()
    wait_for_step(page, 3)


@pytest.mark.slow  # without a GPU, WebGL takes long
def test_webgl_is_compared_first(small, open_page):
    page = open_page(small.path)
    finished(page)
    page.locator("#gpu").click()
    page.locator("#gpu[disabled]").wait_for(timeout=WAIT)
    finished(page)
    backend, text = page.evaluate("tf.getBackend()"), page.locator("#gpu").inner_text()
    assert backend == ("webgl" if text == "uses the GPU" else "wasm")


@pytest.mark.slow
def test_memory_does_not_grow(small, open_page):
    page, counts = open_page(small.path), []
    for value in range(30):
        set_slider(page, "epsilon", 1 + value % 15)
        finished(page)
        counts.append(page.evaluate("tf.memory().numTensors"))
    assert counts[-1] == counts[1]
    for fragment in ("tab=maximize&maximize.layer=2", "tab=ablation&ablation.features=1"):
        for _ in range(3):
            page.evaluate("(hash) => { location.hash = hash; }", fragment)
            page.wait_for_timeout(300)
    page.evaluate("() => { location.hash = 'tab=attack'; }")
    page.wait_for_timeout(300)
    finished(page)
    assert page.evaluate("tf.memory().numTensors") <= counts[-1] + 50  # the kept activations
