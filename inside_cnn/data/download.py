"""Downloads from mirrors, verified by their SHA-256."""

import contextlib
import hashlib
import os
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

STALL_SECONDS = 20
SLOW_SECONDS, SLOW_BYTES = 10, 1_000_000  # a mirror that sends less is slow


class SlowMirror(OSError):
    """Fewer than SLOW_BYTES arrived in SLOW_SECONDS."""


def download(urls, path, sha256):
    """Download a file to `path`, completely or not at all.

    urls: mirrors, tried in this order; slow ones again at the end. sha256: the SHA-256 of the file,
    or its first digits.
    Raises OSError if no mirror sends the file. A mirror fails if it stalls for STALL_SECONDS.
    """
    errors, queue = [], [(url, len(urls) == 1) for url in urls]
    for url, patient in queue:
        try:
            return _download(url, Path(path), sha256, patient)
        except SlowMirror:
            queue.append((url, True))
            print(f"note: {url} is slow; trying the next mirror", flush=True)
        except (OSError, ValueError, HTTPException) as error:
            errors.append(f"{url}: {error}")
    raise OSError("; ".join(errors))


def _download(url, path, sha256, patient):
    """Download from one mirror. patient: no SlowMirror."""
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        response = stack.enter_context(urllib.request.urlopen(url, timeout=STALL_SECONDS))
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        stack.callback(temporary.unlink, missing_ok=True)
        file = stack.enter_context(open(temporary, "wb"))
        options = {"total": int(response.headers.get("Content-Length") or 0) or None}
        options |= {"unit": "B", "unit_scale": True, "desc": path.name}
        interval = 0.1 if sys.stderr.isatty() else 15  # seconds between lines of a log
        bar = stack.enter_context(tqdm(**options, mininterval=interval))
        start, received = time.monotonic(), 0
        while chunk := response.read1(2**16):
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
            received += len(chunk)
            if time.monotonic() - start >= SLOW_SECONDS:
                if received < SLOW_BYTES and not patient:
                    raise SlowMirror(url)
                start, received = time.monotonic(), 0
        if not digest.hexdigest().startswith(sha256):
            raise OSError(f"invalid hash value {digest.hexdigest()} (a SHA-256)")
        file.flush()
        os.replace(temporary, path)
