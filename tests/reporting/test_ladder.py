"""Tables of the control networks, from a small summary with known differences."""

import json

import pytest

from inside_cnn.reporting import ladder

ATTACK = "full attack at 4/255"
ACCURACIES = {"full_0": 30.0, "full_1": 20.0, "none_0": 2.0, "none_1": 3.0, "none_early_0": 10.0}
HALF_WIDTHS = {"full": 3.0, "none": 3.0, "none_early": 12.0}  # of the intervals
NOISE = {"none_1": 94.0}  # accuracy under noise, otherwise 90


def metrics_of(name):
    """The metrics of a network, as visualization.py writes them."""
    others = [other for other in ACCURACIES if other != name]
    accuracy = ACCURACIES[name]
    intervals = {}
    for other in others:
        difference, half = accuracy - ACCURACIES[other], HALF_WIDTHS[other.rpartition("_")[0]]
        intervals[other] = {ATTACK: [difference, difference - half, difference + half]}
    similarity = {other: [(accuracy + ACCURACIES[other]) / 100] * 8 for other in others}
    return {
        "strength_study": {"full_attack": {"accuracy": accuracy}, "differences": intervals},
        "layers": {
            "probe_accuracy": [accuracy + layer for layer in range(8)],
            "cka_standardized": similarity,
        },
        "transfer": {
            "adversarial_images": dict.fromkeys(ACCURACIES, 50 + accuracy),
            "baselines": {"noise": NOISE.get(name, 90.0)},
        },
    }


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "ladder"
    (folder / "full_1").mkdir(parents=True)
    summary = {name: metrics_of(name) for name in ACCURACIES} | {"unrelated": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "full_1/summary.json").write_text(json.dumps({"test_accuracy": 74.614}))
    return tmp_path


def row_of(table, title):
    headings, rows = table
    (row,) = (row for row in rows if row[0] == title)
    return dict(zip(headings, row, strict=True))


def test_accuracy_marks_missing_runs(results):
    row = row_of(ladder.accuracy(results), "`full`")
    assert (row["seed 0"], row["seed 1"]) == ("–", "74.61")
    assert row_of(ladder.accuracy(results), "`none_early`")["seed 2"] == "–"


def test_overview_has_ranges_over_seeds_and_the_published_pair(results):
    published = {name: metrics_of("none_0") for name in ("without G", "with G")}
    published["with G"]["strength_study"]["full_attack"]["accuracy"] = 22.5
    (results / "visualization").mkdir()
    (results / "visualization/summary.json").write_text(json.dumps(published))
    row = row_of(ladder.overview(results), "`full`")
    assert (row["seeds"], row["PGD 4/255"], row["gradient energy"]) == (2, "20 to 30", "–")
    assert row_of(ladder.overview(results), "`trained`")["seeds"] == 0
    critic = row_of((ladder.overview(results)[0], ladder.overview(results)[1][-1:]), "published")
    assert (critic["added loss"], critic["PGD 4/255"]) == ("critic", "22")


def test_every_seed_is_shown(results):
    row = row_of(ladder.measures(results), "accuracy after the full attack, epsilon 4/255")
    assert (row["`full`"], row["`none`"], row["`frozen`"]) == ("30, 20", "2, 3", "–")


def test_difference_is_bold_if_no_pair_of_seeds_contradicts_it(results):
    row = row_of(ladder.differences(results), "accuracy after the full attack, epsilon 4/255")
    assert row["`full` − `none`"] == "**+14 to +31**"
    assert row["`full` − `none_early`"] == "-2 to +32"
    assert row["`full` − `trained`"] == "–"


def test_difference_of_a_single_seed_is_not_bold(results):
    path = results / "ladder/summary.json"
    summary = json.loads(path.read_text())
    summary["penalty_0"] = summary.pop("full_0")  # as robust as before
    path.write_text(json.dumps(summary))
    row = row_of(ladder.differences(results), "accuracy after the full attack, epsilon 4/255")
    assert row["`penalty` − `none`"] == "+24 to +31"


def test_difference_without_intervals_is_the_range_over_seeds(results):
    row = row_of(ladder.differences(results), "linear probe, layer 8")
    assert row["`full` − `none`"] == "+17 to +28"


def test_similarity_is_over_different_networks(results):
    rows = {row[0]: row for row in ladder.similarity(results)[1]}
    assert rows["`full` and `full`"][1] == "0.50 (0.50 to 0.50)"
    assert rows["`full` and `none`"][8] == "0.28 (0.22 to 0.33)"  # 0.32, 0.33, 0.22, 0.23
    assert rows["`trained` and `frozen`"][1:] == ["–"] * 8


def test_transfer_is_relative_to_noise(results):
    row = row_of(ladder.transfer(results), "`full`")
    assert row["`full`"] == "-15"  # 80 and 70 of 90
    assert row["`none`"] == "-17"  # 80 and 70, of 90 and of 94
    assert row["`frozen`"] == "–"


def test_transfer_between_networks_that_were_not_compared_is_left_out(results):
    path = results / "ladder/summary.json"
    summary = json.loads(path.read_text())
    for name in ("none_0", "none_1"):
        del summary["full_0"]["transfer"]["adversarial_images"][name]
        del summary["full_1"]["transfer"]["adversarial_images"][name]
    path.write_text(json.dumps(summary))
    assert row_of(ladder.transfer(results), "`full`")["`none`"] == "–"
