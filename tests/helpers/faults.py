"""Writes that fail."""

import contextlib
import fnmatch
import os
from pathlib import Path

import pytest


@contextlib.contextmanager
def no_room_for(pattern):
    """A context in which no file with a matching name can be written."""
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

    Yields the list of attempts. A file has one of each, a line of the log has a flush.
    """
    attempts = []

    def failing_call(name, system):
        def call(*args):
            attempts.append(name)
            if len(attempts) == number:
                raise OSError(5, "Input/output error")
            return system(*args)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name in ("fsync", "replace"):
            patched.setattr(os, name, failing_call(name, getattr(os, name)))
        yield attempts
