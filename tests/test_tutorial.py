"""docs/tutorial.md runs, and docs/tutorial.ipynb is the same page with the outputs."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
PAGE, NOTEBOOK = ROOT / "docs/tutorial.md", ROOT / "docs/tutorial.ipynb"
CODE = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Shorter computations, whose results no answer uses.
SHORTER = {
    "--limit_train 3200": "--limit_train 64",
    "--limit_train 6000": "--limit_train 64",
    "steps=50": "steps=3",  # robust class images
    "steps=40": "steps=3",  # features
}
OUTPUT = re.compile(r"(?:^|  )# (.*)$", re.MULTILINE)  # comments of the answers


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def split_numbers(text):
    """(text between the numbers, numbers)"""
    parts = re.split(r"(\d+(?:\.\d+)?)", " ".join(text.split()))
    return parts[::2], [float(number) for number in parts[1::2]]


def test_notebook_is_fresh():
    """After a change of the page or of code that it quotes: make tutorial."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert cells(notebook) == cells(jupytext.read(PAGE))
    assert NOTEBOOK.stat().st_size <= 1_500_000
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert {out.output_type for out in outputs} == {"stream", "display_data"}
    assert {out.name for out in outputs if out.output_type == "stream"} == {"stdout"}
    assert str(Path.home()) not in NOTEBOOK.read_text()


def test_page_and_answers_run(monkeypatch, capsys):
    """The page and then its answers; quoted code is the same as in the notebook."""
    monkeypatch.chdir(ROOT)
    namespace, quotes = {"__name__": "tutorial"}, 0
    code_cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    for long in SHORTER:
        assert sum(cell.source.count(long) for cell in code_cells) == 1
    for cell in code_cells:
        code = cell.source
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        exec(code, namespace)
        printed = capsys.readouterr().out
        if cell.source.rpartition("\n\n")[2].startswith("quote("):
            quotes += 1
            assert printed == cell.outputs[0].text
    assert quotes >= 8

    answers = CODE.findall(PAGE.read_text())
    assert len(answers) >= 4
    for code in answers:
        exec(code, namespace)
        words, numbers = split_numbers("\n".join(OUTPUT.findall(code)))
        printed_words, printed_numbers = split_numbers(capsys.readouterr().out)
        assert printed_words == words
        assert printed_numbers == pytest.approx(numbers, rel=0.3)
