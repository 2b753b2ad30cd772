"""The peer in PyTorch: the textbook's net, trained as fast as PyTorch knows to on a CPU.

Channels last, fused Adam, all images in memory, compiled or not and in bfloat16 or not, whichever
is fastest here. Runs in a Python that has PyTorch and needs nothing of this project. Prints how it
trains, then images/s of an epoch for each line that it is sent. By hand:

    yes | head -5 | python bench/torch_fit.py --images 3200
"""

import argparse
import sys
import time

BATCH_SIZE, CLASSES = 64, 10
TRIAL_STEPS = 20


def bfloat16_instructions():
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


class Trial:
    """The net and a step of its training, `compiled` or not, in `precision`."""

    def __init__(self, compiled, precision):
        import torch
        from torch import nn

        torch.manual_seed(0)
        layers, channels = [], 3
        for filters in (32, 64, 128):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = filters
        layers += [nn.Flatten(), nn.Linear(2048, 128), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(128, CLASSES))
        net = net.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(net.parameters(), fused=True)

        def loss_and_correct(images, labels):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = net(images.float() / 255)
            logits = logits.float()
            correct = (logits.argmax(1) == labels).sum()
            return nn.functional.cross_entropy(logits, labels), correct

        self.forward = torch.compile(loss_and_correct) if compiled else loss_and_correct
        self.name = f"{'compiled' if compiled else 'eager'}, {precision}"

    def epoch(self, images, labels, steps=None):
        """Images/s."""
        import torch

        start = time.perf_counter()
        order = torch.randperm(len(images))[: steps and steps * BATCH_SIZE]
        total, right = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for index in order.split(BATCH_SIZE):
            loss, correct = self.forward(images[index], labels[index])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(index)
            right += correct
        assert torch.isfinite(total)
        return len(order) / (time.perf_counter() - start)


def fastest(images, labels, precisions):
    """The trial with the best of three short epochs each, in turns."""
    trials = [Trial(compiled, each) for compiled in (False, True) for each in precisions]
    rates = {}
    for trial in trials:
        try:
            trial.epoch(images, labels, steps=2)
            rates[trial] = []
        except Exception as error:  # such as that torch.compile finds no compiler
            print(f"PyTorch {trial.name}: {error!r}"[:300], file=sys.stderr)
    for _ in range(3):
        for trial, found in rates.items():
            found.append(trial.epoch(images, labels, TRIAL_STEPS))
    return max(rates, key=lambda trial: max(rates[trial]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3200, help="images an epoch (3200)")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 (auto)")
    options = parser.parse_args()
    precisions = [options.precision]
    if options.precision == "auto":
        precisions = ["float32"] + ["bfloat16"] * bfloat16_instructions()

    import torch

    images = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(options.images) % CLASSES
    best = fastest(images, labels, precisions)
    print(f"PyTorch {torch.__version__}, {best.name}", flush=True)
    for _ in sys.stdin:
        print(best.epoch(images, labels), flush=True)


if __name__ == "__main__":
    main()
