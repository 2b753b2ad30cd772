"""How long until the textbook script's final accuracy is reached? Goal: a twentieth of its time.

Test accuracy without test-time averaging, seconds of training with all it takes (tracing,
statistics for the first layer), of one run of recipes/cifar10-fast.yaml cut to one pass over all
images, the first of them at 24x24, which has to end at least as accurate.

    python -m bench.time_to_accuracy --data cifar10-jpeg.zip      (about 10 minutes on two cores)
"""

from bench.against_textbook import command_line, compare

GOAL = 0.05


def judge(ours, peer):
    ratio = round(ours["seconds"] / peer["seconds"], 3)
    met = ours["accuracy"] >= peer["accuracy"] and ratio <= GOAL
    return {"ratio": ratio, "goal": GOAL, "met": met}


if __name__ == "__main__":
    compare(
        "time_to_accuracy",
        command_line(__doc__, seeds=1).parse_args(),
        "cifar10-fast",
        judge,
        train__epochs=1,
        train__hardest=1.0,
        train__image_sizes=[{"until": 0.6, "size": 24}],
        evaluate__tta="none",
    )
