"""The layout: imports only from lower layers, never from a script."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "inside_cnn"
LAYERS = [  # lowest first
    {"core"},
    {"data", "layers"},
    {"data_tools", "discriminator", "generator"},
    {"engine"},
    {"training", "interpretability", "metrics"},
    {"reporting", "explorer"},
    {"train_discriminator", "train_gan", "visualization", "evaluate_gan", "report", "explore"},
    {"hubconf"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
PATHS = (path.relative_to(ROOT) for path in (*ROOT.glob("*.py"), *PACKAGE.rglob("*.py")))
FILES = sorted(path for path in PATHS if path != Path(PACKAGE.name, "__init__.py"))
# data_tools.py saves a preview when it is run as a script.
EXCEPTION = ("data_tools", "engine")


def unit(parts):
    """The subpackage or root module of a path or a dotted name, as a list of its parts."""
    return parts[1] if parts[0] == PACKAGE.name else parts[0].removesuffix(".py")


def imports(path):
    """(unit, whether inside a function) of every import from this repository in a file."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            parts = name.split(".")
            if parts == [PACKAGE.name]:  # from inside_cnn import SUBPACKAGE
                parts.append(node.names[0].name)
            if unit(parts) in LAYER:
                yield unit(parts), node not in tree.body


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_come_from_lower_layers(path):
    own = unit(path.parts)
    for imported, inside in imports(path):
        same = imported == own and path.parts[0] == PACKAGE.name
        if not same and not (inside and (own, imported) == EXCEPTION):
            assert LAYER[imported] < LAYER[own], f"{path} imports {imported}"


def test_every_file_belongs_to_a_layer():
    assert {unit(path.parts) for path in FILES} == LAYER.keys()
    for folder in ("visualization", "output", "tests"):
        assert not list((ROOT / folder).rglob("__init__.py"))


OLD_WORDS = re.compile(r"(?<![a-z])((un)?told|said|hole|mislead|climb)(s|ing|ed)?(?![a-z])", re.I)


def test_old_vocabulary_is_not_used():
    text_files = [ROOT / "Makefile", ROOT / ".ci/run", *(ROOT / "slurm").iterdir()]
    folders = (PACKAGE, ROOT / "tests", ROOT / "benchmarks")
    python = [*ROOT.glob("*.py"), *(path for f in folders for path in f.rglob("*.py"))]
    hits = []
    pages = [*PACKAGE.rglob("*.html"), *PACKAGE.glob("explorer/*.js")]
    for path in [*text_files, *pages, *python]:
        name = path.relative_to(ROOT).as_posix()
        if name.endswith("test_layout.py"):  # this file lists them
            continue
        lines = path.read_text().splitlines()
        hits += [f"{name}:{n}" for n, line in enumerate(lines, 1) if OLD_WORDS.search(line)]
    assert not hits, "\n".join(hits)
