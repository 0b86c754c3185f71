"""A disk that fails."""

import contextlib
import fnmatch
import os
from pathlib import Path

import pytest


@contextlib.contextmanager
def no_room_for(pattern):
    """A context in which no file whose name matches can be put in its place."""
    replace = os.replace

    def refuse(source, target, **options):
        if fnmatch.fnmatch(Path(target).name, pattern):
            raise OSError(28, "No space left on device")
        replace(source, target, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        yield


def fill(path):
    """Write zeros to a file until its disk is full."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
