"""How accurate is recipes/cifar10.yaml? Goal: 92.0 % in 3.5 times the textbook's time and 3 GiB.

The mean of five seeds, the recipe's own and the next ones, each judged once.

Also prints the share of the machine's peak FLOP/s that its training reaches: operations counted
from the net's convolutions and dense layers times images/s of the last epoch (full resolution),
over the fastest product measured on the machine right after, in the same number format.

python -m bench.flagship --data cifar10-jpeg.zip      (two hours; --seeds 1: half an hour)
"""

from bench.against_textbook import command_line, compare
from bench.flops import peak_flops, training_flops
from bench.project import recipe_settings

GOAL = 0.92
TIMES = 3.5
PEAK_MIB = 3 * 1024


def judge(ours, peer):
    ratio = round(ours["seconds"] / peer["seconds"], 3)
    met = ours["accuracy"] >= GOAL and ratio <= TIMES and ours["peak_mib"] < PEAK_MIB
    share = share_of_peak(ours["images_per_second"])
    return {"ratio": ratio, "ratio_goal": TIMES, "goal": GOAL, "met": met, **share}


def share_of_peak(images_per_second: float) -> dict:
    import stages.quiet  # noqa: F401
    from stages.architectures import build_model
    from stages.training.environment import choose_precision

    recipe = recipe_settings("cifar10")
    model = build_model(recipe["model"]["name"], (32, 32, 3), 10, recipe["model"]["settings"])
    reached = training_flops(model) * images_per_second
    precision = choose_precision(recipe["train"]["precision"])
    peak = peak_flops(precision)
    share = reached / peak
    print(
        f"  {reached / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s ({precision}): {share:.0%}", flush=True
    )
    return {
        "gflops": round(reached / 1e9),
        "peak_gflops": round(peak / 1e9),
        "share": round(share, 2),
    }


if __name__ == "__main__":
    compare("flagship", command_line(__doc__, seeds=5).parse_args(), "cifar10", judge)
