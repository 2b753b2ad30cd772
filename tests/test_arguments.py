"""The command lines of programs that are no stages."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("program", "arguments", "expected"),
    [
        ("predict", ["--top-k", "0", "x.jpg"], "0 is not a whole number of at least 1"),
        ("serve", ["--port", "http"], "http is no port, 0 to 65535"),
        ("search", ["--trials", "many"], "many is not a whole number of at least 1"),
        ("recipe", ["mnist", "cifar10"], "unrecognized arguments: cifar10"),
        ("review", ["--base"], "expected one argument"),
        ("demo", ["--into", "x"], "unrecognized arguments: --into x"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(program, arguments, expected):
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{program}", *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert f"{expected}; see python -m stages.{program} --help" in done.stderr
