import base64
import contextlib
import io
import json
from argparse import Namespace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image, ImageSequence

import data_tools
import quick_plots
import visualization
from discriminator import Discriminator
from generator import Generator
from inside_cnn.core.errors import UserError
from inside_cnn.data import shapes
from inside_cnn.engine import plots
from inside_cnn.engine.plots import save_image_grid
from inside_cnn.engine.weights import export_model, load_model
from inside_cnn.interpretability import adversarial_figures
from inside_cnn.interpretability.activation_maximization import ascent
from inside_cnn.interpretability.network import WEIGHTS, Network, line_styles
from inside_cnn.interpretability.objectives import feature

QUICK = ["--limit_test", "60", "--steps", "3", "--device", "cpu", "--precision", "fp32"]

# ------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("flags", "perturb", "classes", "layers"),
    [
        ([], True, True, [2, 4, 6, 8]),
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
    every = perturb is not None and classes is not None and layers is not None
    assert args.all_sections == every
    for name in visualization.SECTIONS.keys() - {"perturb_images", "max_classification_output"}:
        assert bool(getattr(args, name)) == every
    assert args.perturb_images == perturb
    assert args.max_classification_output == classes
    assert args.max_features == layers


# ------------------------------------------------------------------------------ the script


@pytest.fixture(scope="module")
def all_sections(tmp_path_factory):
    """(folder, its summary, stdout) of all sections for the pair and two controls.

    Charts are plotted as users see them, image grids without text.
    """
    root, out, png_of = tmp_path_factory.mktemp("all"), io.StringIO(), plots.png_of
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(root)
        patch.setattr(adversarial_figures, "EPSILONS", [4.0, 8.0])
        quick_grid = lambda figure: (quick_plots.png_of if figure.images else png_of)(figure)  # noqa: E731
        patch.setattr(plots, "png_of", quick_grid)
        for seed, folder in enumerate(("output/baseline", "output/gan", "seed 1", "augmented")):
            torch.manual_seed(seed)
            Path(folder).mkdir(parents=True)
            export_model(Discriminator(8), Path(folder, WEIGHTS), {"dataset": "shapes"})
        flags = ["--limit_test", "20", *QUICK[2:], "--max_features", "2", "8", "--animation=False"]
        flags += [f"--{name}" for name in visualization.SECTIONS if name != "animation"]
        flags += ["--study_images", "8", "--control", "seed 1", f"augmented/{WEIGHTS}"]
        assert visualization.main(flags) == 0
    folder = root / "visualization"
    return folder, json.loads((folder / "summary.json").read_text()), out.getvalue()


def test_all_sections(all_sections):
    folder, summary, out = all_sections
    expected = {"summary.json", "critic_score_with_G.png"}
    names = ("real_images", "gradient_image", "jittered_images")
    expected |= {f"{n}{s}.png" for n in names for s in ("", "_with_G", "_seed_1", "_augmented")}
    shared = ("robustness", "attack_convergence", "layers", "frequency", "calibration", "transfer")
    expected |= {f"{name}.png" for name in shared}
    for which in ("without_G", "with_G", "seed_1", "augmented"):
        expected |= {f"max_class_{which}.png"}
        expected |= {f"perturbed_{which}_epsilon{e}.png" for e in (0, 4, 8)}
    for which in ("without_G", "with_G"):
        expected |= {f"max_features_{which}_layer{layer}.png" for layer in (2, 8)}
        expected |= {f"attribution_{which}.png"}
    assert {path.name for path in folder.iterdir()} == expected
    assert list(summary) == ["without G", "with G", "seed 1", "augmented"]
    for name, metrics in summary.items():
        assert metrics["perturbation"]["images"] == 20
        assert f"{metrics['perturbation']['accuracy_before']:.2f} %" in out
        assert metrics["max_classification_output"].keys() == set(shapes.CLASS_NAMES)
        assert len(metrics["layers"]["probe_accuracy"]) == 8
        assert metrics["layers"]["cka"].keys() == summary.keys() - {name}
        if name in ("without G", "with G"):
            of_layer = metrics["max_features"]["2"]
            assert of_layer["stand_out"] == sorted(of_layer["stand_out"], reverse=True)
            chosen = of_layer["features"] + of_layer["random_features"]
            assert len(of_layer["activation"]) == len(set(chosen)) == 8
            assert set(metrics["attribution"]["named"]) <= set(shapes.CLASS_NAMES)
        else:
            assert not {"max_features", "attribution"} & metrics.keys()
    assert "layers 1 to 8, seed 1, 20 test images:" in out
    assert "Infinity" not in (folder / "summary.json").read_text()


def test_study_of_robustness(all_sections):
    _, summary, _ = all_sections
    studies = {name: metrics["strength_study"] for name, metrics in summary.items()}
    for study in studies.values():
        assert (study["images"], study["epsilons"]) == (8, [4, 8])
        for attack in ("noise", "step", "pgd"):
            pairs = zip(study[f"{attack}_accuracy"], study[f"{attack}_interval"], strict=True)
            assert all(low <= accuracy <= high for accuracy, (low, high) in pairs)
        full = study["full_attack"]
        assert full["accuracy"] == full["accuracy_after"][-1] == study["pgd_accuracy"][0]
        assert full["accuracy_after"][0] == study["accuracy_clean"]
        assert full["gradients_per_image"][-1] == 400
    one, other = studies["without G"], studies["with G"]
    differences = one["differences"]["with G"]
    assert differences.keys() == {"full attack at 4/255", "noise at 8/255"}
    difference, low, high = differences["full attack at 4/255"]
    gap = one["full_attack"]["accuracy"] - other["full_attack"]["accuracy"]
    assert difference == pytest.approx(gap, abs=0.011)
    assert low <= difference <= high


def read_summary():
    return json.loads(Path("visualization/summary.json").read_text())


def test_networks_replace_the_pair(succeed, two_runs):
    arms = [(two_runs / "output" / run).rename(two_runs / run) for run in ("baseline", "gan")]
    succeed(visualization, *QUICK, "--networks", *arms, "--max_features", 8)
    features = {name: list(metrics["max_features"]) for name, metrics in read_summary().items()}
    assert features == {"baseline": ["8"], "gan": ["8"]}


def test_seeds_share_a_color_and_differ_in_the_marker():
    networks = [Network(name, None) for name in ("mynet", "with G")]
    networks += [Network(name, None, is_control=True) for name in ("seed_1", "seed_2", "other")]
    styles = line_styles(networks)
    assert styles["seed_1"]["color"] == styles["seed_2"]["color"] != styles["other"]["color"]
    assert styles["seed_1"]["marker"] != styles["seed_2"]["marker"]
    assert [style["linestyle"] for style in styles.values()] == ["-", "-", "--", "--", "--"]
    assert len({style["color"] for style in styles.values()}) == 4


def test_classic_method_maximizes_the_first_features(succeed, two_runs):
    flags = ["--method", "classic", "--max_features", 1, "--max_classification_output"]
    succeed(visualization, *QUICK, *flags)
    metrics = read_summary()["with G"]["max_features"]["1"]
    assert (metrics["method"], metrics["features"]) == ("classic", list(range(12)))
    network, _ = load_model(two_runs / "output/gan" / WEIGHTS)
    start = data_tools.to_signed(data_tools.load_shapes()[1].images[:60].float().mean(0).round())
    start = start.repeat(12, 1, 1, 1)
    objective = partial(feature(1, torch.arange(12)), Network("", network))
    before, after = objective(start), objective(ascent(objective, start, steps=3))
    assert after.sum() > before.sum()
    assert metrics["activation_of_mean_image"] == pytest.approx(before.tolist(), abs=1e-4)
    assert metrics["activation"] == pytest.approx(after.tolist(), abs=1e-4)


def test_animation_of_the_sample_grids(succeed, refused, two_runs, matplotlib_plots):
    assert "sample grids" in refused(visualization, *QUICK, "--animation")
    samples = two_runs / "output/gan/samples"
    samples.mkdir()
    for epoch, color in ((998, 0), (999, 90), (1000, 200)):  # sorted by number
        images = torch.full((10, 3, 32, 32), color, dtype=torch.uint8)
        save_image_grid(images, samples / f"{epoch:03d}.png", title=f"epoch {epoch}")
    succeed(visualization, *QUICK, "--animation", "--networks", "output/gan", "output/baseline")
    with Image.open("visualization/training.gif") as gif:
        assert gif.info["loop"] == 0
        frames = ImageSequence.Iterator(gif)
        reds = [frame.convert("RGB").getpixel((40, 60))[0] for frame in frames]
    assert reds == pytest.approx([0, 90, 200], abs=12)

    samples.rename("samples")  # beside the code of a model, not of its training
    own = Network("own", torch.nn.Identity(), "mynet.py:build", has_scores=False)
    with pytest.raises(UserError, match="sample grids"):
        visualization.animation(Namespace(all_sections=False), [own], Path("training.gif"))


def test_float32_predicts_the_labels_of_images_without_labels():
    """Of the logits 256.1 and 256.9, which are equal in bfloat16."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    model.requires_grad_(False)[1].weight.zero_()
    model[1].bias.copy_(torch.tensor([256.1, 256.9]))
    network = Network("near tie", model, has_scores=False, class_names=["a", "b"], precision="bf16")
    dataset = data_tools.load_shapes()[1].first(3)
    assert visualization.as_predicted(network, dataset).labels.tolist() == [1, 1, 1]


def test_missing_data_skips_implied_sections_and_refuses_requested_ones(
    succeed, refused, published_pair, monkeypatch
):
    """Each network starts from the mean image in its own metadata."""
    missing = Mock(side_effect=data_tools.DataMissing("no data set"))
    monkeypatch.setattr(visualization, "load_dataset", missing)
    assert "no data set" in refused(visualization, *QUICK, "--attribution")
    out = succeed(visualization, *QUICK)
    assert "skipped without test images: perturb_images, compare_layers, attribution" in out
    files = {path.name for path in Path("visualization").iterdir()}
    assert files == {"summary.json", "max_class_without_G.png", "max_class_with_G.png"}
    flags = ["--max_classification_output", "--max_features", 1, "--method", "classic"]
    succeed(visualization, *QUICK, *flags)
    assert out.count("using the published") == 2
    summary = read_summary()
    assert summary["with G"]["weights"] == str(published_pair / "gan" / WEIGHTS)
    for seed, name in enumerate(("without G", "with G")):
        network, _ = load_model(summary[name]["weights"])
        start = data_tools.to_signed(torch.full((1, 3, 32, 32), 100 + seed))
        of_classes = summary[name]["max_classification_output"].values()
        logits = [metrics["logit_of_mean_image"] for metrics in of_classes]
        assert logits == pytest.approx(network(start)[1][0].tolist(), abs=1e-4)


def test_unusable_arguments_are_refused_before_anything_is_written(refused, two_runs):
    export_model(Generator(width=2), "g.safetensors", {})
    message = refused(visualization, "--discriminator_with_G", "g.safetensors")
    assert "holds a generator" in message
    Path("file").touch()
    assert "cannot write" in refused(visualization, *QUICK, "--output_dir", "file")
    for metadata in ({}, {"dataset": "cifar10"}):  # without a data set, then of two data sets
        export_model(Discriminator(width=4), Path("output/gan", WEIGHTS), metadata)
        assert "--dataset" in refused(visualization, *QUICK)
    Path("seed 1").mkdir()
    for path in (Path("seed 1", WEIGHTS), Path("seed_1.safetensors")):
        export_model(Discriminator(4), path, {"dataset": "shapes"})
    message = refused(visualization, *QUICK, "--control", "seed 1", "seed_1.safetensors")
    assert "two networks have the same name" in message
    for folder in ("baseline", "gan"):
        Path("output", folder, WEIGHTS).unlink()
    assert "train_discriminator.py" in refused(visualization)
    assert not Path("visualization").exists()


@pytest.fixture
def published_pair(published):
    """Published networks of the shapes, with metadata as of a training and other mean images."""
    for level, run in ((100, "baseline"), (101, "gan")):
        mean = base64.b64encode(bytes([level] * 3 * 32 * 32)).decode()
        metadata = data_tools.load_shapes()[1].metadata() | {"mean_image": mean}
        (published / run).mkdir()
        export_model(Discriminator(width=12), published / run / WEIGHTS, metadata)
    return published


def test_a_published_network_of_other_classes_is_skipped(succeed, published_pair, two_runs):
    (two_runs / "output/gan" / WEIGHTS).unlink()
    out = succeed(visualization, *QUICK, "--max_classification_output")
    assert f"{published_pair / 'gan' / WEIGHTS} has other classes than output/baseline" in out
    assert "with G" not in read_summary()
    (published_pair / "baseline" / WEIGHTS).replace(Path("output/baseline", WEIGHTS))
    succeed(visualization, *QUICK, "--max_classification_output")
    assert read_summary()["with G"]["weights"] == str(published_pair / "gan" / WEIGHTS)
