"""Without the photos, the packed ones are kept: in a clone, a copy, on a colleague's machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from factory import ROOT

import stages.download
from stages.errors import UserError
from stages.sources.packed import folder_md5


def write_photos(folder: Path) -> None:
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A project whose photos are packed and gone, as DVC would have recorded it."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "data/inbox")
    set_download(source="folder")
    stages.download.main()
    record()
    shutil.rmtree(tmp_path / "data/inbox")
    (tmp_path / "data/inbox").mkdir()
    (tmp_path / "data/inbox/.gitignore").write_text("*\n")
    return tmp_path


def set_download(**settings) -> None:
    Path("params.yaml").write_text(json.dumps({"download": settings}))


def record() -> None:
    settings = yaml.safe_load(Path("params.yaml").read_text())
    outs = [{"path": "data/raw", "md5": folder_md5(Path("data/raw"))}]
    stage = {"params": {"params.yaml": settings}, "outs": outs}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"download": stage}}))


def contents() -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_ino)
        for path in sorted(Path("data/raw").iterdir())
    }


def test_an_empty_folder_keeps_what_is_packed(packed, capsys):
    before = contents()
    stages.download.main()
    line = "data/inbox is empty: keeping the 3 images packed in data/raw\n"
    assert capsys.readouterr().out.endswith(line)
    assert contents() == before


def test_a_missing_folder_keeps_what_is_packed(packed, capsys):
    shutil.rmtree("data/inbox")
    stages.download.main()
    assert "data/inbox is missing: keeping the 3 images" in capsys.readouterr().out


def test_another_table_of_corrections_is_no_other_source(packed, capsys):
    set_download(source="folder", corrections="data/mended.csv")
    stages.download.main()
    assert "keeping the 3 images" in capsys.readouterr().out


def test_a_default_that_was_not_recorded_yet_is_no_other_setting(packed, capsys):
    set_download(source="folder", path="data/inbox", label_pattern=None)
    stages.download.main()
    assert "keeping the 3 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "folder", "path": "data/other"}, "data/other does not exist"),
        ({"source": "folder", "label_pattern": "(cat|dog)"}, "data/inbox holds no images"),
        ({"source": "csv"}, "labels.csv does not exist"),
        ({"source": "parquet"}, "holds no .parquet files"),
        ({"source": "archive"}, "is a folder, not an archive"),
    ],
)
def test_what_other_settings_packed_does_not_stand_in(packed, settings, message):
    before = contents()
    set_download(**settings)
    with pytest.raises(UserError, match=message):
        stages.download.main()
    assert contents() == before


def test_other_packed_images_do_not_stand_in(packed):
    """As after git checkout without dvc checkout, or a run by hand with other settings."""
    write_photos(packed / "data/inbox/more")
    (packed / "data/inbox/more/cat").rename(packed / "data/inbox/horse")
    shutil.rmtree(packed / "data/inbox/more")
    write_photos(packed / "data/inbox")
    stages.download.main()
    shutil.rmtree("data/inbox")
    with pytest.raises(UserError, match=r"is not what dvc.lock says.*dvc checkout"):
        stages.download.main()


def test_damaged_packed_images_do_not_stand_in(packed):
    [shard] = Path("data/raw").glob("*.zip")
    content, status = bytearray(shard.read_bytes()), shard.stat()
    content[100] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=r"is not what dvc.lock says.*dvc checkout"):
        stages.download.main()


def test_packed_images_that_are_missing_are_to_be_pulled(packed):
    shutil.rmtree("data/raw")
    with pytest.raises(UserError, match=r"data/inbox holds no files.*dvc pull data/raw"):
        stages.download.main()


@pytest.mark.parametrize("lock", [b"", b"stages: [", b"\xff\xfe", b"stages: {download: []}"])
def test_without_a_record_nothing_stands_in(packed, lock):
    Path("dvc.lock").write_bytes(lock)
    with pytest.raises(UserError, match="data/inbox holds no images"):
        stages.download.main()


def test_a_folder_with_a_photo_is_not_empty(packed):
    Path("data/inbox/cat").mkdir()
    Path("data/inbox/cat/1.jpg").write_bytes(b"1")
    with pytest.raises(UserError, match="single class"):
        stages.download.main()


def test_a_clone_keeps_what_dvc_pulled(tmp_path):
    def call(folder: Path, *command: str) -> str:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            **{f"GIT_{who}_NAME": "t" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "t@example.org" for who in ("AUTHOR", "COMMITTER")},
        }
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    owner, clone = tmp_path / "owner", tmp_path / "clone"
    for name in (
        "dvc.yaml",
        "data/corrections.csv",
        ".dvcignore",
        ".gitignore",
        "stages",
        ".dvc/config",
        "models/pretrained",
    ):
        (owner / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, owner / name)
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["download"]["source"] = "folder"
    (owner / "params.yaml").write_text(yaml.safe_dump(values))
    (owner / "data/inbox").mkdir(parents=True)
    (owner / "data/inbox/.gitignore").write_text("*\n!.gitignore\n")
    call(owner, "git", "init", "--quiet")
    write_photos(owner / "data/inbox")
    call(owner, "dvc", "repro", "download")
    call(owner, "git", "add", "--all")
    call(owner, "git", "commit", "--quiet", "--message", "packed")
    call(tmp_path, "git", "clone", "--quiet", "owner", "clone")
    call(clone, "dvc", "cache", "dir", "--local", str(owner / ".dvc/cache"))
    call(clone, "dvc", "checkout", "--quiet", "download")
    output = call(clone, "dvc", "repro", "download")
    assert "data/inbox is empty: keeping the 3 images packed in data/raw" in output
    locks = [yaml.safe_load((place / "dvc.lock").read_text()) for place in (owner, clone)]
    first, second = (lock["stages"]["download"]["outs"] for lock in locks)
    assert first == second
    assert first[0]["md5"] == folder_md5(clone / "data/raw")
