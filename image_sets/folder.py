"""One's own images: a folder of pictures for each class.

DIR/train/CLASS/* and DIR/test/CLASS/*, or DIR/CLASS/* alone, of which a tenth is for the test.
Where a picture goes, and its place in the order, depend on a hash of its path below DIR (or below
DIR/train): adding one moves no other, and the first N images of a set are of all classes.
"""

import os
import stat
import unicodedata
from pathlib import Path

from image_sets.dataset import DataError, Dataset
from image_sets.decoding import PARTS, Picture, decode, digest_of, read_cache, write_cache

OTHER_WORDS = ("val", "valid", "validation")  # what some call the test
MIN_CLASSES, MAX_CLASSES = 2, 64
TEST_SHARE = 10  # one picture in so many
TOLD = 3  # files that are no pictures and are told by name


def load_folder(folder):
    """One's own pictures as (train, test), each in the order of its hashes.

    They are decoded by all cores, and again where names, sizes or times have changed since.
    Files that are no pictures are told and left out.
    Raises DataError for a folder of another form, fewer than MIN_CLASSES or more than MAX_CLASSES,
    a class without a picture for training or for the test, what cannot be read, and links that go
    in a circle.
    """
    folder = Path(folder)
    try:
        class_names, pictures = find_pictures(folder)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror}") from None
    kept = read_cache(folder, class_names, pictures)
    if kept is None:
        kept = decode(folder, pictures)
        write_cache(folder, class_names, pictures, *kept)
    tensors, failed = kept
    for path, why in list(failed.items())[:TOLD]:
        print(f"left out {path}: {why}")
    if len(failed) > TOLD:
        print(f"left out {len(failed):,} files in all that are no pictures")
    check_that_none_is_empty(class_names, tensors, pictures, failed)
    counts = " + ".join(f"{len(tensors[f'{part}_labels']):,}" for part in PARTS)
    source = f"{counts} pictures of {len(class_names)} classes in {folder}"
    digest = digest_of(class_names, *tensors.values())
    return tuple(
        Dataset(
            name="folder",
            images=tensors[f"{part}_images"],
            labels=tensors[f"{part}_labels"],
            class_names=class_names,
            source=source,
            digest=digest,
        )
        for part in PARTS
    )


def check_that_none_is_empty(class_names, tensors, pictures, failed):
    """Raises DataError where a class has no picture in a part of the set."""
    for part in PARTS:
        counts = tensors[f"{part}_labels"].bincount(minlength=len(class_names)).tolist()
        if 0 not in counts:
            continue
        label = counts.index(0)
        own = [picture for picture in pictures if picture.label == label]
        bad = [p.path for p in own if p.path in failed]
        why = f" ({bad[0]}: {failed[bad[0]]})" if bad else ""
        purpose = {"train": "for training", "test": "for the test"}[part]
        raise DataError(
            f"class {class_names[label]} has no picture {purpose}, of {len(own)} files{why}; add "
            "some, or sort them into train/CLASS and test/CLASS yourself"
        )


def find_pictures(folder):
    """(class names, Pictures in the order of their hashes). Raises DataError, OSError."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    names = subfolders(folder)
    if set(PARTS) <= set(names):
        roots = {part: folder / part for part in PARTS}
    elif "train" in names and (other := next((w for w in OTHER_WORDS if w in names), None)):
        raise DataError(f"{folder} holds train and {other}; rename {other} to test")
    else:
        roots = {"": folder}
    classes = {root: subfolders(root) for root in roots.values()}
    check_classes(folder, classes)
    names = classes[next(iter(roots.values()))]
    pictures = []
    for root_part, root in roots.items():
        for label, name in enumerate(names):
            for path, status in files_below(root / name):
                number = digest_of(unicodedata.normalize("NFC", os.path.relpath(path, root)))
                part = root_part or PARTS[int(number[-8:], 16) % TEST_SHARE == 0]
                size = status.st_size if stat.S_ISREG(status.st_mode) else -1
                pictures.append(Picture(number, part, label, path, size, status.st_mtime_ns))
    return tuple(map(spelled, names)), sorted(pictures)


def subfolders(folder):
    """Their names, but for hidden ones, in order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith("."))


def spelled(name):
    """A folder's name as that of a class: as every system spells it, without odd characters."""
    name = unicodedata.normalize("NFC", name)
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def check_classes(folder, classes):
    """Raises DataError for folders that are no set of classes. classes: {root: folders in it}."""
    (root, names), *others = classes.items()
    if not names:
        raise DataError(f"{root} holds no folder of pictures; it has to hold one for each class")
    if len(names) < MIN_CLASSES:
        raise DataError(f"{root} holds one class only ({names[0]}); at least {MIN_CLASSES}")
    if len(names) > MAX_CLASSES:
        raise DataError(f"{root} holds {len(names)} classes; at most {MAX_CLASSES}")
    if len(set(map(spelled, names))) < len(names):
        raise DataError(f"{root} holds folders whose names are spelled alike")
    for _, of_test in others:
        alone = {"train": set(names) - set(of_test), "test": set(of_test) - set(names)}
        told = [f"in {part} alone: {', '.join(sorted(a))}" for part, a in alone.items() if a]
        if told:
            raise DataError(f"{folder} has other classes in train than in test; {'; '.join(told)}")


def files_below(folder):
    """(path, status) of the files in a folder and in those below it; hidden ones are passed over.

    Links are followed; those to nothing are given with their own status.
    Raises DataError for a link that goes in a circle.
    """
    waiting = [(str(folder), frozenset())]
    while waiting:
        place, above = waiting.pop()
        status = os.stat(place)
        own = status.st_dev, status.st_ino
        if own in above:
            raise DataError(f"{place} is a folder that it lies in: a link goes in a circle")
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append((entry.path, above | {own}))
                else:
                    yield entry.path, entry.stat(follow_symlinks=os.path.exists(entry.path))
