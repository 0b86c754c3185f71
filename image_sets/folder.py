"""The user's own images: a folder of pictures for each class.

DIR/train/CLASS/* and DIR/test/CLASS/*, or DIR/CLASS/* alone, of which a tenth is for the test.
The part of a picture and its place in the order depend on a hash of its path below DIR (or below
DIR/train): adding one moves no other, and the first N images of a set are of all classes.
"""

import os
import unicodedata
from pathlib import Path

from engine.errors import UserError
from image_sets.dataset import Dataset
from image_sets.decoding import PARTS, Picture, decode, digest_of, read_cache, write_cache

MIN_CLASSES, MAX_CLASSES = 2, 64
TEST_SHARE = 10  # one picture in so many
ENOUGH = 100  # pictures of a class; the chance that none of them is for the test is 1 in 40,000
MAX_LISTED = 3  # files that are left out and listed by name


def load_folder(folder):
    """The user's pictures as (train, test), each in the order of its hashes.

    They are decoded on all CPUs, and again if names, sizes or times have changed. Files that are
    not valid pictures are reported and left out.
    Raises UserError for a folder of another form, for fewer than MIN_CLASSES or more than
    MAX_CLASSES, for a class without a picture for training or for the test, and for links in a
    circle; OSError for what cannot be read.
    """
    folder = Path(folder)
    class_names, pictures = find_pictures(folder)
    decoded = read_cache(folder, class_names, pictures)
    if decoded is None:
        decoded = decode(folder, pictures)
        write_cache(folder, class_names, pictures, *decoded)
    tensors, failed = decoded
    for index, reason in list(failed.items())[:MAX_LISTED]:
        print(printable(f"left out {pictures[index].path}: {reason}"))
    if len(failed) > MAX_LISTED:
        print(f"left out {len(failed):,} files in all that are not valid pictures")
    check_that_none_is_empty(class_names, tensors, pictures, failed)
    counts = " + ".join(f"{len(tensors[f'{part}_labels']):,}" for part in PARTS)
    source = printable(f"{counts} pictures of {len(class_names)} classes in {folder}")
    names = [f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")]
    digest = digest_of(class_names, *(tensors[name] for name in names))
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
    """Raise UserError if a class has no picture in a part of the set."""
    for part in PARTS:
        counts = tensors[f"{part}_labels"].bincount(minlength=len(class_names)).tolist()
        if 0 not in counts:
            continue
        label = counts.index(0)
        own = [index for index, picture in enumerate(pictures) if picture.label == label]
        bad = [f" ({pictures[i].path}: {failed[i]})" for i in own if i in failed]
        title = f"class {class_names[label]}, of {len(own)} files{''.join(bad[:1])}, has no picture"
        if part == "train":
            raise UserError(f"{title} for training")
        raise UserError(
            f"{title} among the one in {TEST_SHARE} for the test; with {ENOUGH} of each class that "
            "is unlikely, or sort them into train/CLASS and test/CLASS yourself"
        )


def find_pictures(folder):
    """(class names, Pictures in the order of their hashes). Raises UserError, OSError."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    top = subfolders(folder)
    roots = {part: folder / part for part in PARTS} if set(PARTS) <= set(top) else {"": folder}
    if "" in roots:
        check_names_of_parts(folder, top)
    classes = {part: subfolders(root) for part, root in roots.items()}
    check_classes(folder, classes)
    names = list(next(iter(classes.values())))
    pictures = []
    for root_part, root in roots.items():
        for label, name in enumerate(names):
            for path, size, time in files_below(root / classes[root_part][name]):
                number = digest_of(unicodedata.normalize("NFC", os.path.relpath(path, root)))
                part = root_part or PARTS[int(number[-8:], 16) % TEST_SHARE == 0]
                pictures.append(Picture(number, part, label, path, size, time))
    return tuple(names), sorted(pictures)


def subfolders(folder):
    """{name of a class: name of its folder}, sorted, without hidden folders.

    Raises UserError if two folders would have the same name.
    """
    with os.scandir(folder) as entries:
        own = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    names = {printable(name): name for name in own}
    if len(names) < len(own):
        raise UserError(f"{folder} holds folders whose names are spelled alike")
    return dict(sorted(names.items()))


def printable(text):
    """A text in the one Unicode form that is the same on every system, on one line."""
    text = unicodedata.normalize("NFC", text)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def check_names_of_parts(folder, top):
    """Raise UserError for two or three folders, such as Train and val, with the same classes."""
    if not (2 <= len(top) <= 3 and any("train" in name.lower() for name in top)):
        return
    if set.intersection(*(set(subfolders(folder / own)) for own in top.values())):
        raise UserError(
            f"{folder} holds {', '.join(top)}, and the same classes in each; rename the one for "
            "training to train and one for the test to test"
        )


def check_classes(folder, classes):
    """Raise UserError unless {part: {name: folder}} is a valid set of classes."""
    (part, names), *others = classes.items()
    root = folder / part
    if not names:
        raise UserError(f"{root} holds no folder of pictures; it has to hold one for each class")
    if len(names) < MIN_CLASSES:
        raise UserError(f"{root} holds one class only ({', '.join(names)}); at least {MIN_CLASSES}")
    if len(names) > MAX_CLASSES:
        raise UserError(f"{root} holds {len(names)} classes; at most {MAX_CLASSES}")
    for _, test_names in others:
        if names.keys() != test_names.keys():
            train_only = ", ".join(names.keys() - test_names.keys()) or "none"
            test_only = ", ".join(test_names.keys() - names.keys()) or "none"
            raise UserError(
                f"{folder} has other classes in train than in test; in train alone: {train_only}; "
                f"in test alone: {test_only}"
            )


def files_below(folder, parents=()):
    """(path, size, time) of each file in a folder and below it, as Picture has them.

    Hidden ones are skipped, links are followed. Raises UserError for a link in a circle.
    """
    status = os.stat(folder)
    own = status.st_dev, status.st_ino
    if own in parents:
        raise UserError(f"{folder} is a folder that it lies in: a link goes in a circle")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files_below(entry.path, (*parents, own))
            elif entry.is_file():
                status = entry.stat()
                yield entry.path, status.st_size, status.st_mtime_ns
            else:  # a pipe, or a link to nothing
                yield entry.path, -1, 0
