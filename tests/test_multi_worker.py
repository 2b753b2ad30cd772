"""Training shared by devices and by machines: what one would do, whatever happens to the others."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import several_devices
import yaml
from factory import ROOT
from training_workspace import make_workspace, outputs, set_parameters

from stages import train
from stages.errors import UserError
from stages.store.image_set import load_image_set
from stages.store.model import load_model
from stages.training.batches import Prefetcher, TrainingImages, bounds
from stages.training.cluster import EXAMPLE, Cluster, read_cluster

LAUNCHERS = ROOT / "recipes/cluster"
OWN_PROCESS = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}

# Four epochs of five steps: 20 steps, of which the last of each epoch is smaller.
JOB = {
    "train": {
        "epochs": 4,
        "batch_size": 10,
        "checkpoint_minutes": 1e-9,  # after every step
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
        "hardest": 0.9,
        "averaging": {"name": "ema", "decay": 0.9},
        "clip_norm": 1.0,
        "save_epochs": True,
    },
    "augment": {"width_shift": 0.1, "horizontal_flip": "random", "mixup": 0.2, "cutmix": 0.2},
    "model": {"settings": {"filters": [4, 4, 4], "dense": 8}},
}


def free_port(count: int = 2) -> int:
    """The first of so many ports in a row that nobody uses. They are not among those that the
    system gives to whoever asks for any, and each process of the tests looks elsewhere."""
    for first in range(20_000 + os.getpid() % 1_000 * 12, 32_700, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("", port)).close()
            return first
        except OSError:
            continue
    raise AssertionError("no ports")


def tf_config(first_port: int, number: int, count: int = 2) -> str:
    workers = [f"127.0.0.1:{first_port + each}" for each in range(count)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": number}})


def start_machines(*folders: Path) -> list[subprocess.Popen]:
    port = free_port(len(folders))
    return [
        subprocess.Popen(
            [sys.executable, "-m", "stages.train"],
            cwd=folder,
            env=OWN_PROCESS
            | {"TF_CONFIG": tf_config(port, number, len(folders)), "CLUSTER_WAIT": "120"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, folder in enumerate(folders)
    ]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder in which two machines have trained `JOB`, as SLURM starts them, and what they
    printed."""
    base = tmp_path_factory.mktemp("slurm")
    folder = make_workspace(base / "work", **JOB)
    programs = {
        "scontrol": "#!/bin/sh\necho 127.0.0.1; echo 127.0.0.1\n",
        "srun": "#!/bin/bash\n"
        'shift; for n in 0 1; do SLURM_PROCID=$n "$@" 2>&1 | sed "s/^/$n: /" & done; wait\n',
        "dvc": f"#!/bin/sh\n[ \"$*\" = 'repro train' ] && exec {sys.executable} -m stages.train\n",
        "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    }
    (base / "bin").mkdir()
    for name, text in programs.items():
        (base / "bin" / name).write_text(text)
        (base / "bin" / name).chmod(0o755)
    done = subprocess.run(
        ["bash", LAUNCHERS / "slurm.sh"],
        cwd=folder,
        env=OWN_PROCESS
        | {
            "PATH": f"{base / 'bin'}:{os.environ['PATH']}",
            "PORT": str(free_port()),
            "SLURM_JOB_NODELIST": "node[0-1]",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_machines_train_as_one_does(shared, tmp_path, monkeypatch):
    folder, _ = shared
    one = make_workspace(tmp_path / "one", **JOB)
    monkeypatch.chdir(one)
    train.main()
    expected, found = outputs(one), outputs(folder)
    assert sorted(found) == sorted(expected)
    weights = [
        [weight.numpy() for weight in load_model(each / "models/model.keras")[0].weights]
        for each in (one, folder)
    ]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(a).max())
    confidence = [np.load(each / "models/label_confidence.npy") for each in (one, folder)]
    np.testing.assert_allclose(*confidence, rtol=1e-5)
    rows = [json.loads((each / "reports/train/metrics.json").read_text()) for each in (one, folder)]
    assert rows[1].pop("machines") == 2
    for side in ("train", "val"):
        for name, value in rows[0].pop(side).items():
            assert rows[1][side][name] == pytest.approx(value, rel=1e-5)
        del rows[1][side]
    assert rows[0] == rows[1]


def test_the_chief_prints_how_it_goes_and_the_others_next_to_nothing(shared):
    lines = {0: [], 1: []}
    for line in shared[1].splitlines():
        lines[int(line[0])].append(line[3:])
    assert any("epoch 4/4" in line for line in lines[0])
    assert any("(127.0.0.1:" in line and "the chief" in line for line in lines[0])
    assert "machine 2 of 2" in lines[1][0]
    assert all("waiting for" in line for line in lines[1][1:])


def test_a_death_ends_all_and_the_next_start_goes_on(shared, tmp_path):
    """The chief has one clone, the other machine another."""
    chief, other = (make_workspace(tmp_path / name, **JOB) for name in ("chief", "other"))
    before = files(other)
    for victim in (1, 0):
        machines = start_machines(chief, other)
        wait_for_a_new_state(chief, machines)
        # SIGTERM ends them too: by its bit, nobody catches it.
        for line in Path(f"/proc/{machines[victim].pid}/status").read_text().splitlines():
            if line.startswith("SigCgt"):
                assert not int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1
        machines[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        said = machines[1 - victim].communicate(timeout=60)[1]
        assert machines[1 - victim].returncode == 1
        assert time.monotonic() - killed < 50
        print(f"noticed after {time.monotonic() - killed:.1f} s")
        (line,) = said.splitlines()
        assert line.startswith(f"error: machine {victim + 1} of 2 (127.0.0.1:")
        assert "has ended or cannot be reached" in line
        machines[victim].communicate()
        assert not (chief / "models/model.keras").exists()
    machines = start_machines(chief, other)
    printed = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], printed
    assert "continuing after" in printed[0][0]
    assert outputs(chief) == outputs(shared[0])
    assert not (chief / "models/checkpoints/state.npz").exists()
    assert files(other) == before


def wait_for_a_new_state(chief, machines):
    state = chief / "models/checkpoints/state.npz"
    before = state.stat().st_mtime_ns if state.exists() else 0
    while not state.exists() or state.stat().st_mtime_ns == before:
        assert all(machine.poll() is None for machine in machines)
        time.sleep(0.01)


def test_a_machine_with_other_settings_or_data_is_named(tmp_path):
    chief, other = (make_workspace(tmp_path / name, **JOB) for name in ("chief", "other"))
    set_parameters(other, **JOB | {"train": JOB["train"] | {"seed": 7}})
    with open(other / "data/splits/val.csv", "a") as file:
        file.write(f"{0:016x},kind 0\n")
    machines = start_machines(chief, other)
    said = [machine.communicate(timeout=120)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [1, 1]
    assert "machine 2 of 2" in said[0]
    assert "has other settings (params.yaml), images or weights (data/" in said[0]
    assert "machine 1 of 2" in said[1]
    assert all(len(each.splitlines()) == 1 for each in said)
    assert not (chief / "models").exists() or not any((chief / "models").rglob("*.keras"))


# Before TensorFlow starts


@pytest.mark.parametrize(
    "config",
    [
        "worker",
        "[]",
        '{"cluster": {"worker": "host:1"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}}',
        '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:99999"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:2"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_a_malformed_tf_config_is_said_in_one_line(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match="TF_CONFIG") as error:
        train.main()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wait", ["soon", "0", "-1", "nan"])
def test_a_malformed_time_to_wait_is_said(wait):
    with pytest.raises(UserError, match="CLUSTER_WAIT"):
        read_cluster(EXAMPLE.replace("host0:port", "a:1").replace("host1:port", "b:2"), wait)


def test_tf_config_names_the_machines():
    jobs = {"chief": ["a:1"], "worker": ["b:2", "c:3"]}
    for kind, index, number in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
        cluster = read_cluster(
            json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})
        )
        assert cluster.addresses == ["a:1", "b:2", "c:3"]
        assert cluster.number == number
        assert cluster.chief == (number == 0)


@pytest.mark.parametrize("config", [None, "", "{}", tf_config(1, 0, count=1)])
def test_one_machine_is_no_cluster(config):
    assert read_cluster(config) is None


def test_who_is_waited_for_and_does_not_come_is_said(capsys):
    port = free_port()
    addresses = [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]
    with pytest.raises(UserError, match=rf"machine 1 of 2 \({addresses[0]}\) did not come within"):
        Cluster(addresses, 1, patience=0.1).wait_for_chief()
    with pytest.raises(UserError, match=rf"machine 2 of 2 \({addresses[1]}\) did not come within"):
        Cluster(addresses, 0, patience=0.1).connect()
    said = [f"waiting for machine {n + 1} of 2 ({addresses[n]})" for n in (0, 1)]
    assert capsys.readouterr().out.splitlines() == said
    with socket.create_server(("", port)), pytest.raises(UserError, match=f"port {port} of this"):
        Cluster(addresses, 0).connect()


def test_a_last_layer_is_fitted_by_the_chief_alone(tmp_path, monkeypatch, capsys):
    folder = make_workspace(tmp_path / "work", model={"name": "convnet"})
    text = yaml.safe_load((folder / "params.yaml").read_text())
    text["model"] |= {"name": "efficientnet_lite0", "backbone": "frozen", "weights": "bundled"}
    text["model"]["settings"] = {}
    (folder / "params.yaml").write_text(yaml.safe_dump(text))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TF_CONFIG", tf_config(1, 1))
    train.main()
    assert "the chief does alone" in capsys.readouterr().out


# Who reads what


def test_parts_are_as_equal_as_can_be():
    assert bounds(10, 4) == [0, 3, 6, 8, 10]
    assert bounds(2, 3) == [0, 1, 2, 2]


def test_a_machine_reads_its_share_alone(tmp_path):
    folder = make_workspace(tmp_path / "work", train_images=40)
    images = load_image_set(folder / "data/processed", folder / "data/splits/train.csv")
    whole = images.images()
    order = np.random.default_rng(0).permutation(40)
    own = TrainingImages(images, 1e9, as_needed=True)

    def second_half(count):
        return np.arange(count // 2, count)

    batches = list(Prefetcher(own, order, np.zeros(40, np.int64), 10, places=second_half))
    for shard in (folder / "data/processed").glob("*.npy"):
        np.lib.format.open_memmap(shard, "r+")[:] = 0  # what is read from here on
    for number, batch in enumerate(batches):
        index = order[number * 10 : number * 10 + 10]
        np.testing.assert_array_equal(batch.index, index)
        np.testing.assert_array_equal(batch.images, whole[index[5:]])
        np.testing.assert_array_equal(batch.labels, images.labels[index[5:]])
    taken = np.concatenate([batch.index[5:] for batch in batches])
    others = np.setdiff1d(order, taken)
    np.testing.assert_array_equal(own.take(taken), whole[taken])
    assert not own.take(others).any()


# Several devices of one machine


@pytest.fixture(scope="module")
def differences():
    done = subprocess.run(
        [sys.executable, several_devices.__file__], env=OWN_PROCESS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", several_devices.CASES)
def test_two_devices_train_as_one(differences, case):
    apart, moved = differences[case]
    assert apart < 1e-6
    assert moved > 1e-3


# Launchers


def test_launchers_are_no_recipes():
    from stages.recipe import _names

    assert not {"cluster", "kubernetes"} & set(_names(ROOT / "recipes"))


@pytest.mark.parametrize("name", ["slurm.sh", "ssh.sh"])
def test_launchers_parse(name):
    subprocess.run(["bash", "-n", LAUNCHERS / name], check=True)


@pytest.fixture
def tell(tmp_path, monkeypatch):
    """Puts programs in the PATH that append the TF_CONFIG they are given to the file returned."""
    told = tmp_path / "told"
    (tmp_path / ".venv/bin").mkdir(parents=True)
    say = f'#!/bin/sh\necho "$TF_CONFIG" >> {told}\n'
    ssh = '#!/bin/sh\n[ "$1" = 127.0.0.2 ] && exec sh -c "$2"\n'
    for name, text in {"dvc": say, "python": say, "ssh": ssh}.items():
        path = tmp_path / ".venv/bin" / name
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return told


def test_ssh_starts_each_machine(tell):
    subprocess.run([LAUNCHERS / "ssh.sh", "127.0.0.1", "127.0.0.2"], check=True)
    clusters = [read_cluster(line) for line in tell.read_text().splitlines()]
    assert sorted(cluster.number for cluster in clusters) == [0, 1]
    for cluster in clusters:
        assert cluster.addresses == ["127.0.0.1:12345", "127.0.0.2:12346"]


def test_kubernetes_starts_each_machine(tell):
    service, job = yaml.safe_load_all((LAUNCHERS / "kubernetes.yaml").read_text())
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(environment["WORKERS"])
    assert service["metadata"]["name"] == spec["subdomain"]
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    for number in range(job["spec"]["completions"]):
        subprocess.run(
            container["command"] + container["args"],
            env=os.environ | environment | {"JOB_COMPLETION_INDEX": str(number)},
            check=True,
        )
    clusters = [read_cluster(line) for line in tell.read_text().splitlines()]
    assert [cluster.number for cluster in clusters] == [0, 1]
    for cluster in clusters:
        assert cluster.addresses == ["train-0.train:12345", "train-1.train:12345"]
