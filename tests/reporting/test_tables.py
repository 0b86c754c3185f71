import json

from inside_cnn.reporting import tables


def put(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, values)))


def cells(table):
    """The rows of a table as lists of cells, without the separator line."""
    rows = [[cell.strip() for cell in row[1:-1].split("|")] for row in table.splitlines()]
    return [rows[0], *rows[2:]]


def test_short_numbers():
    cases = [(93.786, "93.79"), (0.0054374, "0.00544"), (-1e-9, "0"), (2.0, "2"), (12345, "12,345")]
    cases += [([0.5, 2], "0.5 to 2"), (None, ""), ("8/255", "8/255")]
    for value, text in cases:
        assert tables.short(value) == text


def test_lines_omit_the_source_of_a_number(tmp_path):
    records = {"model": "a", "FID": 1.5, "commit": "c"}, {"model": "b", "IS": 2}
    put(tmp_path / "numbers.jsonl", *records)
    expected = [["model", "FID", "IS"], ["a", "1.5", ""], ["b", "", "2"]]
    assert cells(tables.lines(tmp_path, "numbers")) == expected


def test_rows_below_a_path_of_keys(tmp_path):
    scores = {"one_part": {"fid": 1.25, "classes": {}}, "other": {"fid": 3.0}}
    put(tmp_path / "e.json", {"inception": {"scores": scores}, "machine": {}})
    expected = [["", "FID"], ["one part", "1.25"], ["other", "3"]]
    assert cells(tables.rows(tmp_path, "e.json", "inception/scores/*")) == expected
    put(tmp_path / "s.json", {"without G": {"a": {"b": 1}}, "with G": {"a": {"b": 2}}})
    assert cells(tables.rows(tmp_path, "s.json", "*/a"))[1:] == [
        ["classifier", "1"],
        ["critic", "2"],
    ]
    assert cells(tables.rows(tmp_path, "s.json", "absent/*")) == [[""]]  # FID may be left out
    assert cells(tables.rows(tmp_path, "s.json", "*/absent"))[1:] == [["classifier"], ["critic"]]


def test_series_of_both_networks(tmp_path):
    measured = {
        "bands": [0, 0.5, 1.0],
        "white_energy": [25, 75],
        "noise_accuracy": [93.4, 50.0],
        "noise_interval": [[90.1, 95.0], [40.0, 60.0]],
    }
    critic = measured | {"noise_accuracy": [10.2, 1.26], "cka": {"without G": [0.5, 0.25]}}
    measured = measured | {"cka": {"seed_1": [0, 0], "with G": [0.5, 0.25]}}
    put(tmp_path / tables.SUMMARY, {"without G": {"part": measured}, "with G": {"part": critic}})
    fields = ("white_energy", "noise_accuracy", "cka")
    assert cells(tables.series(tmp_path, "part", "bands", *fields)) == [
        ["cycles per pixel, up to", "", "0.5", "1"],
        ["white energy", "both", "25", "75"],
        ["noise accuracy", "classifier", "93 (90 to 95)", "50 (40 to 60)"],
        ["noise accuracy", "critic", "10 (90 to 95)", "1.3 (40 to 60)"],
        ["CKA", "both", "0.5", "0.25"],
    ]


def test_runs_that_differ_in_the_seed_share_a_row(tmp_path):
    for seed, (accuracy, speed) in enumerate([(90.0, 100.0), (91.0, 50.0), (92.0, 25.0)]):
        folder = tmp_path / f"controls/seed_{seed}"
        settings = {"seed": seed, "epochs": 2, "batch_size": 10, "script": "s.py"}
        put(folder / "config.json", {"settings": settings, "device": "CPU"})
        put(folder / "summary.json", {"test_accuracy": accuracy})
        log = [{"step": 200, "images_per_second": speed}, {"step": 600, "images_per_second": speed}]
        put(folder / "metrics.jsonl", *log)
    # 6,000 images in 1, 2 and 4 minutes.
    expected = ["91.00 ± 1.00", "0, 1, 2", "2", "2.33", "CPU", "`python s.py --epochs 8`"]
    assert cells(tables.runs(tmp_path, "controls/seed_*"))[1][1:] == expected


def test_a_stale_table_is_reported_and_updated(tmp_path):
    put(tmp_path / "results/numbers.jsonl", {"a": 1})
    page = tmp_path / "README.md"
    table = "| a |\n| --- |\n| 1 |\n"
    fresh = f"before\n<!-- table: lines numbers -->\n{table}<!-- end of table -->\nafter\n"
    page.write_text(fresh)
    assert tables.update(tmp_path, check=True) == []
    stale = fresh.replace("| 1 |", "| 2 |")
    page.write_text(stale)
    assert tables.update(tmp_path, check=True) == ["README.md: lines numbers"]
    assert page.read_text() == stale
    assert tables.update(tmp_path) == ["README.md: lines numbers"]
    assert page.read_text() == fresh
