"""Single images worth a look: those that stand out of their set, and are odd by any measure.

The kinds are CleanVision's (cleanlab, 2023), but each limit has two parts, and an image is named
that is beyond both. One is fixed: what nobody would call an ordinary picture. The other adapts to
the set, so that one of digits on black, of X-rays or of drawings does not drown in its own nature:
further from the median than `FAR` times the spread, which is taken from the median distance, for
the odd ones themselves not to widen it (B. Iglewicz, D. Hoaglin, "How to detect and handle
outliers", 1993; there 3.5).
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.files import IMAGE_ISSUES

FAR = 4.0

COLUMNS = ("width", "height", "darkest", "brightest", "entropy", "sharpness")


class Rule(NamedTuple):
    """What makes an image odd: a `value` (n,) that people understand, and `oddness` (n,), larger
    for odder ones, beyond `limit` and far from the median; `spread` is the least that counts."""

    value: np.ndarray
    oddness: np.ndarray
    limit: float
    spread: float


def odd_images(images: pa.Table) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows of `images`, int64 (k,), the oddest first, and their values (k,), for each kind.

    `images` has `COLUMNS`: the size of the files, and what `stages.images.fingerprints.appearances`
    says of the pixels. An image is named once, under the first kind of `IMAGE_ISSUES` that it is
    of. Values are levels (of 255) for empty, dark, bright images and those of low contrast, bits of
    entropy for few colours, the strength of edges as a share of the contrast for blurred ones,
    megapixels, and the longer side over the shorter.
    """
    rules = _rules({name: images[name].to_numpy().astype(float) for name in COLUMNS})
    left = np.ones(len(images), bool)
    found = {}
    for kind in IMAGE_ISSUES:
        rule = rules[kind]
        rows = np.flatnonzero(left & _beyond(rule))
        left[rows] = False
        rows = rows[np.argsort(-rule.oddness[rows], kind="stable")]
        found[kind] = rows, rule.value[rows]
    return found


def _beyond(rule: Rule) -> np.ndarray:
    middle = np.median(rule.oddness)
    # 1.4826 times the median distance is the standard deviation where values are normal.
    spread = max(1.4826 * float(np.median(abs(rule.oddness - middle))), rule.spread)
    return (rule.oddness > rule.limit) & (rule.oddness > middle + FAR * spread)


def _rules(facts: dict[str, np.ndarray]) -> dict[str, Rule]:
    contrast = facts["brightest"] - facts["darkest"]
    bits = facts["entropy"] / 100
    # Blur halves the contrast of neighbours and hardly touches that of the whole picture.
    edges = np.sqrt(facts["sharpness"].clip(1)) / contrast.clip(12)
    area = facts["width"] * facts["height"]
    times = np.exp2(abs(np.log2(area) - np.median(np.log2(area))))
    aspect = np.maximum(facts["width"], facts["height"]) / np.minimum(
        facts["width"], facts["height"]
    )
    return {
        "nearly empty": Rule(contrast, -contrast, -12, 3),
        "dark": Rule(facts["brightest"], -facts["brightest"], -80, 10),
        "bright": Rule(facts["darkest"], facts["darkest"], 200, 10),
        "low contrast": Rule(contrast, -contrast, -48, 10),
        "few colours": Rule(bits, -bits, -1.75, 0.25),
        "blurred": Rule(edges, -np.log2(edges), 4.75, 0.2),
        "odd size": Rule(area / 1e6, np.log2(times), 3, 0.5),
        "odd aspect": Rule(aspect, np.log2(aspect), 1.5, 0.25),
    }
