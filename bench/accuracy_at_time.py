"""How accurate in the textbook script's training time? Goal: 90.0 % with test-time averaging.

recipes/cifar10.yaml with fewer epochs and longer at 24x24, so that it ends within the time of the
textbook script, and with the lighter augmentation that a short training wants.

    python -m bench.accuracy_at_time --data cifar10-jpeg.zip      (about 12 minutes on two cores)
"""

from bench.against_textbook import compare

GOAL = 0.9
SHORT = {
    "train__epochs": 6,
    "train__image_sizes": [{"until": 0.6, "size": 24}],
    "augment__cutout": 0,
    "augment__crop_padding": 2,
}


def judge(ours, peer):
    ratio = round(ours["seconds"] / peer["seconds"], 3)
    met = ours["accuracy"] >= GOAL and ratio <= 1
    return {"ratio": ratio, "goal": GOAL, "met": met}


if __name__ == "__main__":
    compare("accuracy_at_time", __doc__, "cifar10", judge, **SHORT)
