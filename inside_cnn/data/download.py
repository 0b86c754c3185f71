"""Downloads from mirrors, verified by their SHA-256."""

import hashlib
import io
import sys
import time
import urllib.request
from http.client import HTTPException

from tqdm import tqdm

STALL_SECONDS = 20
SLOW_SECONDS, SLOW_BYTES = 10, 1_000_000  # a mirror that sends less is slow


class SlowMirror(OSError):
    """Fewer than SLOW_BYTES arrived in SLOW_SECONDS."""


def download(urls, sha256):
    """The content of a file on the internet.

    urls: mirrors, tried in this order; slow ones again at the end. sha256: the SHA-256 of the file,
    or its first digits.
    Raises OSError if no mirror sends the file. A mirror fails if it stalls for STALL_SECONDS.
    """
    errors, queue = [], [(url, len(urls) == 1) for url in urls]
    for url, patient in queue:
        try:
            return _download(url, sha256, patient)
        except SlowMirror:
            queue.append((url, True))
            print(f"note: {url} is slow; trying the next mirror", flush=True)
        except (OSError, ValueError, HTTPException) as error:
            errors.append(f"{url}: {error}")
    raise OSError("; ".join(errors))


def _download(url, sha256, patient):
    """The content from one mirror. patient: no SlowMirror."""
    content = io.BytesIO()
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as response:
        options = {"total": int(response.headers.get("Content-Length") or 0) or None}
        options |= {"unit": "B", "unit_scale": True, "desc": url.rpartition("/")[2]}
        interval = 0.1 if sys.stderr.isatty() else 15  # seconds between lines of a log
        with tqdm(**options, mininterval=interval) as bar:
            start, first = time.monotonic(), 0
            while chunk := response.read1(2**16):
                content.write(chunk)
                bar.update(len(chunk))
                if time.monotonic() - start >= SLOW_SECONDS:
                    if content.tell() - first < SLOW_BYTES and not patient:
                        raise SlowMirror(url)
                    start, first = time.monotonic(), content.tell()
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    if not digest.startswith(sha256):
        raise OSError(f"invalid hash value {digest} (a SHA-256)")
    return content.getvalue()
