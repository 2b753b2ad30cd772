"""The programs of bench/: what holds for all of them."""

import os
import pkgutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bench

ROOT = Path(__file__).parent.parent


def programs() -> list[str]:
    """The modules of bench/ that do something when they are run."""
    names = []
    for module in pkgutil.iter_modules(bench.__path__):
        path = ROOT / "bench" / module.name
        path = path / "__main__.py" if module.ispkg else path.with_suffix(".py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
            names.append(module.name)
    return names


def test_help_helps_and_starts_nothing(tmp_path):
    def ask(name: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", f"bench.{name}", "--help"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    names = programs()
    assert {"decode", "faults", "predict", "textbook"} <= set(names)
    with ThreadPoolExecutor(2) as pool:
        for name, done in zip(names, pool.map(ask, names), strict=True):
            assert (done.returncode, done.stderr) == (0, ""), f"bench.{name}: {done.stderr}"
            lines = done.stdout.splitlines()
            assert lines[0].startswith("usage: "), f"bench.{name} does not help"
            assert not lines[-1].startswith("{"), f"bench.{name} ran"
    assert not list(tmp_path.iterdir())
