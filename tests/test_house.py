"""Which room may import which: only from rows above its own, and never a script."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    {"image_sets", "layers"},
    {"data_tools", "discriminator", "generator"},
    {"engine"},
    {"training", "interpretability", "metrics"},
    {"reporting", "explorer"},
    {"train_discriminator", "train_gan", "visualization", "evaluate_gan", "report", "explore"},
]
ROOMS = {room for row in ROWS for room in row if not (ROOT / f"{room}.py").is_file()}
# data_tools draws a preview where it is run as a script: inside functions, it may reach up.
EXCEPTIONS = {("data_tools", "engine")}
# DESIGN.md's `core`, the lowest layer: any file may import these; they import only each other.
CORE = {f"engine.{name}" for name in ("errors", "files", "output_folder", "progress")}


def row_of(room):
    return next(index for index, row in enumerate(ROWS) if room in row)


def sources():
    files = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    return sorted(path.relative_to(ROOT) for path in files)


def imports(path):
    """(imported room, whether inside a function) of every import of ours in a file."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name in CORE:
                continue
            room = name.partition(".")[0]
            if any(room in row for row in ROWS):
                yield room, node not in tree.body


def test_the_root_holds_what_a_user_types():
    assert {path.stem for path in ROOT.glob("*.py")} == {
        name for row in ROWS for name in row - ROOMS
    }


@pytest.mark.parametrize("path", sources(), ids=str)
def test_imports_come_from_rows_above(path):
    own = path.parts[0].removesuffix(".py")
    for room, inside in imports(path):
        if (room == own and own in ROOMS) or (inside and (own, room) in EXCEPTIONS):
            continue
        assert row_of(room) < row_of(own), f"{path} imports {room}"


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_imports_only_itself(name):
    assert not list(imports(Path(*name.split(".")).with_suffix(".py")))


def test_no_package_shadows_a_script_and_packages_are_empty():
    for folder in ("visualization", "output", "tests"):
        assert not list((ROOT / folder).rglob("__init__.py"))
    for room in ROOMS:
        assert (ROOT / room / "__init__.py").read_text() == ""
