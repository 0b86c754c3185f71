"""The user's own images: a folder of pictures for each class.

DIR/train/CLASS/* and DIR/test/CLASS/*, or DIR/CLASS/* alone, of which a tenth becomes the test set.
A hash of a picture's path relative to DIR (or DIR/train) determines its part and its position, so
the first N images include all classes.
"""

import contextlib
import itertools
import os
import unicodedata
from collections import Counter
from pathlib import Path

from PIL import Image

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import digest_of
from inside_cnn.data.dataset import Dataset
from inside_cnn.data.decoding import FORMATS, PARTS, SIZE, Picture, load_pictures

MIN_CLASSES, MAX_CLASSES = 2, 64
MAX_LISTED = 3  # ignored files that are listed by name
# Folders of file systems and of network storage, which are no classes. Some hold thumbnails.
SYSTEM_FOLDERS = ("@eaDir", "@Recycle", "@tmp", "#recycle", "__MACOSX", "lost+found")
SYSTEM_FOLDERS += ("$RECYCLE.BIN", "System Volume Information")


def load_folder(folder, size=SIZE):
    """The user's pictures of this size as (train, test), each in the order of its hashes.

    Files that are not valid pictures are reported and ignored.
    Raises UserError for another folder structure, for fewer than MIN_CLASSES or more than
    MAX_CLASSES, and for a class without training or test pictures; OSError for unreadable files.
    """
    folder = Path(folder)
    class_names, pictures = find_pictures(folder)
    parts, failed = load_pictures(folder, class_names, pictures, size)
    for index, reason in list(failed.items())[:MAX_LISTED]:
        print(printable(f"ignored {pictures[index].path}: {reason}"))
    if len(failed) > MAX_LISTED:
        print(f"ignored {len(failed):,} files in total that are not valid pictures")
    for part, (images, _) in zip(PARTS, parts, strict=True):
        flat = images.flatten(1)
        if count := int((flat.amax(1) == flat.amin(1)).sum()):
            print(f"warning: {count:,} {part} pictures have a single color")
    for part, (_, labels) in zip(PARTS, parts, strict=True):
        counts = labels.bincount(minlength=len(class_names)).tolist()
        if 0 in counts:
            raise UserError(
                f"class {class_names[counts.index(0)]} has no picture in the {part} set; each "
                "class needs at least two pictures, or one in train/CLASS and one in test/CLASS"
            )
    counts = " + ".join(f"{len(labels):,}" for _, labels in parts)
    source = printable(f"{counts} pictures of {len(class_names)} classes in {folder}")
    digest = digest_of(class_names, *parts[0], *parts[1])
    return tuple(Dataset("folder", *part, class_names, source, digest) for part in parts)


def find_pictures(folder):
    """(class names, Pictures in the order of their hashes). Raises UserError, OSError."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    top = subfolders(folder)
    if set(PARTS) <= top.keys():
        roots = {part: folder / part for part in PARTS}
        for name in sorted(top.keys() - set(PARTS)):
            print(f"note: {folder / name} is not used, only train and test are")
    else:
        check_part_names(folder, top)
        roots = {"": folder}
    classes = {part: subfolders(root) for part, root in roots.items()}
    names, *other_names = map(tuple, classes.values())
    if not MIN_CLASSES <= len(names) <= MAX_CLASSES:
        raise UserError(
            f"{next(iter(roots.values()))} holds {len(names)} folders; it must hold one folder of "
            f"pictures per class, for {MIN_CLASSES} to {MAX_CLASSES} classes"
        )
    if other_names and other_names != [names]:
        different = ", ".join(sorted(set(names) ^ set(*other_names)))
        raise UserError(f"{folder}: only one of train and test holds the classes {different}")
    if (folder / "dataset.json").is_file():  # of StyleGAN
        print(f"note: {folder / 'dataset.json'} is not read: the folders are the classes")
    pictures = []
    for root_part, root in roots.items():
        for label, name in enumerate(names):
            for path in files_below(root / classes[root_part][name]):
                number = digest_of(normalized(os.path.relpath(path, root)))
                status = os.stat(path)
                size, time = status.st_size, status.st_mtime_ns
                pictures.append(Picture(number, root_part, label, path, size, time))
    return names, sorted(pictures)


def subfolders(folder):
    """{class name: folder name}, sorted, without hidden folders and those of the system.

    Raises UserError for two folders with the same class name, see printable.
    """
    with os.scandir(folder) as entries:
        folders = [e.name for e in entries if e.is_dir() and is_visible(e.name)]
    names = dict(sorted((printable(name), name) for name in folders))
    if len(names) < len(folders):
        twice = Counter(map(printable, folders)).most_common(1)[0][0]
        raise UserError(f"{folder} holds two folders called {twice}; rename one of them")
    return names


def is_visible(name):
    return not name.startswith(".") and name not in SYSTEM_FOLDERS


def holds_pictures(folder):
    """Whether one of the first 1,000 files in a folder and below it is a picture."""
    for path in itertools.islice(files_below(folder), 1000):
        with contextlib.suppress(Exception), Image.open(path, formats=FORMATS):
            return True
    return False


def normalized(name):
    """The name of a file or folder as UTF-8 in the form NFC, the same in every locale."""
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", text)


def printable(text):
    """The name of a file or folder on one line."""
    text = normalized(text)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def check_part_names(folder, top):
    """Raise UserError for two or three folders, such as Train and val, with the same classes."""
    if not (2 <= len(top) <= 3 and any("train" in name.lower() for name in top)):
        return
    if set.intersection(*(set(subfolders(folder / name)) for name in top.values())):
        raise UserError(
            f"{folder} holds {', '.join(top)} with the same classes in each; rename the training "
            "folder to train and one test folder to test"
        )


def files_below(folder):
    """Paths of the regular files in a folder and below it, without hidden files and folders.

    Links are followed, except to folders that were visited before or that contain the folder.
    """
    visited = set(map(str, Path(os.path.realpath(folder)).parents))
    for root, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(filter(is_visible, folders))
        paths = (os.path.join(root, name) for name in files if not name.startswith("."))
        yield from filter(os.path.isfile, paths)
