"""The images of one side of the split: ids, labels and where their pixels are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.store.processed import Dataset, Pixels
from stages.store.tables import read_table


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

    def batches(self, size: int):
        """Yield all images in order, `size` at a time, as `images` does."""
        for start in range(0, len(self), size):
            yield self.images(start, start + size)


def load_image_set(processed: str | Path, split: str | Path) -> ImageSet:
    """The images that the CSV file `split` (id, label) names, from the folder `processed`."""
    import pyarrow.compute

    dataset, pixels = Dataset.load(processed), Pixels(processed)
    wanted = read_table(split)
    index = read_table(Path(processed) / "index.csv", ["id", "path", "shard", "row"])
    at = pyarrow.compute.index_in(wanted["id"], index["id"]).to_numpy()
    found = index.take(at)
    number = {name: label for label, name in enumerate(dataset.classes)}
    return ImageSet(
        ids=wanted["id"].to_numpy(),
        paths=found["path"].to_numpy(),
        labels=np.array([number[name] for name in wanted["label"].to_pylist()], np.int32),
        rows=pixels.rows(found["shard"].to_pylist(), found["row"].to_numpy()),
        pixels=pixels,
        dataset=dataset,
    )
