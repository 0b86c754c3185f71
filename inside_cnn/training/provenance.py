"""The commit and the versions that made a result."""

import platform
import subprocess
from pathlib import Path

import numpy as np
import PIL
import torch


def git_commit():
    """This repository's commit, with "-dirty" if files differ; "unknown" without git."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, ValueError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def environment():
    """{"git_commit", "versions": of Python, PyTorch, NumPy and Pillow}, for config.json."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"numpy": np.__version__, "pillow": PIL.__version__}
    return {"git_commit": git_commit(), "versions": versions}
