"""The benchmarks' count of operations."""

from bench.flops import training_flops
from stages.architectures import build_model


def test_operations_are_counted_by_hand():
    model = build_model("convnet", (28, 28, 1), 10)
    convolutions = 9 * (26 * 26 * 1 * 32 + 11 * 11 * 32 * 64 + 3 * 3 * 64 * 64)
    dense = 576 * 64 + 64 * 10
    assert training_flops(model) == 3 * 2 * (convolutions + dense)
