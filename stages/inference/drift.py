"""Do new images come from where the training images came from? A test, and a page of the most
unusual ones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.inference import trust
from stages.inference.inputs import Batch

FEWEST = 20  # images: fewer can hardly differ from any others
MOST = 2000  # images whose features are compared, drawn by lot
UNUSUAL = 48  # images on the page
SHOWN = 10  # classes on the terminal, those with the largest change
TEMPLATE = Path(__file__).with_name("drift.html.j2")


class Unusual(NamedTuple):
    """An image far from the training images: its `position`, `pixels` uint8 (h, w, c), the number
    of its most probable class, that `probability` and its `distance`."""

    position: int
    pixels: np.ndarray
    predicted: int
    probability: float
    distance: float


class Collected:
    """What the test needs of `count` images that come in batches; memory stays bounded."""

    def __init__(self, count: int, classes: int):
        random = np.random.Generator(np.random.Philox(0))
        self._drawn = set(random.permutation(count)[:MOST].tolist())
        self._features: list[np.ndarray] = []
        self.predicted = np.zeros(classes, int)
        self.unusual: list[Unusual] = []

    def add(
        self, batch: Batch, probabilities: np.ndarray, features: np.ndarray, distance: np.ndarray
    ) -> None:
        best = probabilities.argmax(axis=1)
        self.predicted += np.bincount(best, minlength=len(self.predicted))
        self._features.append(features[[at in self._drawn for at in batch.positions]])
        farthest = np.argsort(-distance, kind="stable")[:UNUSUAL]
        self.unusual += [
            Unusual(
                batch.positions[k],
                batch.images[k],
                int(best[k]),
                float(probabilities[k, best[k]]),
                float(distance[k]),
            )
            for k in farthest
        ]
        self.unusual.sort(key=lambda image: (-image.distance, image.position))
        self.unusual[UNUSUAL:] = []

    @property
    def features(self) -> np.ndarray:
        """float32 (n, d) of the images drawn, n <= MOST."""
        return np.concatenate(self._features)


class Found(NamedTuple):
    """`auc` and `p` of the test; `shares` and `usual`, float (classes,), of the images taken for
    each class here and among the validation images; the number of `images`; the most `unusual`."""

    auc: float
    p: float
    shares: np.ndarray
    usual: np.ndarray
    images: int
    unusual: list[Unusual]

    @property
    def drifted(self) -> bool:
        return self.p < trust.ALARM

    @property
    def verdict(self) -> str:
        """Drift or not, in a line."""
        if self.drifted:
            return "these images do not come from where the training images came from"
        return "nothing tells these images from where the training images came from"

    @property
    def test(self) -> str:
        """The figures behind it."""
        return (
            f"a classifier between them and the validation images: ROC-AUC {self.auc:.3f} (0.5: "
            f"chance), p = {self.p:.3f} (alarm below {trust.ALARM:g})"
        )

    def changes(self) -> list[int]:
        """Numbers of the classes, those whose share differs most first."""
        return np.argsort(-np.abs(self.shares - self.usual), kind="stable").tolist()

    def describe(self, classes: list[str]) -> str:
        """For the terminal."""
        shown = self.changes()[:SHOWN]
        width = max(len("predicted"), *(len(classes[k]) for k in shown))
        lines = [
            f"{'drift' if self.drifted else 'no drift seen'}: {self.verdict}",
            f"  {self.test}",
            f"  {'predicted':{width}}  {'here':>7}  validation",
        ]
        lines += [
            f"  {classes[k]:{width}}  {self.shares[k]:7.1%}  {self.usual[k]:10.1%}" for k in shown
        ]
        if more := len(classes) - len(shown):
            lines.append(f"  ... and {more:,} classes whose shares differ less")
        return "\n".join(lines)


def compare(collected: Collected, held_out: np.ndarray, predicted: list[int]) -> Found:
    """Test the images `collected` against features (n, d) of images `held_out` from training, of
    which `predicted` (classes,) were taken for each class."""
    auc, p = trust.two_sample_test(held_out, collected.features)
    here, usual = collected.predicted, np.array(predicted)
    return Found(
        auc,
        p,
        here / max(here.sum(), 1),
        usual / max(usual.sum(), 1),
        int(here.sum()),
        collected.unusual,
    )


def render(found: Found, names: list[str], classes: list[str]) -> str:
    """HTML text of a self-contained page; `names` of all images by position."""
    from stages.report.page import data_uri, environment

    return (
        environment()
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            found=found,
            rows=[(classes[k], found.shares[k], found.usual[k]) for k in found.changes()],
            images=[
                image._asdict()
                | {
                    "src": data_uri(image.pixels),
                    "name": names[image.position],
                    "predicted": classes[image.predicted],
                }
                for image in found.unusual
            ],
        )
    )
