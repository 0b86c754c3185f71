"""The children of a process, by /proc. Imports nothing heavy: each stand-in of srun has it."""

from pathlib import Path


def descendants(pid):
    """Process ids of the children, their children and so on; torchrun's are in other sessions."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found
