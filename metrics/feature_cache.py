"""Features of images, kept on disk, so that no image passes through a slow network twice.

A file holds the features of a block of 1,000 images. Its name is a digest of the images and of what
the features were made by, so that it serves every set that has this block, and none but those.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from engine.files import write_atomically
from engine.progress import Progress
from metrics.scores import ScoreError

BLOCK = 1000  # images of a file


class FeatureCache:
    """A folder of features made by one extractor."""

    def __init__(self, folder, maker):
        """folder: made where it is missing; maker: words that tell this extractor from any other.

        Raises ScoreError where the folder cannot be made.
        """
        self.folder, self.maker = Path(folder), maker
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot("make", self.folder, error) from None

    def features(self, images, extract, batch_size, title):
        """uint8 (n, 3, h, w) -> float32 (n, d): what is not kept yet goes through `extract`.

        extract: (b, 3, h, w) -> (b, d), for b up to batch_size. title: of the progress.
        Raises ScoreError where a file cannot be written.
        """
        blocks = images.split(BLOCK)
        paths = [self._path(block) for block in blocks]
        features = [self._read(path, block) for path, block in zip(paths, blocks, strict=True)]
        missing = [index for index, found in enumerate(features) if found is None]
        if len(missing) < len(blocks):
            kept = len(images) - sum(len(blocks[index]) for index in missing)
            print(f"{title}: {kept:,} of {len(images):,} images are kept in {self.folder}")
        batches = sum(-(-len(blocks[index]) // batch_size) for index in missing)
        progress = Progress(title, batches, batch_size)
        for index in missing:
            batches = blocks[index].split(batch_size)
            features[index] = self._read(paths[index], blocks[index])  # another command's, since
            if features[index] is None:
                parts = []
                for batch in batches:
                    parts.append(extract(batch).float().cpu())
                    progress.step()
                features[index] = torch.cat(parts)
                self._write(paths[index], features[index])
            else:
                for _ in batches:
                    progress.step()
        progress.close()
        return torch.cat(features)

    def _path(self, block):
        sha256 = hashlib.sha256(f"{self.maker} {tuple(block.shape)} ".encode())
        sha256.update(block.contiguous().numpy())
        return self.folder / f"{sha256.hexdigest()}.safetensors"

    def _read(self, path, block):
        """The kept features, or None where there are none or they are damaged, which is told."""
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                features, checksum = file.get_tensor("features"), file.metadata()["sha256"]
            whole = features.dtype == torch.float32 and features.shape[:1] == (len(block),)
            if whole and features.ndim == 2 and checksum == _checksum(features):
                return features
        except (SafetensorError, OSError, RuntimeError, KeyError, TypeError):
            pass
        print(f"{path} is damaged: its features are made anew")
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def _write(self, path, features):
        content = safetensors_bytes({"features": features}, {"sha256": _checksum(features)})
        # Another evaluation may write the same block at the same time: in a folder of its own.
        try:
            with tempfile.TemporaryDirectory(prefix=".", dir=self.folder) as own:
                write_atomically(Path(own) / path.name, content)
                os.replace(Path(own) / path.name, path)
        except OSError as error:
            raise self._cannot("write", path, error) from None

    def _cannot(self, verb, path, error):
        why = error.strerror or error
        return ScoreError(f"cannot {verb} {path}: {why}; give another --feature_cache")


def _checksum(features):
    return hashlib.sha256(features.contiguous().numpy()).hexdigest()
