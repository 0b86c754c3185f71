"""README.md, docs/ and other documents: commands parse, tables are fresh, links work."""

import json
import re
import shlex

import pytest

import evaluate_gan
import report
import train_discriminator
import train_gan
import visualization
from inside_cnn.reporting import publish, tables
from inside_cnn.training.run_folder import ABSENT
from processes import ROOT

PAGES = sorted(path for pattern in tables.DOCUMENTS for path in ROOT.glob(pattern))
SCRIPTS = {
    module.__name__: module
    for module in (evaluate_gan, report, train_discriminator, train_gan, visualization, publish)
}
COMMAND = re.compile(
    r"(?:python|torchrun --nproc_per_node=\d+|sbatch(?: --\S+)* slurm/train.sbatch) (?:-m )?"
    r"([\w.]+?)(?:\.py)?((?: [^`#|\n]+)?)(?=[`#|\n])"
)


def commands():
    """(page, script, arguments) of every command with one of SCRIPTS."""
    matches = {
        (page.name, script, arguments.strip())
        for page in PAGES
        for script, arguments in COMMAND.findall(page.read_text())
    }
    return sorted(command for command in matches if command[1] in SCRIPTS)


@pytest.mark.parametrize(("page", "script", "arguments"), commands())
def test_commands_parse(page, script, arguments):
    SCRIPTS[script].parse_args(shlex.split(arguments))


def test_commands_are_found():
    found = {(script, arguments) for _, script, arguments in commands()}
    assert ("train_gan", "--recipe classic") in found  # in a block, before a comment
    assert ("train_gan", "--evaluate_every 20") in found  # in a sentence
    assert ("train_gan", "--epochs 200") in found  # by sbatch
    assert {script for script, _ in found} == SCRIPTS.keys()


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?:^    |`)make (\w+)", text, re.MULTILINE))
    assert {"demo", "full", "tables"} <= named <= targets


PUBLISHED_RUNS = [
    (folder, flags)
    for pattern, (_, flags) in tables.RUNS.items()
    for folder in ROOT.glob(f"results/{pattern}")
]


@pytest.mark.parametrize(("folder", "flags"), PUBLISHED_RUNS, ids=str)
def test_table_shows_the_command_of_the_published_run(folder, flags):
    settings = ABSENT | json.loads((folder / "config.json").read_text())["settings"]
    module = SCRIPTS[settings["script"].removesuffix(".py")]
    args = vars(module.parse_args([*flags.split(), "--seed", str(settings["seed"])]))
    for name in ("recipe", "limit_train", "max_steps", *module.RECIPES[settings["recipe"]]):
        assert args[name] == settings[name], name


def test_tables_are_fresh():
    assert tables.update(ROOT, check=True) == []
    text = "".join(page.read_text() for page in PAGES)
    assert text.count("<!-- table:") == len(tables.TABLE.findall(text))
    assert not re.search(r"-->\n\|? *\|\n\| --- \|\n<!--", text)  # without rows


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 100]


def anchors_of(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_work():
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
            if not target.startswith("https://"):
                linked = page.parent / target if target else page
                assert linked.exists(), target
                assert not anchor or anchor in anchors_of(linked), (page, anchor)
