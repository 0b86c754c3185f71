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


@contextlib.contextmanager
def failing(number):
    """A context in which the number-th flush to the disk or rename fails.

    Yields the list of those that were tried; every write of a file has one of each, every line of
    the log has a flush.
    """
    tried = []

    def announced(name, system):
        def call(*args):
            tried.append(name)
            if len(tried) == number:
                raise OSError(5, "Input/output error")
            return system(*args)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name in ("fsync", "replace"):
            patched.setattr(os, name, announced(name, getattr(os, name)))
        yield tried


def fill(path):
    """Write zeros to a file until its disk is full."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
