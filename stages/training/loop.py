"""The training of one model, epoch by epoch, from its last checkpoint to its best weights."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from stages.progress import progress
from stages.training.batches import Prefetcher, TrainingImages, epoch_order
from stages.training.checkpoint import Checkpoint

EVALUATION_BATCH = 512  # images at a time
PROFILED = range(5, 15)  # steps, when a profile is asked for


@dataclass
class Result:
    """`weights` as `model.get_weights()` orders them; `rows` one dict an epoch, `best` its number.

    `timing` holds seconds, images/s and the share of time spent waiting for data of each epoch.
    """

    weights: list[np.ndarray]
    rows: list[dict]
    best: int
    timing: list[dict]

    @property
    def times(self) -> dict:
        """Figures for reports/timing.json."""
        rates = [entry["images_per_second"] for entry in self.timing if entry["images_per_second"]]
        waits = [entry["waiting_for_data"] for entry in self.timing if entry["images_per_second"]]
        return {
            "seconds": round(sum(entry["seconds"] for entry in self.timing), 1),
            "images_per_second": float(np.median(rates)) if rates else None,
            "waiting_for_data": float(np.median(waits)) if waits else None,
            "epochs": self.timing,
        }


def fit(
    learner,
    images: TrainingImages,
    validation,
    checkpoint: Checkpoint,
    logs: list[Callable[[list[dict]], None]],
    save_epoch: Callable[[list[np.ndarray], int], None] | None = None,
    profile: Path | None = None,
) -> Result:
    """Train `learner` on `images` as its settings say and return the best weights.

    Args:
        validation: an `ImageSet` to choose the best epoch by, or None: the last is kept.
        checkpoint: where the state is kept, and from where an interrupted training goes on.
        logs: called with the rows so far, before the first epoch and after each.
        save_epoch: called with the weights after each epoch, and its number from 1.
        profile: a folder for TensorFlow's profile of some of the first steps.
    """
    return _Training(learner, images, validation, checkpoint, logs, save_epoch, profile).run()


class _Training:
    def __init__(self, learner, images, validation, checkpoint, logs, save_epoch, profile):
        self.learner, self.images, self.validation = learner, images, validation
        self.checkpoint, self.logs = checkpoint, logs
        self.save_epoch, self.profile = save_epoch, profile
        self.settings = learner.settings
        self.steps_per_epoch = steps(len(images), self.settings)
        self.epoch, self.step, self.sums = 0, 0, np.zeros(3)
        self.rows: list[dict] = []
        self.timing: list[dict] = []
        self.best: int | None = None

    def run(self) -> Result:
        settings = self.settings
        self._resume()
        self._log()
        while self.epoch < settings.epochs and not self._should_stop():
            if self.step == 0 and self.epoch in (0, settings.fine_tune.frozen_epochs):
                self._start_phase()
            begun = time.perf_counter()
            rate = self._train_epoch()
            row = self._judge()
            improved = self._improves(row)
            self.rows.append(row)
            if improved:
                self.best = row["epoch"]
                self.checkpoint.save_best(self.learner.final_weights(), self.best)
            if self.save_epoch:
                self.save_epoch(self.learner.final_weights(), row["epoch"])
            self.timing.append({"epoch": row["epoch"], **rate, "seconds": _since(begun)})
            self.epoch, self.step, self.sums = self.epoch + 1, 0, np.zeros(3)
            self._save()
            self.checkpoint.forget_other_bests(self.best)
            self._log()
            print(self._line(row), flush=True)
        best = self.best or self.rows[-1]["epoch"]
        weights = self.checkpoint.load_best(best) if self.best else self.learner.final_weights()
        return Result(weights, self.rows, best, self.timing)

    # Phases: all weights at once, or first all but the backbone and then all

    def _phase(self) -> tuple[int, int, float]:
        """First epoch, end epoch and learning-rate factor of the phase of this epoch."""
        frozen = self.settings.fine_tune.frozen_epochs
        if self.epoch < frozen:
            return 0, frozen, 1.0
        factor = self.settings.fine_tune.learning_rate_factor if frozen else 1.0
        return frozen, self.settings.epochs, factor

    def _start_phase(self) -> None:
        frozen = self.settings.fine_tune.frozen_epochs
        if frozen:
            self.learner.model.get_layer("backbone").trainable = self.epoch >= frozen
        self.learner.start_phase()

    # One epoch

    def _train_epoch(self) -> dict:
        settings, learner = self.settings, self.learner
        order = self._order()
        first_epoch, end_epoch, factor = self._phase()
        before = (self.epoch - first_epoch) * self.steps_per_epoch
        phase_steps = (end_epoch - first_epoch) * self.steps_per_epoch
        all_steps = settings.epochs * self.steps_per_epoch
        batches = Prefetcher(self.images, order, settings.batch_size, self.step)
        saved = time.monotonic()
        sums, pending = self.sums, None
        clock, seen = None, 0
        what = f"epoch {self.epoch + 1}/{settings.epochs}"
        with progress(len(order), "images", what, self.step * settings.batch_size) as bar:
            for batch in batches:
                learner.set_learning_rates(
                    before + self.step, phase_steps, self.steps_per_epoch, factor
                )
                done = self.epoch * self.steps_per_epoch + self.step
                if self.profile and done == PROFILED.start:
                    tf.profiler.experimental.start(str(self.profile))
                out = learner.train(batch, self.epoch, done, self._size(done / all_steps))
                learner.update_average(done, all_steps)
                pending = out if pending is None else pending + out
                self.step += 1
                if self.profile and done == min(PROFILED.stop, self.steps_per_epoch) - 1:
                    tf.profiler.experimental.stop()
                if clock is None:  # the first step also compiles
                    float(out[0])
                    clock, batches.waited = time.perf_counter(), 0.0
                else:
                    seen += len(batch.index)
                if bar.update(len(batch.index)):
                    now = sums + pending.numpy()
                    bar.set_postfix_str(_loss_and_accuracy(now), refresh=False)
                if time.monotonic() - saved > settings.checkpoint_minutes * 60:
                    self.sums, pending = sums + pending.numpy(), None
                    sums = self.sums
                    self._save()
                    saved = time.monotonic()
        self.sums = sums + (0 if pending is None else pending.numpy())
        elapsed = time.perf_counter() - clock if clock else 0.0
        return {
            "images_per_second": round(seen / elapsed, 1) if seen else None,
            "waiting_for_data": round(batches.waited / elapsed, 4) if seen else None,
        }

    def _order(self) -> np.ndarray:
        settings = self.settings
        limit = self.steps_per_epoch * settings.batch_size
        if settings.debug.overfit_batch:
            return np.resize(np.arange(min(len(self.images), settings.batch_size)), limit)
        return epoch_order(self.images.labels, settings.seed, self.epoch, settings.sampling)[:limit]

    def _size(self, position: float) -> int | None:
        for stage in self.settings.image_sizes:
            if position < stage.until:
                return stage.size
        return None

    # Judging

    def _judge(self) -> dict:
        loss, correct, count = (float(value) for value in self.sums)
        row = {
            "epoch": self.epoch + 1,
            "train/loss": loss / count,
            "train/accuracy": correct / count,
            "learning_rate": self.learner.learning_rate,
        }
        last = self.epoch + 1 == self.settings.epochs
        if self.validation and (last or (self.epoch + 1) % self.settings.validate_every == 0):
            batches = self.validation.batches(EVALUATION_BATCH)
            scores = self.learner.evaluate(batches, self.validation.labels)
            row |= {f"val/{name}": value for name, value in scores.items()}
        return row

    def _improves(self, row: dict) -> bool:
        """Better than the best row before, by the monitored score; if equal, by the loss."""
        if self.settings.monitor not in row:
            return False
        if self.best is None:
            return True
        best = self.rows[self.best - 1]
        gain = self._gain(row, best)
        return gain > 0 or (gain == 0 and row["val/loss"] < best["val/loss"])

    def _gain(self, row: dict, than: dict) -> float:
        monitor = self.settings.monitor
        return (row[monitor] - than[monitor]) * (-1 if monitor == "val/loss" else 1)

    def _should_stop(self) -> bool:
        """No gain of `min_delta` for `patience` epochs (counted over the epochs validated)."""
        patience = self.settings.early_stopping.patience
        scored = [row for row in self.rows if self.settings.monitor in row]
        if not patience or not scored:
            return False
        reference = scored[0]
        for row in scored:
            if self._gain(row, reference) > self.settings.early_stopping.min_delta:
                reference = row
        return self.rows[-1]["epoch"] - reference["epoch"] >= patience

    def _log(self) -> None:
        for log in self.logs:
            log(self.rows)

    # The state on disk

    def _save(self) -> None:
        self.checkpoint.save(
            self.learner.state(),
            {
                "epoch": self.epoch,
                "step": self.step,
                "sums": self.sums.tolist(),
                "rows": self.rows,
                "timing": self.timing,
                "best": self.best,
            },
        )

    def _resume(self) -> None:
        found = self.checkpoint.load()
        if found is None:
            return
        arrays, state = found
        # The optimisers are those of the last epoch that was begun.
        self.epoch = state["epoch"] if state["step"] else state["epoch"] - 1
        self._start_phase()
        self.learner.restore(arrays)
        self.epoch, self.step, self.sums = state["epoch"], state["step"], np.array(state["sums"])
        self.rows, self.timing, self.best = state["rows"], state["timing"], state["best"]
        at = f" and {self.step} steps" if self.step else ""
        print(f"continuing after {self.epoch} epochs{at}", flush=True)

    # What the console shows

    def _line(self, row: dict) -> str:
        epochs, timing = self.settings.epochs, self.timing[-1]
        parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
        for side in ("train", "val"):
            if f"{side}/loss" in row:
                accuracy = row[f"{side}/accuracy"]
                parts.append(f"{side} loss {row[f'{side}/loss']:.4f} accuracy {accuracy:.2%}")
        if timing["images_per_second"]:
            parts.append(f"{timing['images_per_second']:,.0f} images/s")
            parts.append(f"{timing['waiting_for_data']:.1%} waiting for data")
        mean = np.mean([entry["seconds"] for entry in self.timing[-3:]])
        left = (epochs - row["epoch"]) * mean
        if left:
            parts.append(f"{_clock(left)} left")
        if row["epoch"] == self.best:
            parts.append("best so far")
        return "  ".join(parts)


def steps(images: int, settings) -> int:
    """Steps an epoch. The last batch may be smaller, down to one image for each device."""
    whole, rest = divmod(images, settings.batch_size)
    count = whole + (rest >= settings.devices)
    return min(count, settings.debug.max_steps or count)


def _loss_and_accuracy(sums) -> str:
    loss, correct, count = sums
    return f"loss {loss / count:.4f}, accuracy {correct / count:.2%}"


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
