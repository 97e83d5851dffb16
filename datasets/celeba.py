"""CelebA: aligned faces, cropped and resized once, then read from that copy."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from bench import DataError, Dataset, File, Images, Range, Splits

from ._reading import again, reading

_ALIGNED = (178, 218)  # pixels, wide and high
_CROP = 140  # of these: the face and little else


class CelebA(Dataset):
    """202,599 faces of 10,177 people (Liu et al. 2015), without labels.

    The centre 140x140 is resized to `image_size` (bilinear, antialiased). The splits are the source's own:
    images 1 to 162,770 and the last 19,962; its validation split between them is not used. Decoded pixels are
    kept beside the archive, in one memory-mapped file.
    """

    title = "CelebA: faces, 64x64 colour, 162,770 + 19,962"
    license = "for non-commercial research only"
    train: ClassVar[range] = range(1, 162_771)
    test: ClassVar[range] = range(182_638, 202_600)
    files = (
        File(
            "celeba/img_align_celeba.zip",
            ("https://s3.amazonaws.com/pytorch-tutorial-assets/img_align_celeba.zip",),
            "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
            1_443_490_838,
        ),
    )

    def __init__(self, *, image_size: Annotated[int, Range(8, _CROP), "pixels a side, after the crop"] = 64) -> None:
        self.image_size = image_size

    def ready(self, root: Path) -> bool:
        return any(path.exists() for path in (self._decoded(root), self._archive(root), self._folder(root)))

    def load(self, root: Path) -> Splits:
        path = self._decoded(root)
        if not path.exists():
            self._decode(root, path)
        count = len(self.train) + len(self.test)
        shape = (count, 3, self.image_size, self.image_size)
        with reading(path, f"Delete {str(path)!r}: it is made again from the archive."):
            pixels = np.load(path, mmap_mode="c", allow_pickle=False)
            if pixels.shape != shape or pixels.dtype != np.uint8:
                raise ValueError(f"it holds {pixels.shape} {pixels.dtype}, not {shape} uint8")
        return Splits(Images(pixels[: len(self.train)]), Images(pixels[len(self.train) :]))

    def _archive(self, root: Path) -> Path:
        return root / self.files[0].path

    def _folder(self, root: Path) -> Path:
        return root / "celeba" / "img_align_celeba"

    def _decoded(self, root: Path) -> Path:
        return root / "celeba" / f"aligned-{_CROP}-{self.image_size}.npy"

    def _decode(self, root: Path, path: Path) -> None:
        """Make `path` appear, complete."""
        part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        numbers = [*self.train, *self.test]
        try:
            pixels = open_memmap(part, "w+", np.uint8, (len(numbers), 3, self.image_size, self.image_size))
            with self._source(root) as (place, read):
                for i, number in enumerate(numbers):
                    name = f"{number:06d}.jpg"
                    with reading(place / name, again(place)):
                        pixels[i] = self._face(read(name))
            pixels.flush()
            part.replace(path)
        except OSError as error:
            raise DataError(
                f"can't keep the decoded faces in {str(path.parent)!r}",
                cause=f"{error.strerror or error}.",
                fix="Name a folder that can be written with --data-root or BENCH_DATA.",
            ) from error
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def _source(self, root: Path) -> Iterator[tuple[Path, Callable[[str], bytes]]]:
        """Where the images are, and how to read one: the archive, or the folder it was unpacked to."""
        archive, folder = self._archive(root), self._folder(root)
        if not archive.exists():
            yield folder, lambda name: (folder / name).read_bytes()
            return
        with reading(archive, again(archive)):
            members = zipfile.ZipFile(archive)
        with members:
            yield archive, lambda name: members.read(f"img_align_celeba/{name}")

    def _face(self, content: bytes) -> np.ndarray:
        """The bytes of a JPEG to (3, S, S) uint8."""
        with Image.open(BytesIO(content)) as image:
            if image.size != _ALIGNED:
                raise ValueError(
                    f"it is {image.width}x{image.height}: the aligned faces are {_ALIGNED[0]}x{_ALIGNED[1]}"
                )
            left, top = (image.width - _CROP) // 2, (image.height - _CROP) // 2
            face = image.convert("RGB").crop((left, top, left + _CROP, top + _CROP))
        size = (self.image_size, self.image_size)
        return np.asarray(face.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
