import json

import visualization
from discriminator import Discriminator
from inside_cnn.engine.weights import export_model

QUICK = ["--limit_test", "20", "--steps", "2", "--device", "cpu", "--method", "classic"]


def test_other_weights_remove_the_figures_and_metrics_of_earlier_commands(run_main, two_runs):
    """With the same weights, those of earlier commands stay, also of another network."""
    folder = two_runs / "visualization"
    path = folder / "summary.json"
    run_main(visualization, *QUICK, "--max_classification_output", "--control", "output/baseline")
    run_main(visualization, *QUICK, "--max_features", 1)
    (folder / "mine.png").touch()
    summary = json.loads(path.read_text())
    assert "max_classification_output" in summary["baseline"]
    metrics = summary["with G"]
    assert metrics.keys() >= {"max_classification_output", "max_features"}
    assert (folder / "max_class_with_G.png").exists()
    weights = two_runs / "output/gan/discriminator.safetensors"
    export_model(Discriminator(width=12), weights, {"dataset": "shapes", "step": 9})
    run_main(visualization, *QUICK, "--max_features", 2)
    pairs = {f"max_features_{which}_G_layer2.png" for which in ("with", "without")}
    assert {path.name for path in folder.iterdir()} == pairs | {"mine.png", "summary.json"}
    for metrics in json.loads(path.read_text()).values():
        assert metrics.keys() == {"weights", "sha256", "width", "max_features"}


def test_the_folder_of_a_training_run_is_refused(refused, two_runs):
    (two_runs / "output/gan/config.json").write_text("{}")
    (two_runs / "output/gan/summary.json").write_text("unchanged")
    err = refused(visualization, *QUICK, "--output_dir", two_runs / "output/gan")
    assert "training run" in err
    assert (two_runs / "output/gan/summary.json").read_text() == "unchanged"
