"""Experiments run on two machines are compared on one: real git, real DVC, a remote over SSH."""

import asyncio
import json
import subprocess
import sys
import threading

import asyncssh
import pytest
import yaml
from test_pipeline import COPIED, ROOT, SMALL, call, copy, environment

PHOTOS = 12  # a class


@pytest.fixture
def ssh_port(tmp_path):
    """An SSH server on this machine that offers the folder `tmp_path/server` by SFTP."""
    (tmp_path / "server").mkdir()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    class Anyone(asyncssh.SSHServer):
        def begin_auth(self, username):
            return False

    async def listen():
        return await asyncssh.create_server(
            Anyone,
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            sftp_factory=lambda chan: asyncssh.SFTPServer(chan, chroot=str(tmp_path / "server")),
        )

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    yield server.get_port()
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)


def write_project(folder):
    from PIL import Image

    copy(ROOT, folder, COPIED)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in SMALL.items():
        settings[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for number in range(2 * PHOTOS):
        path = folder / f"data/inbox/{'red' if number % 2 else 'blue'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        color = (200, number, 0) if number % 2 else (0, number, 200)
        Image.new("RGB", (16, 16), color).save(path)


def test_experiments_of_two_machines_are_compared_on_one(tmp_path, ssh_port):
    hub, remote = str(tmp_path / "hub.git"), f"ssh://anyone@127.0.0.1:{ssh_port}/store"
    call(tmp_path, "git", "init", "-q", "--bare", "-b", "main", hub)
    ann, ben = tmp_path / "ann", tmp_path / "ben"
    write_project(ann)
    call(ann, "git", "init", "-q", "-b", "main")
    call(ann, "git", "remote", "add", "origin", hub)
    call(ann, "dvc", "remote", "add", "--default", "team", remote)
    call(ann, "dvc", "repro", "split")
    call(ann, "git", "add", ".")
    call(ann, "git", "commit", "-q", "-m", "Start")
    call(ann, "dvc", "push")
    call(ann, "git", "push", "-q", "-u", "origin", "main")
    call(tmp_path, "git", "clone", "-q", hub, str(ben))
    # The photos are not on this machine, what they were packed into comes from the remote.
    call(ben, "dvc", "pull", "data/raw", "data/processed")
    for clone, share in ((ann, "0.3"), (ben, "0.4")):
        name = f"{clone.name}-test"
        call(clone, "dvc", "exp", "run", "split", "-n", name, "-S", f"split.test={share}")
    assert "Pushed experiment ann-test" in call(ann, "dvc", "exp", "push", "origin", "ann-test")
    assert "ann-test" in call(ben, "dvc", "exp", "list", "origin")
    call(ben, "dvc", "exp", "pull", "origin", "ann-test")

    table = json.loads(call(ben, "dvc", "exp", "show", "--json"))
    (start,) = (row for row in table if row["name"] == "main")
    shares = {
        row["name"]: row["revs"][0]["data"]["params"]["params.yaml"]["data"]["split"]["test"]
        for row in start["experiments"]
    }
    assert shares == {"ann-test": 0.3, "ben-test": 0.4}
    call(ben, "dvc", "exp", "branch", "ann-test", "from-ann")
    call(ben, "git", "checkout", "-q", "--force", "from-ann")
    call(ben, "dvc", "checkout", "data/splits")
    for file in ("data/splits/test.csv", "data/splits/train.csv"):
        assert (ben / file).read_bytes() == (ann / file).read_bytes()


def repro_at_once(*folders) -> list[tuple[int, str]]:
    """Exit code and output of `dvc repro --force split` started in all `folders` at once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "--force", "split"],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for folder in folders
    ]
    said = [process.communicate()[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def test_two_clones_share_a_cache_and_two_runs_in_one_clone_do_no_harm(tmp_path):
    ann, ben = tmp_path / "ann", tmp_path / "ben"
    write_project(ann)
    call(ann, "git", "init", "-q", "-b", "main")
    call(ann, "dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    call(ann, "dvc", "config", "--local", "cache.shared", "group")
    copy(ann, ben, [path.name for path in ann.iterdir()])
    for code, said in repro_at_once(ann, ben):
        assert code == 0, said
    assert (ann / "dvc.lock").read_bytes() == (ben / "dvc.lock").read_bytes()
    locked = (ann / "dvc.lock").read_bytes()

    results = repro_at_once(ann, ann)
    assert 0 in {code for code, _ in results}, results
    for code, said in results:
        assert "Traceback" not in said
        if code:
            assert "is busy, it is being blocked by" in said or "Unable to acquire lock" in said
    assert (ann / "dvc.lock").read_bytes() == locked
    for clone in (ann, ben):
        assert "Data and pipelines are up to date" in call(clone, "dvc", "status", "split")
