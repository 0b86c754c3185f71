"""pyproject.toml's filters: which warnings fail the suite."""

import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "inside_cnn").rglob("[!_]*.py"))
# These are imported by their bare names: pytest puts their folders on the path.
BARE = [path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
OURS = sorted(
    [
        *BARE,
        *(path.stem for path in ROOT.glob("*.py")),
        *(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PACKAGE),
    ]
)


def warn(module):
    """A warning that Python attributes to a module, as a library's `stacklevel` does."""
    warnings.warn_explicit("an old call", DeprecationWarning, "file.py", lineno=1, module=module)


@pytest.mark.parametrize("module", OURS)
def test_what_our_code_causes_is_an_error(module):
    with pytest.raises(DeprecationWarning, match="an old call"):
        warn(module)


@pytest.mark.parametrize("module", ["torch.optim", "generators", "torch.layers", "reports.page"])
def test_what_a_library_says_of_itself_is_none(module):
    with warnings.catch_warnings(record=True) as shown:
        warn(module)
    assert [str(warning.message) for warning in shown] == ["an old call"]
