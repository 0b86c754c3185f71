"""The page in a process of its own: in a real browser, and asked by others."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from PIL import Image

from discriminator import Discriminator
from generator import Generator
from inside_cnn.data import shapes
from inside_cnn.engine.weights import export_model
from inside_cnn.explorer.drawing import Drawing
from own_images import write_set

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
EPSILON = "epsilon, levels of 255"
ODD = "<i>${1 + 1}{{2}}"  # a name out of weights may be anything
NAMES = [f"{k}_{name}" for k, name in enumerate([*shapes.CLASS_NAMES[:-1], ODD])]
ABOUT = {"dataset": "folder", "class_names": NAMES}


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """The page of small networks in a process of its own: (address, its folder, process id)."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("explored")
    torch.manual_seed(0)
    for run, file, model in (
        ("baseline", "discriminator", trained),
        ("gan", "discriminator", Discriminator(width=8)),
        ("gan", "generator", Generator(width=8, latent_dim=30)),
    ):
        path = folder / "output" / run / f"{file}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        export_model(model, path, ABOUT)
    train, test = shapes.load_shapes()
    write_set(folder / "mine", train.first(60), test.first(300), NAMES)
    temporary = folder / "tmp"
    temporary.mkdir()
    process = start(folder, folder / "connections", temporary, "--data_dir", folder / "mine")
    try:
        yield address_of(process), folder, process.pid
        process.terminate()  # in the background of a shell SIGINT may be ignored
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    assert list(temporary.glob("explore-*")) == []  # gradio's cache
    hosts = set((folder / "connections").read_text().split())
    assert hosts <= {"127.0.0.1", "localhost", "::1"}


def start(folder, log, temporary, *flags):
    """explore.py on the runs in `folder`, as a process that notes where it connects."""
    helper = ROOT / "tests" / "helpers" / "connections.py"
    command = [sys.executable, helper, log, ROOT / "explore.py", "--no_browser", "--device", "cpu"]
    command += flags
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def address_of(process):
    """The address that it tells, once the page stands."""
    told = []
    for line in process.stdout:
        told.append(line)
        if found := re.search(r"the page: (http://\S+)", line):
            return found[1]
    pytest.fail("".join(told))


@pytest.fixture
def browse(served):
    """browse(query, **options): the page in a headless Chromium; nothing may leave or fail."""
    sync = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    address, *_ = served
    troubles = []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )

        def check(url):
            if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:")):
                troubles.append(url)

        def open_page(query="", **options):
            page = browser.new_page(**options)
            page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("request", lambda request: check(request.url))
            page.goto(f"{address}/{query}")
            page.locator(":is(.figures img, .note, .verdicts, .choices):visible").first.wait_for()
            return page

        yield open_page
        browser.close()
    assert troubles == []


def tab(page, name):
    return page.get_by_role("tab", name=name)


def shown(page):
    """The text and the pictures that stand on the open tab."""
    words = page.locator(".verdicts:visible").inner_text()
    return words, page.eval_on_selector_all(".figures img", "all => all.map(image => image.src)")


def changes(page, action):
    """Do something, wait until the words or the pictures are others; returns them."""
    before = shown(page)
    action()
    for _ in range(200):
        page.wait_for_timeout(50)
        if shown(page) != before:
            page.wait_for_timeout(300)  # what else was under way
            return shown(page)
    pytest.fail(f"nothing changed: {before[0]}")


def set_slider(page, label, value):
    number = page.get_by_label(f"number input for {label}")
    number.fill(str(value))
    number.press("Enter")


def test_mislead(browse):
    page = browse()
    words, pictures = shown(page)
    assert pictures[0] == pictures[2]  # epsilon is 0
    assert re.search(r"classifier\n\n?(\w+ \d+ %) → \1", words)
    moved, perturbed = changes(page, lambda: set_slider(page, EPSILON, 16))
    assert perturbed[0] == pictures[0]
    assert len({*perturbed, pictures[1]}) == 4
    assert moved != words
    changes(page, lambda: page.get_by_label("critic", exact=True).check())
    changes(page, lambda: page.get_by_label("20 steps (PGD)").check())
    page.get_by_label("toward another class").check()
    changes(page, lambda: page.get_by_label("noise").check())
    chosen, _ = changes(page, lambda: page.locator(".choices:visible button").nth(3).click())
    assert chosen != moved


@pytest.mark.slow
def test_an_upload(browse, tmp_path):
    page = browse()
    Image.new("RGB", (300, 200), "red").save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_text("no picture")
    upload = page.locator("input[type=file]").first
    _, pictures = changes(page, lambda: upload.set_input_files(tmp_path / "red.png"))
    assert pictures[0] == pictures[2]
    upload.set_input_files(tmp_path / "bad.png")
    page.get_by_text("not taken: the file is not a picture").wait_for()
    changes(page, lambda: set_slider(page, EPSILON, 8))  # the page goes on


@pytest.mark.slow
def test_draw_and_send(browse):
    page = browse()
    tab(page, "Draw").click()
    page.locator(".choices:visible button").nth(15).wait_for()
    assert page.locator(".choices:visible button").count() == 16
    changes(page, lambda: set_slider(page, "number", 5))
    changes(page, lambda: set_slider(page, "how far along the way", 0.5))
    page.get_by_label("the way in sixteen steps").check()
    page.wait_for_timeout(500)
    changes(page, lambda: page.locator(".choices:visible button").nth(12).click())
    page.get_by_role("button", name="mislead this one").click()
    page.get_by_label("number input for epsilon").wait_for()
    page.get_by_text("the image", exact=True).wait_for()
    assert "mislead.image=drawn" in page.url


@pytest.mark.slow
def test_maximise(browse):
    page = browse("?tab=maximise&maximise.what=feature&maximise.layer=2&maximise.feature=3")
    page.get_by_text("classifier: layer 2, feature 3").first.wait_for()
    best = page.get_by_text("the best of its starts")
    best.first.wait_for(timeout=120_000)
    assert best.count() == 2  # of each network
    first = shown_pictures(page)[0]
    page.get_by_role("button", name="the images that excite it most").click()
    page.locator(".figures.small:visible").nth(1).wait_for(timeout=120_000)
    assert page.locator(".figures.small:visible a i").count() == 16  # what the unit sees, framed
    page.get_by_label("a class", exact=True).check()
    page.get_by_role("button", name="climb").click()
    page.get_by_text(f"critic: {NAMES[0]}").first.wait_for()
    best.first.wait_for(timeout=120_000)
    assert first not in shown_pictures(page)


def test_look_inside(browse):
    page = browse("?tab=look_inside&look_inside.layer=3&look_inside.feature=without+G:+2")
    grids = page.locator(".choices:visible")
    grids.nth(2).locator("button").nth(5).wait_for()
    classifier, critic = grids.nth(1), grids.nth(2)
    assert classifier.locator("button").count() == critic.locator("button").count() == 6
    words = critic.locator("button").nth(1).inner_text()
    critic.locator("button").nth(1).click()
    number = re.search(r"feature (\d+)", words)[1]
    page.get_by_text(f"critic: layer 3, feature {number}").wait_for()  # not the address's feature
    page.locator(".figures:visible a i").nth(8).wait_for(timeout=120_000)
    assert f"with+G%3A+{number}" in page.url
    assert page.locator(".figures:visible a i").count() == 1 + 8
    before = classifier.inner_html()
    grids.nth(0).locator("button").nth(2).click()
    for _ in range(100):
        if classifier.inner_html() != before:
            break
        page.wait_for_timeout(50)
    assert classifier.inner_html() != before


def test_switch_off(browse):
    page = browse("?tab=switch_off&switch_off.layer=8")
    page.get_by_text("0 of 12 features of layer 8 silenced").wait_for()
    set_slider(page, "so many of them", 6)
    page.get_by_text("6 of 12 features of layer 8 silenced").wait_for()
    rows = page.locator(".verdicts:visible tbody tr").all_inner_texts()
    shares = [tuple(map(float, row.split()[-2:])) for row in rows]
    assert any(before > after + 10 for before, after in shares)
    assert rows[-1].startswith(NAMES[-1])
    page.get_by_label("and these").fill("3, 99")
    page.get_by_text("99: the numbers go from 0 to 11").wait_for()
    whole = shown_pictures(page)
    page.get_by_label("without its channels").fill("0-7")
    page.get_by_text("without 8 of them").wait_for()
    assert shown_pictures(page)[:8] == whole[:8]
    assert shown_pictures(page)[8:] != whole[8:]


def shown_pictures(page):
    return page.eval_on_selector_all(
        ".figures img", "all => all.filter(i => i.offsetParent).map(image => image.src)"
    )


def test_the_address_brings_a_state_back(browse):
    page = browse()
    page.locator(".choices:visible button").nth(4).click()
    before = changes(page, lambda: set_slider(page, EPSILON, 6))
    query = page.url[page.url.index("?") :]
    again = browse(query)
    again.wait_for_timeout(1500)
    assert shown(again) == before
    drawn = Drawing(seed=4, label=2, number=3).to_text().replace(" ", "+")
    sent = browse(f"?tab=draw&draw.class=2&draw.number=3&mislead.image=drawn+{drawn}")
    sent.get_by_role("button", name="mislead this one").wait_for()


def test_an_address_that_means_nothing(browse):
    nothing = "?tab=nothing&mislead.epsilon=1e9&mislead.how=magic&draw.number=2.5&draw.seed=x"
    page = browse(nothing)
    assert shown(page)[1]
    page = browse("?tab=look_inside&look_inside.layer=2.5&look_inside.feature=with+G:+99")
    page.locator(".choices:visible").nth(2).locator("button").first.wait_for()
    page = browse("?mislead.image=drawn+9+9")
    page.get_by_text("Choose an image, or upload one.").wait_for()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        *[
            pytest.param(*other, marks=pytest.mark.slow)
            for other in ((390, "light"), (1280, "dark"), (1280, "light"))
        ],
    ],
)
def test_nothing_is_cut_off(browse, width, scheme):
    page = browse(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for name in ("Draw", "Maximise", "Look inside", "Switch off", "Mislead"):
        tab(page, name).click()
        page.wait_for_timeout(300)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width


@pytest.mark.slow
def test_many_quick_moves_and_two_tabs_of_the_browser(browse):
    """The last state wins."""
    pages = [browse(), browse()]
    for value in [*range(1, 50), 12]:
        for page in pages:
            set_slider(page, EPSILON, value % 16)
    for page in pages:
        page.get_by_text("perturbed, at most 12 levels").wait_for()
    assert shown(pages[0]) == shown(pages[1])


def status(address, path, **headers):
    """The HTTP status of a request to the page."""
    request = urllib.request.Request(f"{address}/{path}", headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_who_may_talk_to_it(served):
    address, *_ = served
    assert status(address, "config") == 200
    assert status(address, "config", Origin=address) == 200
    assert status(address, "config", Host="somewhere.example") == 403
    assert status(address, "config", Origin="https://somewhere.example") == 403
    for path in ("file=http://192.0.2.1/", "file%3Dhttp://192.0.2.1/", "proxy=x", "runs"):
        assert status(address, f"gradio_api/{path}") == 403, path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("early", [True, False])
def test_a_signal_leaves_nothing_behind(two_runs, number, early):
    temporary = two_runs / "tmp"
    temporary.mkdir()
    process = start(two_runs, two_runs / "log", temporary)
    if early:
        while not list(temporary.glob("explore-*")) and process.poll() is None:
            time.sleep(0.01)
    else:
        address_of(process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert list(temporary.glob("explore-*")) == []


@pytest.mark.slow
def test_memory_does_not_grow(browse, served):
    """From the second fifty moves to the fifth."""
    page, sizes = browse(), []
    for _ in range(5):
        for value in range(50):
            changes(page, lambda value=value: set_slider(page, EPSILON, 1 + value % 15))
        status = Path(f"/proc/{served[2]}/status").read_text()
        sizes.append(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]))
    assert sizes[4] - sizes[1] < 10_000


def test_no_file_of_the_machine_is_served(served):
    address, folder, _ = served
    weights = folder / "output" / "gan" / "generator.safetensors"
    for path in (weights, ROOT / "README.md", ROOT / "explore.py", "/etc/passwd"):
        for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "../"):
            assert status(address, f"{route}{path}") in (403, 404)
