import json

import pytest
import torch

import checkpoint
import data_tools
import visualization
from discriminator import Discriminator
from generator import Generator


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    """So that no run of the user's own in output/ is taken."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Discriminator(width=12).requires_grad_(False)


@pytest.fixture
def two_runs(tmp_path):
    """Untrained discriminators where the two trainings would have left theirs."""
    for seed, folder in enumerate(("output/baseline", "output/gan")):
        torch.manual_seed(seed)
        (tmp_path / folder).mkdir(parents=True)
        path = tmp_path / folder / "discriminator.safetensors"
        checkpoint.export_model(Discriminator(width=12), path, {"dataset": "shapes"})
    return tmp_path


QUICK = ["--limit_test", "60", "--steps", "3", "--device", "cpu", "--precision", "fp32"]

# ------------------------------------------------------------------------------ the mathematics


def test_perturbation_is_one_signed_step_down_the_alternate_loss(network, images):
    labels = torch.arange(8) + 2  # 9 wraps round to 0
    epsilon = 8
    perturbed, gradients = visualization.perturb(network, images, labels, epsilon)
    x = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(x)[1], (labels + 1) % 10, reduction="sum")
    (expected,) = torch.autograd.grad(loss, x)
    assert torch.allclose(gradients, expected, atol=1e-7)
    step = 2 * 8 / 255
    assert torch.equal(perturbed, (images - step * expected.sign()).clamp(-1, 1))
    change = (perturbed - images).abs() * 255 / 2
    assert change.max() <= epsilon + 1e-3
    assert change.max() > epsilon - 1e-3


def test_perturbation_raises_the_alternate_class_and_leaves_its_input_alone(network, images):
    labels, kept = torch.arange(8), images.clone()
    perturbed, _ = visualization.perturb(network, images, labels, 4)
    assert torch.equal(images, kept)
    assert not images.requires_grad
    before, after = (
        network(x)[1].log_softmax(1)[torch.arange(8), labels + 1] for x in (images, perturbed)
    )
    assert (after > before).all()


def test_epsilon_zero_changes_nothing(network, images):
    perturbed, _ = visualization.perturb(network, images, torch.arange(8), 0)
    assert torch.equal(perturbed, images)


def objectives(network):
    yield "class", visualization.class_objective(network)
    for layer in (1, 4, 8):
        yield f"layer {layer}", visualization.feature_objective(network, layer)


def test_every_objective_rises(network):
    start = torch.zeros(10, 3, 32, 32) + 0.1
    for name, objective in objectives(network):
        images, before, after = visualization.maximise(objective, start, steps=20)
        assert images.shape == start.shape, name
        assert images.abs().max() <= 1, name
        assert (after >= before).all(), name
        assert after.mean() > before.mean() + 0.1, name
        assert torch.equal(before, objective(start)), name
        assert torch.equal(after, objective(images)), name
        assert (start == 0.1).all(), name  # reset between layers: nobody wrote to it


def test_one_step_of_the_ascent_by_hand():
    """Objective 3 x: the gradient is 3, so x = 0.5 goes to 0.5 + 0.1 * 3 - 0.2 * 0.25 = 0.75."""
    images, before, after = visualization.maximise(
        lambda x: 3 * x.sum((1, 2, 3)), torch.full((1, 1, 1, 1), 0.5), steps=1, lr=0.1, decay=0.2
    )
    assert images.item() == pytest.approx(0.75)
    assert before.item() == pytest.approx(1.5)
    assert after.item() == pytest.approx(2.25)
    negative, _, _ = visualization.maximise(
        lambda x: 0 * x.sum((1, 2, 3)), torch.full((1, 1, 1, 1), -0.5), steps=1, lr=0.1, decay=0.2
    )
    assert negative.item() == pytest.approx(-0.45)  # decay pulls toward grey from both sides


def test_objectives_pick_the_diagonal(network, images):
    logits = network(images)[1]
    assert torch.equal(visualization.class_objective(network)(images), logits.diagonal())
    pooled = network.features(images, 3).amax((2, 3))
    values = visualization.feature_objective(network, 3)(images)
    assert torch.equal(values, pooled.diagonal())


def test_feature_maximisation_runs_no_later_layer(network):
    ran = []
    for index, block in enumerate(network.blocks):
        block.register_forward_hook(lambda *_, i=index: ran.append(i + 1))
    objective = visualization.feature_objective(network, 4)
    visualization.maximise(objective, torch.zeros(2, 3, 32, 32), steps=2)
    assert max(ran) == 4


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
    assert args.perturb_images == perturb
    assert args.max_classification_output == classes
    assert args.max_features == layers


def test_epsilon_is_in_pixel_levels():
    for text, value in (("8", 8.0), ("8/255", 8.0), ("0", 0.0), ("0.5", 0.5)):
        assert visualization.parse_args(["--epsilon", text]).epsilon == value
    assert visualization.parse_args([]).epsilon == 8


# ------------------------------------------------------------------------------ the script


def test_all_sections(run_main, two_runs):
    code, out, _ = run_main(visualization, *QUICK, "--max_features", 2, 8)
    assert code == 0
    code, out, _ = run_main(visualization, *QUICK)
    assert code == 0
    folder = two_runs / "visualization"
    names = {"real_images", "gradient_image", "jittered_images"}
    expected = {f"{n}{s}.png" for n in names for s in ("", "_with_G")} | {"summary.json"}
    for which in ("without", "with"):
        expected.add(f"max_class_{which}_G.png")
        expected |= {f"max_features_{which}_G_layer{layer}.png" for layer in (2, 4, 6, 8)}
    assert {path.name for path in folder.iterdir()} == expected
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() == {"without G", "with G"}
    for figures in summary.values():
        perturbation = figures["perturbation"]
        assert perturbation["images"] == 60
        assert f"{perturbation['accuracy_before']:.2f} %" in out
        assert figures["max_classification_output"].keys() == set(data_tools.shapes.CLASS_NAMES)
        for layer in ("2", "4", "6", "8"):
            layer = figures["max_features"][layer]
            assert layer["mean_after"] > layer["mean_before"]
            assert len(layer["before"]) == len(layer["after"]) == 12


def test_accuracy_is_counted_over_the_perturbed_images(run_main, two_runs):
    """The figures of the summary against a count of its own."""
    path = two_runs / "output/baseline/discriminator.safetensors"
    network, _ = checkpoint.load_model(path)
    _, test_set = data_tools.load_shapes()
    test_set = test_set.first(60)
    x = data_tools.to_signed(test_set.images)
    perturbed, _ = visualization.perturb(network, x, test_set.labels, 16)
    run_main(visualization, *QUICK, "--perturb_images", "--epsilon", "16/255")
    summary = json.loads((two_runs / "visualization/summary.json").read_text())
    figures = summary["without G"]["perturbation"]
    for images, key, wanted in (
        (x, "accuracy_before", test_set.labels),
        (perturbed, "accuracy_after", test_set.labels),
        (perturbed, "became_alternate_label", (test_set.labels + 1) % 10),
    ):
        correct = (network(images)[1].argmax(1) == wanted).double().mean().item()
        assert figures[key] == pytest.approx(100 * correct, abs=0.01)
    assert figures["epsilon"] == "16/255"


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
    checkpoint.export_model(Generator(width=2), generator, {})
    broken = two_runs / "broken.safetensors"
    broken.write_bytes((two_runs / "output/gan/discriminator.safetensors").read_bytes()[:1000])
    flag = "--discriminator_with_G"
    assert "holds a generator" in refused(visualization, flag, generator)
    assert "not a readable" in refused(visualization, flag, broken)
    assert "no weights" in refused(visualization, flag, two_runs / "nowhere")
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
    checkpoint.export_model(Discriminator(width=4), path, {"dataset": "cifar10"})
    assert "--dataset" in refused(visualization, *QUICK)
