"""`make full`: which stages it plans, by what is there already."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ["train_discriminator", "train_gan", "publish", "publish", "evaluate_gan", "visualization"]


@pytest.fixture
def plan(tmp_path):
    """plan(*options) -> the commands that `make full` would give, without giving them."""
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".installed").touch()

    def plan(*options):
        command = ["make", "-n", "full", f"VENV={venv}", f"FULL={tmp_path / 'full'}", *options]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout.replace("\\\n\t", "").replace("\\\n", "")

    return plan


def scripts(text):
    return re.findall(r"python (\w+)\.py", text)


def finish(tmp_path, *names):
    for name in names:
        path = tmp_path / "full" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_everything_from_nothing(plan):
    planned = scripts(plan())
    assert planned[:4] == STAGES[:4]
    assert sorted(planned[4:6]) == STAGES[4:]
    assert planned[6:] == ["report"]


def test_what_is_done_is_not_done_again(plan, tmp_path):
    finish(tmp_path, "baseline/summary.json")
    assert scripts(plan())[:2] == ["train_gan", "publish"]
    finish(tmp_path, "gan/summary.json", "published", "evaluated")
    assert scripts(plan()) == ["visualization", "report"]
    finish(tmp_path, "visualized")
    assert scripts(plan()) == ["report"]


def test_a_stopped_training_is_taken_up(plan, tmp_path):
    finish(tmp_path, "baseline/summary.json", "gan/config.json", "gan/metrics.jsonl")
    assert scripts(plan())[0] == "train_gan"


def test_published_run_is_the_one_of_the_readme(plan):
    row = next(
        line for line in (ROOT / "README.md").read_text().splitlines() if "**with G, " in line
    )
    command = re.search(r"`python (train_gan\.py [^`]*)`", row).group(1)
    epochs = re.search(r"--epochs (\d+)", command).group(1)
    for flag in re.findall(r"--\w+ \S+", command):
        assert flag in plan(f"GAN_EPOCHS={epochs}")
    assert f"--sample_epochs 0 1 20 {epochs}" in plan(f"GAN_EPOCHS={epochs}")
