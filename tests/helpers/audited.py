"""audited.py LOG FOLDER SCRIPT FLAGS...: run a script, note what it writes below FOLDER.

Leaves LOG.RANK: a JSON list of the names of files opened for writing, renamed, removed or made,
relative to FOLDER.
"""

import atexit
import json
import os
import runpy
import sys
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.link", "os.rmdir", "os.truncate"}


def main():
    log, folder, *sys.argv = sys.argv[1:]
    changed = set()

    def note(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR) or (mode and set(mode) & set("wax+"))
            paths = [path] if writes else []
        elif event in CHANGES:
            paths = arguments[:2]
        else:
            return
        for path in paths:
            if isinstance(path, str | os.PathLike) and Path(path).is_relative_to(folder):
                changed.add(str(Path(path).relative_to(folder)))

    def leave():
        Path(f"{log}.{os.environ.get('RANK', '0')}").write_text(json.dumps(sorted(changed)))

    sys.addaudithook(note)
    atexit.register(leave)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
