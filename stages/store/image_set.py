"""The images of one side of the split: ids, labels and where their pixels are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.errors import UserError
from stages.files import INDEX, RELATIVES_COLUMNS, SPLIT_COLUMNS
from stages.store.outputs import made_by
from stages.store.processed import Dataset, Pixels
from stages.store.tables import iterate, read_table


@dataclass(frozen=True)
class ImageSet:
    """`ids` str (n,), `paths` str (n,), `labels` int32 (n,) into `dataset.classes`.

    `rows` int64 (n,) are global rows of `pixels`.
    """

    ids: np.ndarray
    paths: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    pixels: Pixels
    dataset: Dataset

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Images `start` to `stop`, uint8 (n, height, width, channels)."""
        return self.pixels.take(self.rows[start:stop])

    def batches(
        self, batch_size: int, start: int = 0, stop: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield images `start` to `stop` in order, `batch_size` at a time, as `images` does."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, batch_size):
            yield self.images(first, min(first + batch_size, stop))


def load_image_set(processed: str | Path, split: str | Path) -> ImageSet:
    """The images that the CSV file `split` (id, label) names, from the folder `processed`.

    Raises `UserError` if a file is missing or damaged, or `split` is about other images.
    """
    import pyarrow.compute as pc

    with made_by("preprocess", processed):
        dataset, pixels = Dataset.load(processed), Pixels(processed)
    with made_by("preprocess", Path(processed) / INDEX):
        index = read_table(Path(processed) / INDEX, ["id", "path", "shard", "row"])
    with made_by("split", split):
        wanted = read_table(split, SPLIT_COLUMNS)
    at = pc.index_in(wanted["id"], index["id"])
    labels = pc.index_in(wanted["label"], pa.array(dataset.classes, pa.string()))
    if at.null_count or labels.null_count:
        raise UserError(f"{split} names images or classes that {processed} lacks; dvc repro split")
    found = index.take(at)
    with made_by("preprocess", processed):
        rows = pixels.rows(found["shard"].to_pylist(), found["row"].to_numpy())
    return ImageSet(
        ids=wanted["id"].to_numpy(),
        paths=found["path"].to_numpy(),
        labels=labels.to_numpy().astype(np.int32),
        rows=rows,
        pixels=pixels,
        dataset=dataset,
    )


def read_relatives(path: Path, images: ImageSet) -> np.ndarray:
    """Numbers that those of `images` share which the table `path` says are related, int (n,)."""
    at = {id: number for number, id in enumerate(images.ids.tolist())}
    numbers = np.arange(len(images))
    with made_by("split", path):
        for id, first in iterate(read_table(path, RELATIVES_COLUMNS)):
            numbers[at[id]] = at[first]
    return numbers


def pixel_digests(processed: Path, pixels: Pixels) -> np.ndarray:
    """The digest that index.csv has of each global row of `pixels`, S32 (rows,).

    Raises `ValueError` if one is missing.
    """
    index = read_table(processed / INDEX, ["shard", "row", "pixels"])
    digests = np.zeros(len(pixels), "S32")
    rows = pixels.rows(index["shard"].to_pylist(), index["row"].to_numpy())
    digests[rows] = index["pixels"].to_numpy().astype("S32")
    if (digests == b"").any():
        raise ValueError(f"{INDEX} has no digest of some images")
    return digests
