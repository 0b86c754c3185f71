import json

import pytest

import visualization
from discriminator import Discriminator
from inside_cnn.engine.weights import export_model
from inside_cnn.interpretability import summary
from networks import as_network

QUICK = ["--limit_test", "60", "--steps", "3", "--device", "cpu", "--precision", "fp32"]


def test_metrics_of_an_earlier_command_stay(run_main, two_runs):
    path = two_runs / "visualization/summary.json"
    run_main(visualization, *QUICK, "--max_classification_output")
    run_main(visualization, *QUICK, "--max_features", 1)
    metrics = json.loads(path.read_text())["with G"]
    assert metrics.keys() >= {"max_classification_output", "max_features"}


def test_pictures_of_other_weights_go_with_their_metrics(run_main, two_runs):
    """And those that show both networks; what is the other network's alone stays."""
    folder = two_runs / "visualization"
    sections = ["--max_classification_output", "--perturb_images", "--max_features", 1]
    run_main(visualization, *QUICK, *sections, "--study_images", 60)
    (folder / "mine.png").touch()
    before = {path.name for path in folder.iterdir()}
    weights = two_runs / "output/gan/discriminator.safetensors"
    export_model(Discriminator(width=12), weights, {"dataset": "shapes", "step": 9})
    run_main(visualization, *QUICK, "--max_features", 2)
    gone = before - {path.name for path in folder.iterdir()}
    of_both = {"robustness.png", "attack_convergence.png"}
    assert gone == of_both | {name for name in before if "_with_G" in name}
    assert {"max_class_with_G.png", "jittered_images_with_G.png"} < gone
    summary = json.loads((folder / "summary.json").read_text())
    assert "strength_study" not in summary["without G"]
    assert {"perturbation", "max_classification_output"} < summary["without G"].keys()
    assert not {"perturbation", "max_classification_output"} & summary["with G"].keys()


def test_the_folder_of_a_training_run_is_not_written_into(refused, two_runs):
    (two_runs / "output/gan/config.json").write_text("{}")
    (two_runs / "output/gan/summary.json").write_text("kept")
    err = refused(visualization, *QUICK, "--output_dir", two_runs / "output/gan")
    assert "training run" in err
    assert (two_runs / "output/gan/summary.json").read_text() == "kept"


def test_an_interruption_leaves_no_summary_that_names_a_missing_figure(
    trained, tmp_path, monkeypatch
):
    network, path = as_network(trained, "with G"), tmp_path / "summary.json"
    metrics = {"weights": "others", "sha256": "x", "width": 12, "attribution": {}, "layers": {}}
    path.write_text(json.dumps({"with G": metrics}))
    for name in ("attribution_with_G.png", "layers.png"):
        (tmp_path / name).touch()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(summary, "remove_figures", interrupt)
        with pytest.raises(KeyboardInterrupt):
            summary.open_summary(path, [network])
    assert json.loads(path.read_text()) == {"with G": {}}
    assert summary.open_summary(path, [network]) == {"with G": network.description()}
    assert not list(tmp_path.glob("*.png"))
