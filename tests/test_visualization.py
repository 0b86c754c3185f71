import base64
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import data_tools
import visualization
from discriminator import Discriminator
from generator import Generator
from inside_cnn.data import shapes
from inside_cnn.engine.plots import save_image_grid
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.interpretability import adversarial_figures, maximization_figures
from inside_cnn.interpretability.activation_maximization import feature_objective, maximize
from inside_cnn.interpretability.layer_probes import distinct, stand_out
from inside_cnn.interpretability.network import WEIGHTS, Network
from inside_cnn.interpretability.top_images import strongest_units


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    """So that no run of the user's own in output/ is taken."""
    monkeypatch.chdir(tmp_path)


QUICK = ["--limit_test", "60", "--steps", "3", "--device", "cpu", "--precision", "fp32"]

# ------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("flags", "perturb", "classes", "layers"),
    [
        ([], True, True, [2, 4, 6, 8]),
        (["--max_features", "4"], None, None, [4]),
        (["--max_features", "1", "8"], None, None, [1, 8]),
        (["--max_features"], None, None, [2, 4, 6, 8]),
        (["--max_features", "True"], None, None, [2, 4, 6, 8]),
        (["--max_features", "False"], True, True, []),
        (["--perturb_images"], True, None, None),
        (["--perturb_images", "True"], True, None, None),
        (["--perturb_images", "False"], False, True, [2, 4, 6, 8]),
        (["--max_classification_output", "true", "--perturb_images", "false"], False, True, None),
    ],
)
def test_sections(flags, perturb, classes, layers):
    args = visualization.parse_args(flags)
    whole = perturb is not None and classes is not None and layers is not None
    assert args.all_sections == whole
    for name in (
        "compare_layers",
        "attribution",
        "animation",
        "frequency",
        "calibration",
        "critic_score",
        "transfer",
    ):
        assert bool(getattr(args, name)) == whole
    assert args.perturb_images == perturb
    assert args.max_classification_output == classes
    assert args.max_features == layers


def test_epsilon_is_in_pixel_levels():
    for text, value in (("8", 8.0), ("8/255", 8.0), ("0", 0.0), ("0.5", 0.5)):
        assert visualization.parse_args(["--epsilon", text]).epsilon == value
    assert visualization.parse_args([]).epsilon == 8


# ------------------------------------------------------------------------------ the script


def shown_features(weights_path, layer):
    """The features of a layer that a picture has to show."""
    model, _ = load_model(weights_path)
    images = data_tools.load_shapes()[1].first(60).images
    values = strongest_units(Network("", model), images, [layer])[layer][0]
    measure = stand_out(values)
    return distinct(values, measure, maximization_figures.FEATURES).tolist()


def test_all_sections(run_main, two_runs):
    code, out, _ = run_main(visualization, *QUICK, "--max_features", 2, 8)
    assert code == 0
    code, out, _ = run_main(visualization, *QUICK)
    assert code == 0
    folder = two_runs / "visualization"
    names = {"real_images", "gradient_image", "jittered_images"}
    expected = {f"{n}{s}.png" for n in names for s in ("", "_with_G")} | {"summary.json"}
    shared = ("robustness", "attack_convergence", "layers", "frequency", "calibration", "transfer")
    expected |= {f"{name}.png" for name in shared} | {"critic_score_with_G.png"}
    for which in ("without", "with"):
        expected |= {f"max_class_{which}_G.png", f"attribution_{which}_G.png"}
        expected |= {f"smallest_epsilon_{which}_G.png"}
        expected |= {f"perturbed_{which}_G_epsilon{e}.png" for e in (0, 0.5, 1, 2, 4, 8, 16)}
        expected |= {f"max_features_{which}_G_layer{layer}.png" for layer in (2, 4, 6, 8)}
    assert {path.name for path in folder.iterdir()} == expected
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() == {"without G", "with G"}
    for metrics in summary.values():
        perturbation = metrics["perturbation"]
        assert perturbation["images"] == 60
        assert f"{perturbation['accuracy_before']:.2f} %" in out
        assert metrics["max_classification_output"].keys() == set(shapes.CLASS_NAMES)
        for layer in (2, 4, 6, 8):
            of_layer = metrics["max_features"][str(layer)]
            assert of_layer["stand_out"] == sorted(of_layer["stand_out"], reverse=True)
            chosen = of_layer["features"] + of_layer["random_features"]
            assert len(of_layer["activation"]) == len(set(chosen)) == 12
            assert of_layer["features"] == shown_features(metrics["weights"], layer)
        study = metrics["strength_study"]
        assert study["images"] == 60
        for attack in ("noise", "step", "pgd"):
            assert len(study[f"{attack}_accuracy"]) == len(study["epsilons"]) == 6
            for (low, high), share in zip(
                study[f"{attack}_interval"], study[f"{attack}_accuracy"], strict=True
            ):
                assert low <= share <= high
        full = study["full_attack"]
        assert full["accuracy"] == full["accuracy_after"][-1] == study["pgd_accuracy"][3]
        assert full["accuracy_after"][0] == study["accuracy_clean"]
        assert full["gradients_per_image"][-1] == 400
        assert study["accuracy_clean"] == perturbation["accuracy_before"]
        assert len(metrics["layers"]["probe_accuracy"]) == 8
        assert len(metrics["attribution"]["named"]) == 10
    one, other = (summary[name]["strength_study"] for name in ("without G", "with G"))
    differences = one["differences"]["with G"]
    assert differences.keys() == {"full attack at 4/255", "noise at 8/255"}
    difference, low, high = differences["full attack at 4/255"]
    gap = one["full_attack"]["accuracy"] - other["full_attack"]["accuracy"]
    assert difference == pytest.approx(gap, abs=0.011)
    assert low <= difference <= high
    assert "without G - with G, noise at 8/255" in out
    noise = other["differences"]["without G"]["noise at 8/255"][0]
    assert noise == -differences["noise at 8/255"][0]
    assert summary["without G"]["layers"]["cka"].keys() == {"with G"}
    assert "no animation" in out
    assert (folder / "summary.json").read_text().count("Infinity") == 0


def test_controls_stand_beside_the_pair(run_main, refused, two_runs, monkeypatch):
    """In the perturbations, the classes and the layers, each by the name of its folder."""
    monkeypatch.setattr(adversarial_figures, "EPSILONS", [4.0, 8.0])
    for seed, folder in enumerate(("seed 1", "augmented")):
        torch.manual_seed(10 + seed)
        (two_runs / folder).mkdir()
        export_model(Discriminator(width=8), two_runs / folder / WEIGHTS, {"dataset": "shapes"})
    controls = ["--control", two_runs / "seed 1", two_runs / "augmented" / WEIGHTS]
    sections = ["--perturb_images", "--max_classification_output", "--compare_layers"]
    sections += ["--attribution", "--max_features", 2]
    code, out, _ = run_main(visualization, *QUICK, *sections, *controls)
    assert code == 0
    summary = json.loads((two_runs / "visualization" / "summary.json").read_text())
    assert list(summary) == ["without G", "with G", "seed 1", "augmented"]
    for name in ("seed 1", "augmented"):
        metrics = summary[name]
        assert metrics["layers"]["cka"].keys() == summary.keys() - {name}
        assert {"perturbation", "strength_study", "max_classification_output"} < metrics.keys()
        assert not {"max_features", "attribution"} & metrics.keys()
    files = {path.name for path in (two_runs / "visualization").iterdir()}
    assert {"max_class_seed_1.png", "max_class_augmented.png"} < files
    assert "layer by layer, seed 1, 60 test images:" in out
    assert "layer by layer, trained with G, 60 test images:" in out
    code, _, _ = run_main(visualization, *QUICK, "--max_classification_output")
    assert code == 0
    path = two_runs / "visualization" / "summary.json"
    after = json.loads(path.read_text())
    assert after["seed 1"] == summary["seed 1"]  # not looked at, and still there
    (two_runs / "augmented" / WEIGHTS).rename(two_runs / "seed_1.safetensors")
    assert run_main(visualization, *QUICK, "--max_classification_output")[0] == 0
    assert "augmented" not in json.loads(path.read_text())
    twice = ["--control", two_runs / "seed 1", two_runs / "seed_1.safetensors"]
    assert "two networks are named 'seed_1'" in refused(visualization, *QUICK, *twice)
    assert "no weights at" in refused(visualization, *QUICK, "--control", two_runs / "absent")


def test_animation_asked_for_and_not_to_be_had(refused, two_runs):
    assert "sample grids" in refused(visualization, *QUICK, "--animation")


def test_classic_method_shows_the_first_features(run_main, two_runs):
    flags = ["--method", "classic", "--max_features", 1, "--max_classification_output"]
    assert run_main(visualization, *QUICK, *flags)[0] == 0
    summary = json.loads((two_runs / "visualization/summary.json").read_text())
    metrics = summary["with G"]["max_features"]["1"]
    assert (metrics["method"], metrics["features"]) == ("classic", list(range(12)))
    assert sum(metrics["activation"]) > sum(metrics["activation_of_mean_image"])
    network, _ = load_model(two_runs / "output/gan/discriminator.safetensors")
    start = data_tools.to_signed(data_tools.load_shapes()[1].images[:60].float().mean(0).round())
    start = start.repeat(12, 1, 1, 1)
    objective = feature_objective(Network("", network), 1)
    before, after = objective(start), objective(maximize(objective, start, steps=3))
    assert metrics["activation_of_mean_image"] == pytest.approx(before.tolist(), abs=1e-4)
    assert metrics["activation"] == pytest.approx(after.tolist(), abs=1e-4)


def test_animation_of_the_sample_grids(run_main, two_runs):
    samples = two_runs / "output/gan/samples"
    samples.mkdir()
    for epoch, colour in enumerate((0, 90, 200)):
        images = torch.full((10, 3, 32, 32), colour, dtype=torch.uint8)
        save_image_grid(images, samples / f"{epoch:03d}.png", title=f"epoch {epoch}")
    code, _, _ = run_main(visualization, *QUICK, "--animation")
    assert code == 0
    with Image.open(two_runs / "visualization/training.gif") as gif:
        assert gif.n_frames == 3
        assert gif.info["loop"] == 0
        shown = []
        for frame in range(3):
            gif.seek(frame)
            shown.append(gif.convert("RGB").getpixel((40, 60))[0])
    assert shown == pytest.approx([0, 90, 200], abs=12)


def test_explicit_sections_fail_and_implied_ones_are_left_out_without_data(
    run_main, refused, two_runs, monkeypatch
):
    def missing(name, data_dir, download=True):
        raise data_tools.DataMissing("there are none")

    for folder in ("baseline", "gan"):
        path = two_runs / "output" / folder / "discriminator.safetensors"
        export_model(Discriminator(width=12), path, described(0))
    monkeypatch.setattr(visualization, "load_dataset", missing)
    assert "there are none" in refused(visualization, *QUICK, "--attribution")
    code, out, _ = run_main(visualization, *QUICK)
    assert code == 0
    assert "left out without test images: perturb_images, compare_layers, attribution" in out
    left = {path.name for path in (two_runs / "visualization").iterdir()}
    assert left == {"summary.json"} | {
        f"max_{what}_{which}_G{layer}.png"
        for which in ("without", "with")
        for what, layer in [("class", "")] + [("features", f"_layer{n}") for n in (2, 4, 6, 8)]
    }


def test_one_network_missing_does_the_other_and_says_so(run_main, two_runs):
    (two_runs / "output/gan/discriminator.safetensors").unlink()
    code, out, _ = run_main(visualization, *QUICK, "--max_classification_output")
    assert code == 0
    assert "no discriminator trained with G" in out
    assert (two_runs / "visualization/max_class_without_G.png").exists()
    assert not (two_runs / "visualization/max_class_with_G.png").exists()


def test_networks_given_by_flag(run_main, two_runs):
    target = two_runs / "elsewhere.safetensors"
    (two_runs / "output/gan/discriminator.safetensors").rename(target)
    code, out, _ = run_main(
        visualization, *QUICK, "--max_features", 1, "--discriminator_with_G", target
    )
    assert code == 0
    assert "elsewhere" in out


def test_bad_networks(refused, two_runs):
    generator = two_runs / "g.safetensors"
    export_model(Generator(width=2), generator, {})
    broken = two_runs / "broken.safetensors"
    broken.write_bytes((two_runs / "output/gan/discriminator.safetensors").read_bytes()[:1000])
    flag = "--discriminator_with_G"
    assert "holds a generator" in refused(visualization, flag, generator)
    assert "not a readable" in refused(visualization, flag, broken)
    assert "no weights" in refused(visualization, flag, two_runs / "nowhere")
    assert not (two_runs / "visualization").exists()


def test_weights_that_name_no_set_and_too_few_images(refused, two_runs):
    assert "--limit_test" in refused(visualization, *QUICK, "--perturb_images", "--limit_test", 5)
    for folder in ("baseline", "gan"):
        path = two_runs / "output" / folder / "discriminator.safetensors"
        export_model(Discriminator(width=4), path, {})
    assert "--dataset" in refused(visualization, *QUICK)
    assert not (two_runs / "visualization").exists()


def test_no_network_at_all(refused, tmp_path):
    assert "train_discriminator.py" in refused(visualization)
    assert not (tmp_path / "visualization").exists()


def test_bad_output_folder_and_device(refused, two_runs):
    (two_runs / "file").write_text("kept")
    assert "cannot write" in refused(visualization, *QUICK, "--output_dir", two_runs / "file")
    assert (two_runs / "file").read_text() == "kept"
    assert "CUDA" in refused(visualization, "--device", "cuda:99")


def test_networks_of_different_sets_need_a_choice(refused, two_runs):
    path = two_runs / "output/gan/discriminator.safetensors"
    export_model(Discriminator(width=4), path, {"dataset": "cifar10"})
    assert "--dataset" in refused(visualization, *QUICK)


def described(seed):
    """Metadata as the trainings write it, with a mean image that tells the networks apart."""
    _, test_set = data_tools.load_shapes()
    metadata = test_set.metadata()
    mean = torch.full((3, 32, 32), 100 + seed, dtype=torch.uint8)
    return metadata | {"mean_image": base64.b64encode(mean.numpy().tobytes()).decode()}


@pytest.fixture
def published_pair(published):
    for seed, run in enumerate(("baseline", "gan")):
        (published / run).mkdir()
        torch.manual_seed(seed)
        path = published / run / "discriminator.safetensors"
        export_model(Discriminator(width=12), path, described(seed))
    return published


def test_published_networks_stand_in_and_need_no_data(run_main, published_pair, monkeypatch):
    def no_data(*_):
        raise AssertionError("the data were asked for")

    monkeypatch.setattr(visualization, "load_dataset", no_data)
    method = ["--method", "classic"]  # the robust one looks for examples
    flags = [*QUICK, *method, "--max_classification_output", "--max_features", 1]
    code, out, _ = run_main(visualization, *flags)
    assert code == 0
    assert out.count("using the published") == 2
    summary = json.loads(Path("visualization/summary.json").read_text())
    assert summary["with G"]["weights"] == str(published_pair / "gan" / WEIGHTS)
    # Each network starts from the mean image that its own weights tell of.
    for seed, name in enumerate(("without G", "with G")):
        network, _ = load_model(summary[name]["weights"])
        start = data_tools.to_signed(torch.full((1, 3, 32, 32), 100 + seed))
        logits = network(start)[1][0].tolist()
        of_classes = summary[name]["max_classification_output"].values()
        assert [metrics["logit_of_mean_image"] for metrics in of_classes] == pytest.approx(
            logits, abs=1e-4
        )


def test_own_networks_come_before_the_published(run_main, published_pair, two_runs):
    (two_runs / "output/gan/discriminator.safetensors").unlink()
    code, out, _ = run_main(visualization, *QUICK, "--max_classification_output")
    assert code == 0
    assert f"{published_pair / 'gan' / WEIGHTS} has other classes than output/baseline" in out
    assert "with G" not in json.loads(Path("visualization/summary.json").read_text())
    export_model(Discriminator(width=4), Path("output/baseline", WEIGHTS), described(0))
    assert run_main(visualization, *QUICK, "--max_classification_output")[0] == 0
    summary = json.loads(Path("visualization/summary.json").read_text())
    assert summary["without G"]["weights"] == f"output/baseline/{WEIGHTS}"
    assert summary["with G"]["weights"] == str(published_pair / "gan" / WEIGHTS)


@pytest.mark.parametrize(
    "told",
    [
        {"mean_image": "AAAA"},
        {"mean_image": 7},
        {"mean_image": "not base64"},
        {"class_names": ["one"]},
        {"class_names": "ten names"},
    ],
)
def test_odd_metadata_is_as_good_as_none(run_main, published_pair, told):
    path = published_pair / "gan" / WEIGHTS
    export_model(Discriminator(width=4), path, described(0) | told)
    code, out, _ = run_main(visualization, *QUICK, "--max_classification_output")
    assert code == 0
    assert "data: " in out  # so the test set was read
