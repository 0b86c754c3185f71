"""connections.py LOG SCRIPT FLAGS...: run a script, note every address that it connects to.

Leaves one line in LOG for each: the host's name or number.
"""

import runpy
import sys


def main():
    log, *sys.argv = sys.argv[1:]
    with open(log, "w", buffering=1) as file:

        def note(event, arguments):
            if event == "socket.connect" and isinstance(arguments[1], tuple):
                print(arguments[1][0], file=file)
            elif event == "socket.getaddrinfo":
                print(arguments[0], file=file)

        sys.addaudithook(note)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
