"""Run the frozen backbone over every image and its mirror image, once: features for the last layer.

Reads data/processed; writes data/features, of which it reuses what has not changed. A stage of its
own, because nothing that train tries changes what a frozen network makes of an image: DVC keeps the
result, shares it through a remote, and every experiment on the last layer starts from it. With the
features lies the whole net but for its last layer, which train adds without TensorFlow.
"""

import shutil
from pathlib import Path

from stages.errors import run
from stages.files import EMBEDDED_SO_FAR, FEATURES, PRETRAINED, PROCESSED
from stages.parameters.augment import Augment
from stages.parameters.model import Model
from stages.parameters.section import read_settings
from stages.progress import progress
from stages.store.blobs import link_or_copy
from stages.store.features import (
    CLASSIFIER,
    MIRRORED,
    PLAIN,
    Embedding,
    Known,
    network_of,
    read_embedding,
    write_embedding,
)
from stages.store.image_set import pixel_digests
from stages.store.outputs import Outputs, made_by, outputs_of
from stages.store.processed import Dataset, Pixels


def main() -> None:
    with outputs_of("features") as outputs:
        summary = embed_all(outputs)
    shutil.rmtree(EMBEDDED_SO_FAR, ignore_errors=True)
    print(summary)


def embed_all(outputs: Outputs) -> str:
    """Compute what is not known yet; what was done, in a line."""
    model, augment = read_settings(Model), read_settings(Augment)
    folder = outputs.directory(FEATURES)
    if model.backbone == "trained":
        write_embedding(folder, None)
        return "model.backbone: trained, so there are no features to compute"
    model.check_weights(PRETRAINED)
    views = [PLAIN] if augment.horizontal_flip == "none" else [PLAIN, MIRRORED]
    with made_by("preprocess", PROCESSED):
        dataset, pixels = Dataset.load(PROCESSED), Pixels(PROCESSED)
        digests = pixel_digests(PROCESSED, pixels)

    # TensorFlow takes seconds, so after the quick checks.
    from stages.inference.embed import Backbone, embed

    backbone = Backbone(model, dataset.shape, len(dataset.classes))
    embedding = Embedding(
        key=backbone.key,
        views=views,
        width=backbone.width,
        network=network_of(model),
        parameters=backbone.classifier.parameters,
    )
    work = EMBEDDED_SO_FAR / embedding.key
    known = Known([*_finished(embedding.key), work], views)
    work.mkdir(parents=True, exist_ok=True)
    computed, damaged = 0, set(known.damaged)
    with progress(int((~known.has(digests)).sum()), "images", "features") as bar:
        for part in embed(model, backbone, pixels, digests, known, views, work, bar.update):
            link_or_copy(part.path, folder / part.path.name)
            computed += part.computed
            damaged |= set(part.damaged)
    write_embedding(folder, embedding)
    if model.backbone == "frozen":
        backbone.classifier.save_unfitted(folder / CLASSIFIER)
    damage = f"; {len(damaged)} damaged files made anew" if damaged else ""
    return (
        f"features of {len(pixels):,} images: {computed:,} computed, "
        f"{len(pixels) - computed:,} reused{damage}"
    )


def _finished(key: str) -> list[Path]:
    """The folder of an earlier run, if the network was the same."""
    try:
        before = read_embedding(FEATURES)
    except (OSError, ValueError):
        return []
    return [FEATURES] if before and before.key == key else []


if __name__ == "__main__":
    run(main, at_once=True)
