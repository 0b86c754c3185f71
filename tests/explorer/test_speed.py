"""The speed of the page of the published networks, in WebAssembly on one thread.

`pytest -m slow tests/explorer/test_speed.py -s` prints the table of docs/explore.md.
"""

import pytest

# Seconds at most, of an idle machine; the code of each.
LIMITS = {
    "forward pass of one image": (0.1, "predict(networks[0].net, [image])"),
    "gradient by the pixels": (0.3, "lossGradient(networks[0].net, image, 0, true)"),
    "attack, one step": (
        0.3,
        """signedStep(Float32Array.from(image), image,
            lossGradient(networks[0].net, image, 0, false), 8, 8)""",
    ),
    "attack, 20 steps": (
        3.0,
        "[...projectedGradient(networks[0].net, image, 0, { epsilon: 8, targeted: false })]",
    ),
    "sixteen samples": (
        2.0,
        """Array.from({ length: 16 }, (_, number) =>
            generate(generator, [latentOf(generator, { seed: 0, label: 0, number })]))""",
    ),
    "first step of an optimization": (1.0, "robustAscent(networks[0].net, goal, options).next()"),
    "ablation on 200 images, layer 8": (1.0, "without(8)"),
    "ablation on 200 images, layer 1": (8.0, "without(1)"),
}


@pytest.mark.slow
def test_speed(full_size, open_page):
    opening = []
    for _ in range(3):
        page = open_page(full_size.path, "tab=ablation")
        script = "() => performance.getEntriesByName('ready')[0].startTime"
        opening.append(page.evaluate(script) / 1000)
    seconds = {"until the page is ready": min(opening)}
    page.locator("#stop").wait_for(state="hidden", timeout=120_000)
    page.evaluate(
        """() => {
            window.image = images[0];
            window.goal = { layer: 0, index: 0 };
            window.options = { ...ROBUST.class };
            const kept = {};
            for (const layer of [1, 8]) {
                kept[layer] = Array.from({ length: 20 }, (_, i) =>
                    keptActivations(networks[0].net, layer, images.slice(10 * i, 10 * i + 10)));
            }
            const features = [1, 2, 3, 5, 8, 13];
            window.without = (layer) => kept[layer].map((activations) =>
                predictWithout(networks[0].net, layer, features, activations));
        }"""
    )
    for name, (_, code) in LIMITS.items():
        script = f"() => {{ const t = performance.now(); {code}; return performance.now() - t; }}"
        repeats = 3 if "layer" in name else 5
        times = [page.evaluate(script) / 1000 for _ in range(1 + repeats)][1:]
        seconds[name] = min(times)
    print("", *(f"| {name} | {value:.2f} s |" for name, value in seconds.items()), sep="\n")
    limits = {"until the page is ready": 4.0} | {name: limit for name, (limit, _) in LIMITS.items()}
    assert {name: value for name, value in seconds.items() if value > limits[name]} == {}
