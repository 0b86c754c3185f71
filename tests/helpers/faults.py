"""A disk that fails."""

import builtins
import contextlib
import errno
import fnmatch
import os
from pathlib import Path

import pytest

from engine import files
from training import folder_lock, run_folder


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


class _Faulty:
    """An open file whose writes are announced."""

    def __init__(self, file, announce):
        self._file, self._announce = file, announce

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, data):
        self._announce("write")
        return self._file.write(data)


@contextlib.contextmanager
def failing(number, folder):
    """A context in which the number-th opening, write, flush or rename in a run's folder fails.

    Yields the list of those that were tried.
    """
    tried = []
    system = {name: getattr(os, name) for name in ("open", "fsync", "replace")}

    def announce(what):
        tried.append(what)
        if len(tried) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def announced_open(path, flags, *args, **options):
        if str(path).startswith(str(folder)):
            announce("open")
        return system["open"](path, flags, *args, **options)

    def announced_fsync(descriptor):
        announce("fsync")
        system["fsync"](descriptor)

    def announced_replace(source, target):
        announce("replace")
        system["replace"](source, target)

    def open_file(file, *args, **options):
        if not isinstance(file, int) and "opener" not in options:
            announce("open")
        return _Faulty(builtins.open(file, *args, **options), announce)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "open", announced_open)
        patched.setattr(os, "fsync", announced_fsync)
        patched.setattr(os, "replace", announced_replace)
        for module in (files, folder_lock, run_folder):
            patched.setattr(module, "open", open_file, raising=False)
        yield tried


def fill(path):
    """Write zeros to a file until its disk is full."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
