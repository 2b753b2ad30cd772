"""Every path of the pipeline, and the columns of every table that one stage leaves to another."""

import os
from pathlib import Path

# download
RAW = Path("data/raw")  # a few archives, and MANIFEST
# What outlives every run and is safe to delete: files fetched, which several projects may share,
# and what is known of files that need not be read again.
DOWNLOADS = Path(os.environ.get("IMAGE_DOWNLOADS") or "data/downloads")
SEEN = Path("data/.seen")
PACKED_SO_FAR = SEEN / "packed"  # from a bucket, by a run that has not ended, or has failed
CLUSTER = Path("data/.cluster")  # by which the machines of a cluster know that they share the data

# preprocess
# download.corrections, unless it names another file: labels that people mended, kept in git.
CORRECTIONS = Path("data/corrections.csv")
PROCESSED = Path("data/processed")  # pixels in shards, DATASET, INDEX and REJECTS
DECODED_SO_FAR = Path("data/.processed")  # by a run that has not ended, or has failed

# split
SPLITS = Path("data/splits")  # a table for each of SIDES, and RELATIVES
DATA_SUMMARY = Path("reports/data.json")
DATA_ISSUES = Path("reports/data_issues.csv")

# features
FEATURES = Path("data/features")
EMBEDDED_SO_FAR = Path("data/.features")  # by a run that has not ended, or has failed

# train
PRETRAINED = Path("models/pretrained")
MODEL = Path("models/model.keras")
EPOCHS = Path("models/epochs")
SAVED_EPOCHS = "saved.csv"  # in EPOCHS: their files, so that the folder is never empty
AUGMENTED = Path("models/augmented.npy")
CHECKPOINTS = Path("models/checkpoints")  # while it trains; log/ is DVCLive's
LOG = Path("reports/train")
LEARNING_CURVE = Path("reports/train/learning_curve.csv")
LABEL_CONFIDENCE = Path("models/label_confidence.npy")
TENSORBOARD = Path("reports/tensorboard")

# evaluate
JUDGEMENT = Path("models/model.json")
CARD = Path("models/README.md")
METRICS = Path("reports/metrics.json")  # the headline of SCORES, which DVC compares
SUSPECTS = Path("reports/label_suspects.csv")
SCORES = Path("reports/scores.json")
PREDICTIONS = Path("reports/predictions.csv")
CLASSIFICATION_REPORT = Path("reports/classification_report.txt")
CURVES = Path("reports/curves")
EVALUATION = Path("reports/evaluation")

# export
EXPORT = Path("models/export")
PARITY = Path("reports/parity.json")  # how far each exported model is from the trained one

# plot
PLOTS = Path("reports/plots")
OVERVIEW = Path("reports/overview.png")
PAGE = Path("reports/report.html")

TIMES = Path("reports/timing.json")  # of whichever models were timed here
REVIEW = Path("reports/review")
DEMO = Path("reports/demo")
SEARCH = Path("reports/search.csv")
DVC_LOCK = Path("dvc.lock")

# Names of the sides of the split, in the order of their numbers (stages/splits).
SIDES = ("train", "val", "test", "extra")

# In RAW: one line an image, sorted by `path`. `split` is the declared side or empty, `group` ties
# related images together or is empty, `shard` is the archive that holds the file and `member` its
# name there.
MANIFEST = "manifest.csv"
MANIFEST_COLUMNS = ("id", "path", "label", "split", "group", "sha256", "shard", "member")

# In download.corrections: the right label of an image, or `-` to remove it. Only `id` and `label`
# are needed; `path` and `note` are for people.
CORRECTIONS_COLUMNS = ("id", "path", "label", "note")

# In PROCESSED: one line an image that could be read, and one for each that could not.
DATASET = "dataset.json"
INDEX = "index.csv"
INDEX_COLUMNS = (
    *("id", "path", "label", "split", "group", "sha256", "shard", "row"),
    *("pixels", "perceptual", "width", "height", "mode", "format", "levels", "bytes"),
    *("darkest", "brightest", "entropy", "sharpness"),
)
REJECTS = "rejects.csv"
REJECTS_COLUMNS = ("file", "reason", "sha256")

SPLIT_COLUMNS = ("id", "label")
# Training images that must not be learned from and judged at once, with the first of those that
# each is related to: copies, near-duplicates kept together, images of one group.
RELATIVES = "relatives.csv"
RELATIVES_COLUMNS = ("id", "first")
# A pair of images, 1 - correlation of whose pixels is the `distance` (empty where they are related
# in another way), or a single image that stands out by its `value`, with all `other_*` empty. Kinds
# of `issue` come in this order.
ISSUES_COLUMNS = (
    *("issue", "path", "label", "side", "other_path", "other_label", "other_side", "distance"),
    *("value", "id", "other_id"),
)
CONFLICT, LEFT_OUT, NEAR, IDENTICAL = (
    *("conflicting labels", "left out", "near-duplicate", "identical"),
)
PAIR_ISSUES = (CONFLICT, LEFT_OUT, NEAR, IDENTICAL)
IMAGE_ISSUES = (
    *("nearly empty", "dark", "bright", "low contrast", "few colours", "blurred"),
    *("odd size", "odd aspect"),
)
# Fitted to so many `photos` of a class, `images` in all, the last layer has `right` of `judged`
# images that it did not learn from.
LEARNING_CURVE_COLUMNS = ("photos", "images", "right", "judged", "accuracy")
# The class of an image, and the one that fits better; `score` is how sure the model is of the given
# class, as a share of what is usual for it; the most similar training images of both classes.
SUSPECTS_COLUMNS = (
    *("id", "path", "label", "suggested", "side", "score"),
    *("nearest_given", "nearest_suggested"),
)
PREDICTIONS_COLUMNS = ("id", "actual", "predicted", "confidence", "path")
# After these: the classes of the prediction set, and whether the image is unlike those trained on.
TRUST_COLUMNS = ("set", "unlike")
