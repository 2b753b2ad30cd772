"""Learning-rate schedules: the share of the peak learning rate at every point of the training."""

import math


def schedule_factor(schedule, position: float, epoch: float) -> float:
    """The factor on the learning rate, 0 to 1.

    Args:
        schedule: the settings `train.schedule`.
        position: share of the steps done, 0 for the first step, below 1.
        epoch: the same in epochs.

    warm-up     from `start` to 1 in a straight line over the share `warmup` of the steps
                (one_cycle: along a cosine; Smith and Topin 2018, arXiv:1708.07120)
    constant    1
    linear      to `end` in a straight line
    cosine      to `end` along a half cosine (Loshchilov and Hutter 2017, arXiv:1608.03983);
                one_cycle falls the same way
    step        times `step_factor` after every `step_epochs` epochs
    """
    if position < schedule.warmup:
        done = position / schedule.warmup
        rise = (1 - math.cos(math.pi * done)) / 2 if schedule.name == "one_cycle" else done
        return schedule.start + (1 - schedule.start) * rise
    if schedule.name == "step":
        return schedule.step_factor ** (epoch // schedule.step_epochs)
    left = 1 - (position - schedule.warmup) / (1 - schedule.warmup)
    if schedule.name == "linear":
        return schedule.end + (1 - schedule.end) * left
    if schedule.name in ("cosine", "one_cycle"):
        return schedule.end + (1 - schedule.end) * (1 - math.cos(math.pi * left)) / 2
    return 1.0
