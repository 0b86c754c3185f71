"""What README, docs/ and the other pages say: commands that parse, tables that are not stale."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import evaluate_gan
import report
import train_discriminator
import train_gan
import visualization
from engine import cli
from reporting import publish, table_makers, tables
from reporting.markdown import TableError

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for pattern in tables.DOCUMENTS for path in ROOT.glob(pattern))
SCRIPTS = {
    module.__name__: module
    for module in (
        *(evaluate_gan, report, train_discriminator, train_gan, visualization),
        *(publish, tables),
    )
}
RUN = re.compile(
    r"(?:python|torchrun --nproc_per_node=\d+|sbatch(?: --\S+)*) (?:-m |slurm/)?"
    r"([\w.]+?)(?:\.py|\.sbatch)?((?: [^`#|\n]+)?)(?=[`#|\n])"
)


def commands():
    """(page, script, arguments) of every command of ours on a page, in blocks and in sentences."""
    found = []
    for page in PAGES:
        for script, arguments in RUN.findall(page.read_text()):
            if script in SCRIPTS:
                found.append((page.name, script, arguments.strip()))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "script", "arguments"), commands())
def test_commands_are_understood(page, script, arguments):
    SCRIPTS[script].parse_args(shlex.split(arguments))


def test_the_commands_are_found():
    found = {(script, arguments) for _, script, arguments in commands()}
    assert ("visualization", "--max_features 4") in found
    assert ("train_gan", "--recipe classic") in found  # in a block, before a comment
    assert ("train_gan", "--evaluate_every 20") in found  # in a sentence
    assert ("evaluate_gan", "--sample 50000 --format png") in found
    assert ("train_gan", "--epochs 200") in found  # by sbatch
    assert {script for script, _ in found} == SCRIPTS.keys()


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?:^    |`)make (\w+)", text, re.MULTILINE))
    assert {"demo", "test", "full", "tables"} <= named <= targets


@pytest.mark.parametrize(
    ("command", "folder", "seed"),
    [(runs.command, *which) for runs in table_makers.RUNS for which in runs.folders.items()],
)
def test_the_command_is_that_of_the_published_run(command, folder, seed):
    """Every setting that makes the recipe, and the default ones above all."""
    _, script, *arguments = shlex.split(f"{command} --seed {seed}")
    config = json.loads((ROOT / "results" / folder / "config.json").read_text())
    settings = cli.ADDED | config["settings"]
    assert script == settings["script"]
    module = SCRIPTS[script.removesuffix(".py")]
    args = vars(module.parse_args(arguments))
    recipe = module.RECIPES[settings["recipe"]]
    for name in ("recipe", "seed", "limit_train", "max_steps", *recipe):
        assert args[name] == settings[name], name


def test_no_table_is_stale():
    assert tables.run(tables.parse_args(["--check"])) == {}


def test_every_table_has_a_place():
    text = "".join(page.read_text() for page in PAGES)
    used = {name for _, name, _, _ in tables.TABLE.findall(text)}
    assert table_makers.TABLES.keys() <= used
    assert text.count("<!-- table:") == len(tables.TABLE.findall(text))


def test_the_readme_can_be_taken_in():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 100]


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.fixture
def root(tmp_path):
    """A copy of the pages and what their tables are made of."""
    for page in PAGES:
        copied = tmp_path / page.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, copied)
    for path in (ROOT / "results").rglob("*.json*"):
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
    return tmp_path


def check(root):
    return tables.run(tables.parse_args(["--check"]), root)


def test_a_figure_altered_by_hand_is_found_and_mended(root):
    readme = root / "README.md"
    good = readme.read_text()
    figure = re.search(r"table: main runs -->.*?\| (\d\d)\.\d\d \|", good, re.DOTALL)
    altered = f"{int(figure[1]) + 1}"
    readme.write_text(good[: figure.start(1)] + altered + good[figure.end(1) :])
    with pytest.raises(TableError, match=r"README\.md: main runs"):
        check(root)
    assert tables.run(tables.parse_args([]), root) == {"README.md": ["main runs"]}
    assert readme.read_text() == good
    assert check(root) == {}


def test_new_results_make_a_table_stale(root):
    path = root / "results" / "visualization" / "summary.json"
    summary = json.loads(path.read_text())
    summary["with G"]["strength_study"]["accuracy_clean"] -= 1
    path.write_text(json.dumps(summary))
    with pytest.raises(TableError, match="robustness"):
        check(root)


def test_a_network_that_no_table_names_changes_none(root):
    path = root / "results" / "visualization" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({"another": summary["with G"]} | summary))
    assert check(root) == {}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: (root / "results/gan/config.json").unlink(), "config.json cannot be read"),
        (lambda root: (root / "results/gan/metrics.jsonl").write_text("{"), "metrics.jsonl"),
        (
            lambda root: (root / "results/evaluation/evaluation.json").write_text("[]"),
            "cannot be made",
        ),
        (
            lambda root: (root / "results/evaluation/evaluation.json").write_text("{}"),
            "'inception'",
        ),
        (lambda root: (root / "results/speed/changes.jsonl").write_text("{"), "changes.jsonl"),
        (
            lambda root: (root / "README.md").write_text(
                "<!-- table: none -->\n<!-- end of table -->"
            ),
            "no table 'none'",
        ),
    ],
)
def test_what_cannot_be_made_is_told(root, damage, told):
    damage(root)
    with pytest.raises(TableError, match=told):
        check(root)


def test_main(run_main, refused, monkeypatch, root):
    assert run_main(tables, "--check")[0] == 0
    (root / "results/gan/config.json").write_text("{}")
    monkeypatch.setattr(tables.run, "__defaults__", (root,))
    assert "cannot be made" in refused(tables)
