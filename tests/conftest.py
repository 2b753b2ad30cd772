"""What tests share."""

import io
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import redirect_stdout

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Work that takes long says how far it is, which on a slow machine is a line more than expected.
os.environ["TQDM_DISABLE"] = "1"
# Tests say themselves which machines work together.
os.environ.pop("DASK_SCHEDULER", None)
os.environ.pop("TF_CONFIG", None)

import stages.quiet  # noqa: F401  TensorFlow as the stages have it, before a test imports it

# isort: split
import hypothesis
import pytest
from factory import ROOT
from filelock import FileLock

# The same examples on every run and machine, however slow that is.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=60
)
hypothesis.settings.load_profile("repeatable")

# Files of which one takes half a minute or more, the longest first: `make test` gives each worker
# the next file that is left, and a long one at the end would keep a single core busy.
LONG = (
    "test_pipeline",
    "test_train",
    "test_multi_worker",
    "test_cluster",
    "test_export",
    "test_recipes",
    "test_faults",
    "test_evaluate",
)


def pytest_collection_modifyitems(items):
    names = [f"{name}.py" for name in LONG]
    items.sort(key=lambda item: [item.path.name != name for name in names])


@pytest.fixture(autouse=True)
def _same_folder():
    """A test that leaves the process in another folder fails, and not one of those after it."""
    before = os.getcwd()
    yield
    after = os.getcwd()
    os.chdir(before)
    assert after == before


@pytest.fixture(scope="session")
def finished_job(tmp_path_factory):
    """A folder in which evaluate and plot have run on a small job with an extra set.

    plot.txt is what plot printed. Tests read; what changes something works on a copy.
    """
    from factory import write_colour_job

    from stages import evaluate, plot

    folder = tmp_path_factory.mktemp("job")
    write_colour_job(folder, extra=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate.main()
        with redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
            warnings.filterwarnings("error", message="Glyph")  # a box in a picture
            plot.main()
    (folder / "plot.txt").write_text(said.getvalue(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder of a small exported model (`factory.write_export`), which tests only read.

    Made once, in a process of its own, for all workers: TensorFlow and the converters take
    seconds.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, new = base / "exported", base / "exported.tmp"
    with FileLock(base / "exported.lock"):
        if not folder.exists():
            new.mkdir()
            code = "import sys, pathlib, factory; factory.write_export(pathlib.Path(sys.argv[1]))"
            subprocess.run(
                [sys.executable, "-c", code, new],
                check=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
                capture_output=True,
            )
            new.rename(folder)
    return folder


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. Where there is none the test is skipped, except under CI=true."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        missing = "Chromium and chromedriver are not installed; try: apt install chromium-driver"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ["quic", "gpu", "background-networking", "component-update", "sync", "extensions"]
    for argument in ("headless", "no-sandbox", "no-first-run", *(f"disable-{q}" for q in quiet)):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as chrome:
        yield chrome
