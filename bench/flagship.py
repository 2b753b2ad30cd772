"""How accurate is recipes/cifar10.yaml? Goal: 91.5 % in four times the textbook's training time.

python -m bench.flagship --data cifar10-jpeg.zip      (about 45 minutes on two cores)
"""

from bench.against_textbook import compare

GOAL = 0.915
TIMES = 4


def judge(ours, peer):
    ratio = round(ours["seconds"] / peer["seconds"], 3)
    met = ours["accuracy"] >= GOAL and ratio <= TIMES
    return {"ratio": ratio, "ratio_goal": TIMES, "goal": GOAL, "met": met}


if __name__ == "__main__":
    compare("flagship", __doc__, "cifar10", judge)
