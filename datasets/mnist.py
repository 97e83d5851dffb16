"""MNIST and the sets that share its IDX format: Fashion-MNIST, KMNIST, EMNIST.

They lie as torchvision has them (ROOT/MNIST/raw/train-images-idx3-ubyte), uncompressed or as the .gz that is
downloaded, so a folder that torchvision filled works as it is. torchvision's parser reads them.
"""

from __future__ import annotations

import gzip
import shutil
import string
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from bench import DataError, Dataset, File, Images, Splits, UsageError

from ._reading import TAKE_AWAY, Published, again, labelled, reading


def _idx(part: str) -> str:
    """The name of an uncompressed file: 'train-images' gives 'train-images-idx3-ubyte' (idx, axes, type)."""
    return f"{part}-idx{3 if part.endswith('images') else 1}-ubyte"


def _parsed(parse: Callable[[str], Tensor], path: Path) -> Tensor:
    try:
        return parse(str(path))
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError("it isn't a whole IDX file") from error


def _files(folder: str, mirrors: tuple[str, ...], *files: tuple[str, str, int]) -> tuple[File, ...]:
    names = [f"{_idx(part)}.gz" for part, _, _ in files]
    return tuple(
        File(f"{folder}/{name}", tuple(mirror + name for mirror in mirrors), sha256, size)
        for name, (_, sha256, size) in zip(names, files, strict=True)
    )


def _called(cls: type[MNIST], part: int) -> str:
    return f"{cls.title.partition(':')[0]}'s {('training', 'test')[part]} split"


def _known() -> dict[str, str]:
    """The names of known splits by the digest of their images."""
    sets = (MNIST, FashionMNIST, KMNIST, EMNIST)
    return {split.digest: _called(c, i) for c in sets for i, split in enumerate(c.published or ()) if split.digest}


def _pixels(images: Images) -> Tensor:
    """All of them: (N, C, H, W) uint8. Of images that are redrawn, one draw."""
    return torch.cat([images.take(part) for part in torch.split(torch.arange(len(images)), 10_000)])


def _redrawn(images: Images) -> Images:
    return Images(_pixels(images), images.labels() if images.labelled else None, images.classes, redrawn=True)


def _drawn(images: Images, seed: int) -> Images:
    """One draw of black or white pixels, the same for everybody."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        pixels = _pixels(_redrawn(images))
    return Images(pixels, images.labels() if images.labelled else None, images.classes)


class MNIST(Dataset):
    """70,000 handwritten digits (LeCun et al. 1998).

    Binarised, `static` is not the file that Larochelle & Murray 2011 drew, which has 50,000 training images of its
    own: figures on that one aren't comparable. `dynamic` follows Salakhutdinov & Murray 2008, with test images that
    are drawn once; they are those of `static`.
    """

    title = "MNIST: handwritten digits, 28x28 grey, 60,000 + 10,000"
    license = "CC BY-SA 3.0"
    folder: ClassVar[str] = "MNIST/raw"
    splits: ClassVar[tuple[str, str]] = ("train", "t10k")  #: as file names call train and test
    classes: ClassVar[tuple[str, ...]] = tuple(string.digits)
    published: ClassVar[tuple[Published, Published] | None] = (
        Published(60_000, None, "71d3be42f93ad20da73bb4a9744d0bebdaa6832be56dc010e21940e72c4c8b1e"),
        Published(10_000, None, "4718853ea946af656684509414983beff2e65cf414265c27966161014c003b8b"),
    )  #: what train and test must be; None: whatever the files hold
    files = _files(
        folder,
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        ("train-images", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422),
        ("train-labels", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28_881),
        ("t10k-images", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877),
        ("t10k-labels", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4_542),
    )

    def __init__(
        self,
        *,
        binary: Annotated[
            Literal["none", "static", "dynamic"],
            "black or white by grey level: drawn once, by a seed of ours (not Larochelle's file), or each time anew",
        ] = "none",
        drop: Annotated[tuple[int, ...], "classes left out of train and test; their test images are outliers"] = (),
        outliers: Annotated[Literal["none", "mnist", "fashion", "kmnist"], "whose test images are outliers"] = "none",
    ) -> None:
        unknown = sorted({c for c in drop if not 0 <= c < len(self.classes)})
        if unknown:
            raise UsageError(
                f"drop={'-'.join(map(str, drop))}: there is no class {unknown[0]}",
                cause=f"The classes are 0 to {len(self.classes) - 1}: {', '.join(self.classes)}.",
            )
        if len(set(drop)) == len(self.classes):
            raise UsageError(f"drop={'-'.join(map(str, drop))} leaves no class", fix="Keep one at least.")
        if drop and outliers != "none":
            raise UsageError("drop and outliers both say what the outliers are", fix="Leave out one of the two.")
        self.binary, self.drop = binary, drop
        others: dict[str, type[MNIST]] = {"mnist": MNIST, "fashion": FashionMNIST, "kmnist": KMNIST}
        self.others = others[outliers]() if outliers != "none" else None
        if type(self.others) is type(self):
            raise UsageError(f"the images of {outliers} are no outliers of their own set", fix="Name another set.")
        if self.others is not None:
            self.files = (*self.files, *self.others.files)  # type: ignore[misc]

    def ready(self, root: Path) -> bool:
        own = all(
            self._place(root, _idx(f"{split}-{kind}")) is not None
            for split in self.splits
            for kind in ("images", "labels")
        )
        return own and (self.others is None or self.others.ready(root))

    def load(self, root: Path) -> Splits:
        train, test = (self._split(root, split) for split in self.splits)
        outliers = None
        if self.drop:
            gone = torch.isin(test.labels(), torch.tensor(self.drop))
            outliers = Images(_pixels(test)[gone])
            train, test = self._kept(train), self._kept(test)
        elif self.others is not None:
            outliers = Images(_pixels(self.others._split(root, self.others.splits[1])))
        if self.binary != "none":
            train = _redrawn(train) if self.binary == "dynamic" else _drawn(train, seed=0)
            test = _drawn(test, seed=1)
            outliers = None if outliers is None else _drawn(outliers, seed=2)
        return Splits(train, test, outliers)

    def _kept(self, images: Images) -> Images:
        """Without the classes that are dropped; those that remain are counted from 0 again."""
        kept = torch.tensor([c for c in range(len(images.classes)) if c not in self.drop])
        here = torch.isin(images.labels(), kept)
        labels = torch.searchsorted(kept, images.labels()[here])
        return Images(_pixels(images)[here], labels, tuple(images.classes[c] for c in kept))

    def _split(self, root: Path, split: str) -> Images:
        # here, because it takes seconds and `bench list` needs none of it
        from torchvision.datasets.mnist import read_image_file, read_label_file

        with self._unpacked(root, _idx(f"{split}-images")) as path:
            pixels = self._upright(_parsed(read_image_file, path))
        with self._unpacked(root, _idx(f"{split}-labels")) as path:
            images = labelled(pixels[:, None], _parsed(read_label_file, path), self.classes)
        if self.published is not None:
            part = self.splits.index(split)
            with reading(root / self.folder, TAKE_AWAY):
                self.published[part].check(images, _called(type(self), part), _known())
        return images

    def _upright(self, stored: Tensor) -> Tensor:
        """(N, H, W) as the source stores them, to (N, H, W) as they are read."""
        return stored

    def _place(self, root: Path, name: str) -> Path | None:
        """What holds the IDX file `name`, or None."""
        plain = root / self.folder / name
        return next((path for path in (plain, plain.with_name(f"{name}.gz")) if path.exists()), None)

    @contextmanager
    def _unpacked(self, root: Path, name: str) -> Iterator[Path]:
        """The uncompressed IDX file `name`: itself, or a copy for as long as it is read."""
        place = self._place(root, name)
        if place is None:
            raise DataError(
                f"{self.folder}/{name} is missing under {str(root)!r}",
                fix="`bench data fetch` downloads it, or name another folder with --data-root or BENCH_DATA.",
            )
        with reading(place, again(place)):
            if place.name == name:
                yield place
                return
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / "idx"
                with self._open(place, name) as packed, copy.open("wb") as out:
                    shutil.copyfileobj(packed, out)
                yield copy

    @contextmanager
    def _open(self, place: Path, name: str) -> Iterator[gzip.GzipFile]:
        with gzip.open(place) as packed:
            yield packed


class FashionMNIST(MNIST):
    """70,000 garments of a shop's catalogue (Xiao et al. 2017), in MNIST's form."""

    title = "Fashion-MNIST: garments, 28x28 grey, 60,000 + 10,000"
    license = "MIT"
    folder = "FashionMNIST/raw"
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    published = (
        Published(60_000, 6_000, "a8007d7be041707b663947cf4c2d8a73d1704ccde85043273b866d5181bde6c2"),
        Published(10_000, 1_000, "3581bf52f521803120533f28e81ae934decd1771980630083c739dc6da7d3bc6"),
    )
    files = _files(
        folder,
        (
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        ("train-images", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26_421_880),
        ("train-labels", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29_515),
        ("t10k-images", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4_422_102),
        ("t10k-labels", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5_148),
    )


class KMNIST(MNIST):
    """70,000 cursive Japanese characters of ten kinds (Clanuwat et al. 2018), in MNIST's form."""

    title = "KMNIST: cursive hiragana, 28x28 grey, 60,000 + 10,000"
    license = "CC BY-SA 4.0"
    folder = "KMNIST/raw"
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    published = (Published(60_000, 6_000), Published(10_000, 1_000))
    files = _files(
        folder,
        ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        ("train-images", "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4", 18_165_135),
        ("train-labels", "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17", 29_497),
        ("t10k-images", "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5", 3_041_136),
        ("t10k-labels", "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c", 5_120),
    )


class EMNIST(MNIST):
    """131,600 digits and letters, the balanced split of 47 classes (Cohen et al. 2017).

    Letters that look the same in both cases share a class. The source stores its images transposed; here they
    stand upright. One archive holds all of its splits: the four files of this one are read where it lies.
    """

    title = "EMNIST balanced: digits and letters, 47 classes, 28x28 grey, 112,800 + 18,800"
    license = "none stated (NIST)"
    folder = "EMNIST/raw"
    splits = ("emnist-balanced-train", "emnist-balanced-test")
    classes = tuple(string.digits + string.ascii_uppercase + "abdefghnqrt")
    published = (Published(112_800, 2_400), Published(18_800, 400))
    files = (
        File(
            "EMNIST/raw/gzip.zip",
            ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
            "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
            561_753_746,
        ),
    )

    def _upright(self, stored: Tensor) -> Tensor:
        return stored.transpose(1, 2).contiguous()

    def _place(self, root: Path, name: str) -> Path | None:
        archive = root / self.files[0].path
        return super()._place(root, name) or (archive if archive.exists() else None)

    @contextmanager
    def _open(self, place: Path, name: str) -> Iterator[gzip.GzipFile]:
        if place.suffix != ".zip":
            with super()._open(place, name) as packed:
                yield packed
            return
        with (
            zipfile.ZipFile(place) as archive,
            archive.open(f"gzip/{name}.gz") as member,
            gzip.open(member) as packed,
        ):
            yield packed
