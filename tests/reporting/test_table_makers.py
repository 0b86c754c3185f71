"""Tables of hand-made results, whose cells are known."""

import json

import pytest

from reporting.markdown import TableError, in_words
from reporting.table_makers import Runs, make_table, runs


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def cells(table):
    """The rows below the headings, each a list of its cells."""
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]


def test_runs_that_differ_by_their_seed_share_a_row(tmp_path):
    for seed, (accuracy, speed) in enumerate([(90.0, 100.0), (91.0, 50.0), (92.0, 25.0)]):
        folder = tmp_path / f"seed_{seed}"
        settings = {"seed": seed, "epochs": 2, "batch_size": 10}
        put(folder / "config.json", {"settings": settings, "device": "CPU"})
        put(folder / "summary.json", {"test_accuracy": accuracy})
        put(folder / "metrics.jsonl", {"step": 600, "images_per_second": speed})
    many = Runs("three", "python three.py", {f"seed_{seed}": seed for seed in range(3)})
    one = Runs("one", "python one.py", {"seed_2": 2})
    # 6,000 images in 1, 2 and 4 minutes.
    assert cells(runs(tmp_path, (many, one))) == [
        ["three", "91.00 ± 1.00", "0, 1, 2", "2", "2.33 min", "CPU", "`python three.py`"],
        ["one", "92.00", "2", "2", "4 min", "CPU", "`python one.py`"],
    ]


@pytest.fixture
def results(tmp_path):
    """Two networks of two layers; whatever is measured of the k-th begins with the digit k."""
    summary = {}
    for k, (name, other) in enumerate([("without G", "with G"), ("with G", "without G")], start=1):
        layers = {
            "receptive_field": [3, 5],
            "probe_accuracy": [10 * k, 10 * k + 1],
            "selective_share": [10 * k + 2, 10 * k + 3],
            "fires_below_1_percent": [10 * k + 4, 10 * k + 5],
            "fires_below_10_percent": [10 * k + 6, 10 * k + 7],
            "cka": {other: [0.25, 0.5]},
            "cka_standardized": {other: [0.125, 0.375]},
        }
        study = {"epsilons": [0.5, 16.0], "images": 1000, "pgd": "7 steps"}
        study |= {"accuracy_clean": 10 * k, "interval_clean": [10 * k - 1, 10 * k + 1]}
        for index, attack in enumerate(("noise", "step", "pgd")):
            study[f"{attack}_accuracy"] = [10 * k + index + 1, 10 * k + index + 2]
            study[f"{attack}_interval"] = [[k, 10 * k + 7], [k, 10 * k + 8]]
        perturbed = {"accuracy_before": k, "accuracy_after": k / 2, "became_alternate_label": k / 4}
        summary[name] = {"layers": layers, "strength_study": study, "perturbation": perturbed}
    put(tmp_path / "visualization" / "summary.json", summary)
    return tmp_path


def test_layers(results):
    rows = cells(make_table("layers", results))
    assert rows[0] == ["receptive field, pixels", "3", "5"]
    assert rows[1] == ["linear probe, %: classifier", "10", "11"]
    assert rows[4] == ["class-selective features, %: critic", "22", "23"]
    assert rows[-3] == ["features that fire on < 10 % of images, %: critic", "26", "27"]
    assert rows[-2:] == [["CKA", "0.25", "0.50"], ["CKA, features standardized", "0.12", "0.38"]]


def test_tables_of_the_analyses(results):
    path = results / "visualization" / "summary.json"
    summary = json.loads(path.read_text())
    for k, name in enumerate(["without G", "with G"], start=1):
        summary[name] |= {
            "frequency": {
                "bands": [0, 0.4, 0.75],
                "white_energy": [30, 70],
                "accuracy": 90 + k,
                "interval": [80 + k, 95 + k],
                "gradient_energy": [10 * k, 10 * k + 1],
                "accuracy_under_noise": [50 + k, 60 + k],
                "interval_under_noise": [[40 + k, 60 + k], [50 + k, 70 + k]],
                "differences": {"with G": {"low": [-1, -3, 2], "high": [-4.2, -6, -2]}},
            },
            "calibration": {"expected_calibration_error": k, "mean_confidence": 80 + k},
            "transfer": {
                "class_images": {"without G": 10 * k, "with G": 10 * k + 1},
                "adversarial_images": {"without G": 10 * k + 2, "with G": 10 * k + 3},
                "baselines": {"test images": 70 + k, "noise": 60 + k},
                "classes": 10,
            },
        }
    summary["with G"]["critic_score"] = {"gray": {"images": 1, "mean": -1.5, "auc": 0.125}}
    path.write_text(json.dumps(summary))
    assert cells(make_table("frequency", results)) == [
        ["gradient energy, %: white noise", "", "30", "70"],
        ["gradient energy, %: classifier", "", "10", "11"],
        ["gradient energy, %: critic", "", "20", "21"],
        ["accuracy under noise, %: classifier", "91 (81 to 96)", "51 (41 to 61)", "61 (51 to 71)"],
        ["accuracy under noise, %: critic", "92 (82 to 97)", "52 (42 to 62)", "62 (52 to 72)"],
        ["lost more by the classifier, points", "", "-1 (-3 to +2)", "-4 (-6 to -2)"],
    ]
    assert cells(make_table("critic scores", results)) == [["gray", "1", "-1.50", "12.5"]]
    assert cells(make_table("comparison", results)) == [
        ["classifier", "1.0", "81.0", "1 of 10", "2 of 10", "71", "61", "12", "22"],
        ["critic", "2.0", "82.0", "1 of 10", "2 of 10", "72", "62", "13", "23"],
    ]


def test_robustness(results):
    about, _, table = make_table("robustness", results).partition("\n\n")
    assert about == "The first 1,000 test images; PGD of 7 steps:"
    rows = cells(table)
    assert len(rows) == 3 * 2
    assert rows[0] == ["noise", "classifier", "10 (9 to 11)", "11 (1 to 17)", "12 (1 to 18)"]
    assert rows[3] == ["one step", "critic", "20 (19 to 21)", "22 (2 to 27)", "23 (2 to 28)"]


def test_perturbation(results):
    rows = cells(make_table("perturbation", results))
    assert rows == [["classifier", "1.00", "0.50", "0.2"], ["critic", "2.00", "1.00", "0.5"]]


def test_what_says_where_a_figure_is_from_is_no_column(tmp_path):
    records = [{"model": "a", "FID": 1.5, "transcribed": True, "note": "b"}, {"model": "c"}]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, records[:1])))
    assert make_table("lines some", tmp_path).splitlines()[0::2] == [
        "| model | FID |",
        "| a | 1.5 |",
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(TableError, match="FID"):
        make_table("lines some", tmp_path)


def test_durations_in_words():
    assert in_words(66) == "1.1 min"
    assert in_words(7834) == "2 h 10 min"


def test_scores_that_were_left_out_are_told(tmp_path):
    """So that an experiment without network still comes to its end."""
    (tmp_path / "evaluation").mkdir()
    left_out = {"inception": {"left_out": "no weights"}}
    (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps(left_out))
    assert make_table("fid", tmp_path) == "FID and KID are left out: no weights."
