"""Downloads with a checksum and a timeout."""

import socket
import sys
from http.client import HTTPException

import torch

STALL_SECONDS = 20


def download(url, path, sha256):
    """Download a file to `path`, completely or not at all.

    sha256: the SHA-256 of the file, or its first digits.
    Raises OSError, also for another checksum and after STALL_SECONDS without data.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        torch.hub.download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except (HTTPException, RuntimeError) as error:
        raise OSError(f"download of {url} failed: {error}") from None
    finally:
        socket.setdefaulttimeout(timeout)
