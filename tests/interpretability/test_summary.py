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


def test_the_same_weights_at_another_path_keep_the_metrics(run_main, two_runs, capsys):
    command = [*QUICK, "--output_dir", "figures", "--networks"]
    run_main(visualization, *command, "output/gan", "--max_classification_output")
    run_main(visualization, *command, two_runs / "output/gan", "--max_features", 1)
    assert "removed" not in capsys.readouterr().out
    (metrics,) = json.loads((two_runs / "figures/summary.json").read_text()).values()
    assert metrics.keys() >= {"max_classification_output", "max_features"}
    assert metrics["weights"] == str(two_runs / "output/gan/discriminator.safetensors")


def test_comparisons_to_the_networks_of_an_earlier_command_remain(run_main, two_runs):
    """If the settings are the same."""
    export_model(Discriminator(8), two_runs / "output/third.safetensors", {"dataset": "shapes"})
    command = ["--frequency", "--device", "cpu", "--output_dir", "figures", "--limit_test"]
    run_main(visualization, *command, 20, "--networks", "output/baseline", "output/gan")
    third = "--networks", "output/baseline", "output/third.safetensors"
    run_main(visualization, *command, 20, *third)

    def compared():
        summary = json.loads((two_runs / "figures/summary.json").read_text())
        return {name: of["frequency"]["differences"].keys() for name, of in summary.items()}

    assert compared() == {"baseline": {"gan", "third"}, "gan": {"baseline"}, "third": {"baseline"}}
    run_main(visualization, *command, 30, *third)
    assert compared()["baseline"] == {"third"}
    run_main(visualization, *command, 30, "--steps", 5, *third[:2])
    assert compared()["baseline"] == set()


def test_the_folder_of_a_training_run_is_refused(refused, two_runs):
    (two_runs / "output/gan/config.json").write_text("{}")
    (two_runs / "output/gan/summary.json").write_text("unchanged")
    err = refused(visualization, *QUICK, "--output_dir", two_runs / "output/gan")
    assert "training run" in err
    assert (two_runs / "output/gan/summary.json").read_text() == "unchanged"
