"""The training of one model, epoch by epoch, from its last checkpoint to its best weights."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from stages.errors import UserError
from stages.parameters.train import EarlyStopping, Train
from stages.progress import progress
from stages.store.image_set import ImageSet
from stages.training.batches import Prefetcher, TrainingImages, epoch_order, hardest, turns
from stages.training.checkpoint import Checkpoint
from stages.training.learner import Learner
from stages.training.log import Profile, Row, Timing, epoch_line, loss_and_accuracy, times
from stages.training.self_confidence import SelfConfidence

# Images to judge at a time: at most so many, and at most so many pixels, 41 images of 224x224.
LARGEST_BATCH_SIZE, LARGEST_BATCH_PIXELS = 512, 2**21


@dataclass
class Result:
    """The best epoch: its number `best`, its `weights` as `model.get_weights()` orders them.

    `rows` and `timings` are those of all epochs; `confidence` float32 (n,), how sure the net
    was of the class of each training image (`stages.training.self_confidence`).
    """

    weights: list[np.ndarray]
    best: int
    rows: list[Row]
    timings: list[Timing]
    confidence: np.ndarray

    @property
    def times(self) -> dict[str, Any]:
        """Figures for reports/timing.json."""
        return times(self.timings)


class Phase(NamedTuple):
    """Epochs with the same trainable weights and the same schedule; `factor` on the rate."""

    first_epoch: int
    end_epoch: int
    factor: float


def fit(
    learner: Learner,
    images: TrainingImages,
    validation: ImageSet | None,
    checkpoint: Checkpoint,
    logs: Sequence[Callable[[list[Row]], None]],
    start: Row | None = None,
    save_epochs: bool = False,
    profile: Path | None = None,
) -> Result:
    """Train `learner` on `images` as its settings say and return the best weights.

    Args:
        validation: images to choose the best epoch by, or None: the last is kept.
        checkpoint: where the state is kept, and from where an interrupted training goes on.
        logs: called with the rows so far, before the first epoch and after each.
        start: epoch 0: how good the weights are that training starts from. They are kept unless an
            epoch is better.
        save_epochs: keep the weights of every epoch in `checkpoint`, not of the best alone.
        profile: a folder for TensorFlow's profile of some of the first steps.

    Raises `UserError` for a training that diverges: loss, weights or the optimiser's state are
    no longer finite. Nothing of that is saved, and the same job run again fails at once.
    """
    return _Training(
        learner, images, validation, checkpoint, logs, start, save_epochs, profile
    ).run()


class _Training:
    def __init__(
        self,
        learner: Learner,
        images: TrainingImages,
        validation: ImageSet | None,
        checkpoint: Checkpoint,
        logs: Sequence[Callable[[list[Row]], None]],
        start: Row | None,
        save_epochs: bool,
        profile: Path | None,
    ):
        self.learner, self.images, self.validation = learner, images, validation
        self.checkpoint, self.logs, self.start = checkpoint, logs, start
        self.save_epochs, self.profile = save_epochs, profile
        self.settings = learner.settings
        self.steps_per_epoch = steps_per_epoch(len(images), self.settings, learner.parts)
        if not self.steps_per_epoch:
            raise UserError(
                f"train.devices = {self.settings.devices}: an epoch has only "
                f"{images_per_epoch(len(images), self.settings)} training images to share among "
                f"{learner.parts} devices; lower it"
            )
        if self.settings.batch_size < learner.parts:
            raise UserError(
                f"train.batch_size = {self.settings.batch_size}: {learner.parts} devices share a "
                "batch, and each needs an image; raise it"
            )
        self.epoch, self.step, self.sums = 0, 0, np.zeros(3)
        self.rows: list[Row] = []
        self.timings: list[Timing] = []
        self.best: int | None = None
        self.confidence = SelfConfidence(len(images))
        self.order = np.empty(0, np.int64)  # of the images of this epoch
        self.seen = np.zeros(len(images), np.int64)  # how often, in the epochs before it

    def run(self) -> Result:
        self._resume()
        self._log()
        left = self.settings.epochs * self.steps_per_epoch
        left -= self.epoch * self.steps_per_epoch + self.step
        with Profile(self.profile, left) as self.profiler:
            while self.epoch < self.settings.epochs and not self._should_stop():
                try:
                    self._one_epoch()
                except (tf.errors.ResourceExhaustedError, MemoryError):
                    raise UserError(
                        f"memory ran out in epoch {self.epoch + 1}; lower train.batch_size (now "
                        f"{self.settings.batch_size}), preprocess.size or the net's own settings"
                    ) from None
        best = self.rows[-1].epoch if self.best is None else self.best
        kept = self.best is not None
        weights = self.checkpoint.weights(best) if kept else self.learner.final_weights()
        if weights is None:
            raise UserError(
                f"{self.checkpoint.folder} has lost the weights of epoch {best}; run the same "
                "command again to train afresh"
            )
        return Result(weights, best, self.rows, self.timings, self.confidence.mean)

    def _one_epoch(self) -> None:
        if self.step == 0 and self.epoch in (0, self.settings.fine_tune.frozen_epochs):
            self._start_phase()
        start = time.perf_counter()
        images_per_second, waiting = self._train_epoch()
        state = self.learner.state()
        self._stop_if_diverged(self.sums, state)
        row = self._judge()
        improved = self._improves(row)
        self.rows.append(row)
        if improved:
            self.best = row.epoch
        if improved or self.save_epochs:
            self.checkpoint.save_weights(self.learner.final_weights(), row.epoch)
        seconds = round(time.perf_counter() - start, 3)
        self.timings.append(Timing(row.epoch, images_per_second, waiting, seconds))
        self.epoch, self.step, self.sums = self.epoch + 1, 0, np.zeros(3)
        np.add.at(self.seen, self.order, 1)
        self._save(state)
        self._log()
        print(epoch_line(row, self.timings, self.settings.epochs, improved), flush=True)

    def _stop_if_diverged(
        self,
        sums: Sequence[float] | np.ndarray,
        state: Sequence[np.ndarray] = (),
        what: str = "loss",
        untrained: bool = False,
    ) -> None:
        """Raise unless the `sums` (loss, correct, images) and the arrays of `state` are finite.

        `what` the loss is of, and whether it is that of weights which are still `untrained`.

        The same training would diverge again at the same step: where every run gives the same
        bytes, the next one is told so at once.
        """
        if self.learner.cluster and not self.learner.cluster.chief:
            return  # it has the same numbers, and when it ends, all end
        loss = float(sums[0]) / max(float(sums[2]), 1.0)
        sound = all(np.isfinite(array).all() for array in state if array.dtype.kind == "f")
        if np.isfinite(loss) and sound:
            return
        problem = f"{what} {loss:.4g}"
        if np.isfinite(loss):
            problem += ", but weights or the sums of their gradients overflow"
        rate = f"at a learning rate of {self.learner.learning_rate:.4g}"
        if untrained:
            advice = "the weights it starts from are not sound; see model.weights, model.settings"
        else:
            advice = (
                "lower train.optimizer.learning_rate (now "
                f"{self.settings.optimizer.learning_rate:g}), lengthen train.schedule.warmup or "
                "set train.clip_norm"
            )
        message = (
            f"training diverged in epoch {self.epoch + 1}: {problem}, {rate}; {advice}; the model "
            "of an earlier run is unchanged"
        )
        if self.settings.deterministic:
            self.checkpoint.save([], {"failure": message, "rows": self.rows})
        raise UserError(message)

    def _begin_with(self, row: Row) -> None:
        """Count the weights as they are as epoch 0."""
        if self._improves(row):
            self.best = row.epoch
            self.checkpoint.save_weights(self.learner.final_weights(), row.epoch)
        self.rows.append(row)

    # Phases: all weights at once, or first all but the backbone and then all

    def _phase(self) -> Phase:
        """That of this epoch."""
        frozen = self.settings.fine_tune.frozen_epochs
        if self.epoch < frozen:
            return Phase(0, frozen, 1.0)
        factor = self.settings.fine_tune.learning_rate_factor if frozen or self.start else 1.0
        return Phase(frozen, self.settings.epochs, factor)

    def _start_phase(self) -> None:
        frozen = self.settings.fine_tune.frozen_epochs
        if frozen:
            self.learner.model.get_layer("backbone").trainable = self.epoch >= frozen
        self.learner.start_phase()

    # One epoch

    def _train_epoch(self) -> tuple[float | None, float | None]:
        """Images per second, and the share of the time spent waiting for data."""
        settings, learner = self.settings, self.learner
        phase = self._phase()
        if self.step == 0:
            self.order = self._order()
        before = (self.epoch - phase.first_epoch) * self.steps_per_epoch
        phase_steps = (phase.end_epoch - phase.first_epoch) * self.steps_per_epoch
        all_steps = settings.epochs * self.steps_per_epoch
        places = learner.places if learner.cluster else None
        batches = Prefetcher(
            self.images,
            self.order,
            turns(self.order, self.seen),
            settings.batch_size,
            self.step,
            places,
        )
        saved = time.monotonic()
        sums, pending = self.sums, None
        clock, seen = None, 0
        what = f"epoch {self.epoch + 1}/{settings.epochs}"
        with progress(len(self.order), "images", what, self.step * settings.batch_size) as bar:
            for batch in batches:
                learner.set_learning_rates(
                    before + self.step, phase_steps, self.steps_per_epoch, phase.factor
                )
                done = self.epoch * self.steps_per_epoch + self.step
                with self.profiler.step():
                    out = learner.train(batch, self.epoch, done, self._size(done / all_steps))
                    learner.update_average(done, all_steps)
                self.confidence.add(batch.index, out.label_losses)
                pending = out.sums if pending is None else pending + out.sums
                self.step += 1
                if clock is None:  # the first step also compiles
                    self._stop_if_diverged(out.sums.numpy(), untrained=done == 0)
                    clock, batches.waited = time.perf_counter(), 0.0
                else:
                    seen += len(batch.index)
                if bar.update(len(batch.index)):
                    now = sums + pending.numpy()
                    self._stop_if_diverged(now)
                    bar.set_postfix_str(loss_and_accuracy(now), refresh=False)
                if time.monotonic() - saved > settings.checkpoint_minutes * 60:
                    self.sums, pending = sums + pending.numpy(), None
                    sums = self.sums
                    state = learner.state()
                    self._stop_if_diverged(sums, state)
                    self._save(state)
                    saved = time.monotonic()
        self.sums = sums + (0 if pending is None else pending.numpy())
        if clock is None or not seen:
            return None, None
        elapsed = time.perf_counter() - clock
        return round(seen / elapsed, 1), round(batches.waited / elapsed, 4)

    def _order(self) -> np.ndarray:
        """That of an epoch that begins: its own steps change the losses that it is chosen by."""
        settings = self.settings
        limit = self.steps_per_epoch * settings.batch_size
        if settings.debug.overfit_batch:
            return np.resize(np.arange(min(len(self.images), settings.batch_size)), limit)
        order = epoch_order(self.images.labels, settings.seed, self.epoch, settings.sampling)
        count = images_per_epoch(len(order), settings)
        if count < len(order):
            order = hardest(order, self.confidence.last_losses, count)
        return order[:limit]

    def _size(self, position: float) -> int | None:
        for stage in self.settings.image_sizes:
            if position < stage.until:
                return stage.size
        return None

    # Judging

    def _judge(self) -> Row:
        loss, correct, count = (float(value) for value in self.sums)
        figures = {
            "train/loss": loss / count,
            "train/accuracy": correct / count,
            "learning_rate": self.learner.learning_rate,
        }
        last = self.epoch + 1 == self.settings.epochs
        if self.validation and (last or (self.epoch + 1) % self.settings.validate_every == 0):
            batch_size = evaluation_batch_size(self.validation.dataset.shape)
            own = self.learner.share(len(self.validation))
            batches = self.validation.batches(batch_size, *own)
            scores = self.learner.evaluate(batches, self.validation.labels[slice(*own)])
            self._stop_if_diverged((scores.loss, 0, 1), what="validation loss")
            figures |= {f"val/{name}": value for name, value in scores._asdict().items()}
        elif last:  # weights may be finite and too large to compute with: nobody else would notice
            count = min(len(self.images), evaluation_batch_size(self.images.shape))
            some = np.arange(*self.learner.share(count))
            scores = self.learner.evaluate([self.images.take(some)], self.images.labels[some])
            self._stop_if_diverged((scores.loss, 0, 1))
        return Row(self.epoch + 1, figures)

    def _improves(self, row: Row) -> bool:
        """Better than the best row before, by the monitored score; if equal, by the loss."""
        if self.settings.monitor not in row.figures:
            return False
        if self.best is None:
            return True
        best = next(row for row in self.rows if row.epoch == self.best)
        gain = _gain(row, best, self.settings.monitor)
        return gain > 0 or (gain == 0 and _gain(row, best, "val/loss") > 0)

    def _should_stop(self) -> bool:
        frozen = self.settings.fine_tune.frozen_epochs
        return should_stop(self.rows, self.settings.monitor, self.settings.early_stopping, frozen)

    def _log(self) -> None:
        for log in self.logs:
            log(self.rows)

    # The state on disk

    def _save(self, arrays: list[np.ndarray]) -> None:
        self.checkpoint.save(
            [*arrays, self.confidence.array, self.order, self.seen],
            {
                "epoch": self.epoch,
                "step": self.step,
                "sums": self.sums.tolist(),
                "rows": self.rows,
                "timings": self.timings,
                "best": self.best,
                "kept": self._kept(),
            },
        )

    def _kept(self) -> list[int]:
        """Epochs whose weights are kept in files of their own."""
        if self.save_epochs:
            return [row.epoch for row in self.rows]
        return [] if self.best is None else [self.best]

    def _resume(self) -> None:
        saved = self.checkpoint.load()
        if saved is None:
            if self.start:
                self._begin_with(self.start)
            return
        state = saved.document
        self.rows = [Row(*row) for row in state["rows"]]
        if "failure" in state:
            self._log()
            raise UserError(state["failure"])
        # The optimisers are those of the last epoch that was begun.
        self.epoch = state["epoch"] if state["step"] else state["epoch"] - 1
        self._start_phase()
        *arrays, confidence, self.order, self.seen = saved.arrays
        self.learner.restore(arrays)
        self.confidence.restore(confidence)
        self.epoch, self.step, self.sums = state["epoch"], state["step"], np.array(state["sums"])
        self.timings, self.best = [Timing(*each) for each in state["timings"]], state["best"]
        at = f" and {self.step} steps" if self.step else ""
        print(f"continuing after {self.epoch} epochs{at}", flush=True)


def steps_per_epoch(images: int, settings: Train, parts: int = 1) -> int:
    """The last batch may be smaller than the others, down to one image for each of the `parts`."""
    whole, rest = divmod(images_per_epoch(images, settings), settings.batch_size)
    count = whole + (rest >= parts)
    return min(count, settings.debug.max_steps or count)


def images_per_epoch(images: int, settings: Train) -> int:
    """How many of so many `images` an epoch has."""
    return max(1, round(images * settings.hardest))


def should_stop(
    rows: list[Row], monitor: str, settings: EarlyStopping, frozen_epochs: int = 0
) -> bool:
    """As `keras.callbacks.EarlyStopping`: no gain above `min_delta` in `patience` epochs.

    Counted are the epochs that were validated, after the first `start_from_epoch` and once all
    weights are trained: a backbone that is still frozen says nothing of what comes.
    """
    if not settings.patience:
        return False
    reference, waited = None, 0
    for row in rows:
        if row.epoch <= max(settings.start_from_epoch, frozen_epochs) or monitor not in row.figures:
            continue
        if reference is None or _gain(row, reference, monitor) > settings.min_delta:
            reference, waited = row, 0
        else:
            waited += 1
    return waited >= settings.patience


def _gain(row: Row, than: Row, monitor: str) -> float:
    """How much better `row` is `than` another, by the score `monitor`."""
    return (row.figures[monitor] - than.figures[monitor]) * (-1 if monitor == "val/loss" else 1)


def evaluation_batch_size(shape: tuple[int, int, int]) -> int:
    """How many images of `shape` (h, w, c) to judge at a time; more would not be faster."""
    return max(1, min(LARGEST_BATCH_SIZE, LARGEST_BATCH_PIXELS // (shape[0] * shape[1])))
