"""Archives that are damaged, hostile or odd end in one clear line, and nothing is unpacked."""

import io
import stat
import tarfile
import zipfile

import pytest

from stages.errors import UserError
from stages.sources.archive import read_members
from stages.store.raw import read_archive

GOOD = {"cat/1.jpg": b"one" * 100, "dog/1.jpg": b"two" * 100}


@pytest.fixture
def make_zip(tmp_path):
    def make(*members, compression=zipfile.ZIP_STORED):
        path = tmp_path / "photos.zip"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in [*GOOD.items(), *members]:
                archive.writestr(name, content)
        return path

    return make


@pytest.fixture
def make_tar(tmp_path):
    def make(*members, mode="w"):
        path = tmp_path / "photos.tar"
        with tarfile.open(path, mode) as archive:
            for name, content in GOOD.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for info in members:
                archive.addfile(info, io.BytesIO(b"x" * info.size))
        return path

    return make


def zip_link(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def tar_member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


OUTSIDE = ["/etc/1.jpg", "../1.jpg", "cat/../../1.jpg", "C:\\cat\\1.jpg", "..\\1.jpg"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_zip_that_names_files_outside_its_folder(make_zip, name):
    with pytest.raises(UserError, match="names a file outside its folder"):
        read_members(make_zip((name, b"x")))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_tar_that_names_files_outside_its_folder(make_tar, name):
    with pytest.raises(UserError, match="names a file outside its folder"):
        read_members(make_tar(tarfile.TarInfo(name)))


def test_a_zip_with_a_symbolic_link(make_zip):
    with pytest.raises(UserError, match=r"photos.zip: cat/2.jpg is a link or device"):
        read_members(make_zip((zip_link("cat/2.jpg"), b"/etc/passwd")))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_a_tar_with_links_or_devices_for_images(make_tar, kind):
    with pytest.raises(UserError, match=r"photos.tar: cat/2.jpg is a link or device"):
        read_members(make_tar(tar_member("cat/2.jpg", kind, "cat/1.jpg")))


def test_links_and_devices_that_are_no_images_do_no_harm(make_tar):
    archive = make_tar(
        tar_member("latest", tarfile.SYMTYPE, "cat"), tar_member("null", tarfile.CHRTYPE)
    )
    assert {member.path for member in read_members(archive)} == set(GOOD)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice(make_zip):
    with pytest.raises(UserError, match=r"holds cat/1.jpg twice"):
        read_members(make_zip(("cat/1.jpg", b"other")))


def test_a_tar_with_a_name_twice(make_tar):
    with pytest.raises(UserError, match=r"holds cat/1.jpg twice"):
        read_members(make_tar(tarfile.TarInfo("./cat/1.jpg")))


def test_a_zip_with_an_encrypted_member(make_zip):
    path = make_zip()
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(signature) + flags] |= 1  # what an encrypting program sets
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"dog/1.jpg is encrypted"):
        read_members(path)


def test_a_zip_with_a_damaged_member(make_zip):
    path = make_zip()
    path.write_bytes(path.read_bytes().replace(b"twotwo", b"TWOTWO"))
    with pytest.raises(UserError, match=r"damaged .* Bad CRC-32 for file 'dog/1.jpg'"):
        read_members(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_cut_short(make_zip, make_tar, mode, share):
    path = make_zip() if mode == "zip" else make_tar(mode=mode)
    whole = path.read_bytes().rstrip(b"\0") if mode == "w" else path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="photos"):
        read_members(path)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><p>Please log in", b"PK\3\4 nothing"])
def test_a_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "photos.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"photos.zip is (neither a zip nor a tar|damaged)"):
        read_members(path)


def test_an_archive_without_images(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.txt", "hello")
    with pytest.raises(UserError, match=r"photos.zip holds no images"):
        read_members(path)


def test_one_member_that_grows_beyond_reason(make_zip):
    path = make_zip(("cat/2.jpg", bytes(2**28 + 1)), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    with pytest.raises(UserError, match=r"looks like an archive bomb: cat/2.jpg"):
        read_members(path)


def test_a_zip_whose_members_overlap(make_zip):
    # The kernel of the "better zip bomb": many names for the same compressed bytes.
    path = make_zip(("dog/2.jpg", b"two" * 100))
    content = bytearray(path.read_bytes())
    _, second, third = [i for i in range(len(content)) if content[i : i + 4] == b"PK\x01\x02"]
    content[third + 42 : third + 46] = content[second + 42 : second + 46]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"photos.zip is damaged"):
        read_members(path)


def test_a_tar_that_grows_beyond_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.sources.archive.LARGEST_HARMLESS", 10**6)
    path = tmp_path / "photos.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(20):
            info = tarfile.TarInfo(f"cat/{number}.txt")
            info.size = 10**5
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(UserError, match="looks like an archive bomb"):
        read_members(path)


def test_names_that_are_not_utf8(tmp_path):
    zipped, tarred = tmp_path / "photos.zip", tmp_path / "photos.tar"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("cat/Xa.jpg", b"one")
        archive.writestr("dog/1.jpg", b"two")
    zipped.write_bytes(zipped.read_bytes().replace(b"cat/Xa.jpg", b"cat/\xe9a.jpg"))
    with tarfile.open(tarred, "w", encoding="latin-1") as archive:
        for name, content in {"cat/\xe9a.jpg": b"one", "dog/1.jpg": b"two"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = {}
            archive.format = tarfile.GNU_FORMAT
            archive.addfile(info, io.BytesIO(content))
    for path, name in [(zipped, "cat/\u0398a.jpg"), (tarred, r"cat/\xe9a.jpg")]:
        members = read_members(path)
        assert [member.path for member in members] == [name, "dog/1.jpg"]
        contents = dict(read_archive(path, [member.name for member in members]))
        assert contents[members[0].name] == b"one"


def test_a_hundred_thousand_members(tmp_path):
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{number % 7}/{number}.png", b"x")
    assert len(read_members(path)) == 100_000
