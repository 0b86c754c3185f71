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

MIN_CLASSES, MAX_CLASSES = 2, 64
TEST_SHARE = 10  # one picture in so many
ENOUGH = 100  # pictures of a class, of which none is for the test once in 40,000 times
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
        return _load(folder)
    except OSError as error:
        reason = f"cannot read {error.filename or folder}: {error.strerror}"
        raise DataError(spelled(reason)) from None
    except DataError as error:
        raise DataError(spelled(str(error))) from None


def _load(folder):
    class_names, pictures = find_pictures(folder)
    kept = read_cache(folder, class_names, pictures)
    if kept is None:
        kept = decode(folder, pictures)
        write_cache(folder, class_names, pictures, *kept)
    tensors, failed = kept
    paths = {picture.hash: picture.path for picture in pictures}
    for number, why in list(failed.items())[:TOLD]:
        print(spelled(f"left out {paths[number]}: {why}"))
    if len(failed) > TOLD:
        print(f"left out {len(failed):,} files in all that are no pictures")
    check_that_none_is_empty(class_names, tensors, pictures, failed)
    counts = " + ".join(f"{len(tensors[f'{part}_labels']):,}" for part in PARTS)
    source = spelled(f"{counts} pictures of {len(class_names)} classes in {folder}")
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
        bad = [p for p in own if p.hash in failed]
        why = f" ({bad[0].path}: {failed[bad[0].hash]})" if bad else ""
        what = f"class {class_names[label]}, of {len(own)} files{why}, has no picture"
        if part == "train":
            raise DataError(f"{what} for training")
        raise DataError(
            f"{what} among the one in {TEST_SHARE} for the test; with {ENOUGH} of each class that "
            "is unlikely, or sort them into train/CLASS and test/CLASS yourself"
        )


def find_pictures(folder):
    """(class names, Pictures in the order of their hashes). Raises DataError, OSError."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    top = subfolders(folder)
    roots = {part: folder / part for part in PARTS} if set(PARTS) <= set(top) else {"": folder}
    if "" in roots:
        check_that_parts_are_named_so(folder, top)
    classes = {part: subfolders(root) for part, root in roots.items()}
    check_classes(folder, classes)
    names = list(next(iter(classes.values())))
    pictures = []
    for root_part, root in roots.items():
        for label, name in enumerate(names):
            for path, status in files_below(root / classes[root_part][name]):
                number = digest_of(unicodedata.normalize("NFC", os.path.relpath(path, root)))
                part = root_part or PARTS[int(number[-8:], 16) % TEST_SHARE == 0]
                size = status.st_size if stat.S_ISREG(status.st_mode) else -1
                pictures.append(Picture(number, part, label, path, size, status.st_mtime_ns))
    return tuple(names), sorted(pictures)


def subfolders(folder):
    """{its name as that of a class: the folder's own}, in order; hidden ones are passed over.

    Raises DataError where two would have the same name.
    """
    with os.scandir(folder) as entries:
        own = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    names = {spelled(name): name for name in own}
    if len(names) < len(own):
        raise DataError(f"{folder} holds folders whose names are spelled alike")
    return dict(sorted(names.items()))


def spelled(text):
    """A folder's name as that of a class: as every system spells it, without odd characters."""
    text = unicodedata.normalize("NFC", text)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def check_that_parts_are_named_so(folder, top):
    """Raises DataError for two or three folders, as Train and val, that hold the same classes."""
    if 2 <= len(top) <= 3 and any("train" in name.lower() for name in top):
        inside = [set(subfolders(folder / own)) for own in top.values()]
        if set.intersection(*inside):
            raise DataError(
                f"{folder} holds {', '.join(top)}, and the same classes in each; rename the one "
                "for training to train and one for the test to test"
            )


def check_classes(folder, classes):
    """Raises DataError for folders that are no set of classes. classes: {part: {name: folder}}."""
    (part, names), *others = classes.items()
    root = folder / part
    if not names:
        raise DataError(f"{root} holds no folder of pictures; it has to hold one for each class")
    if len(names) < MIN_CLASSES:
        raise DataError(f"{root} holds one class only ({', '.join(names)}); at least {MIN_CLASSES}")
    if len(names) > MAX_CLASSES:
        raise DataError(f"{root} holds {len(names)} classes; at most {MAX_CLASSES}")
    for _, of_test in others:
        alone = {"train": names.keys() - of_test.keys(), "test": of_test.keys() - names.keys()}
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
