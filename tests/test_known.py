"""The well-known sets are read from their official file formats."""

import gzip
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from stages.errors import UserError
from stages.sources.known import cifar_images, digits_images, idx_images, read_idx


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(image.read())))


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))
    return path


def write_cifar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    expected = load_digits()
    images = list(digits_images())
    assert [image.path for image in images] == sorted(image.path for image in images)
    for image in images[::100]:
        row = int(image.path[2:7])
        assert image.label == str(expected.target[row])
        np.testing.assert_array_equal(np.round(pixels(image) / 255 * 16), expected.images[row])


def test_idx_files_give_images_with_their_sides(tmp_path):
    random = np.random.default_rng(0)
    train, test = (random.integers(0, 256, (n, 28, 28), np.uint8) for n in (6, 3))
    files = [
        write_idx(tmp_path / "a.gz", train),
        write_idx(tmp_path / "b.gz", np.array([1, 0, 1, 0, 0, 1], np.uint8)),
        write_idx(tmp_path / "c.gz", test),
        write_idx(tmp_path / "d.gz", np.array([0, 0, 1], np.uint8)),
    ]
    images = {image.path: image for image in idx_images(files, ["T-shirt/top", "Bag"])}
    assert list(images) == [
        "test/Bag/00002.png",
        "test/T-shirt-top/00000.png",
        "test/T-shirt-top/00001.png",
        "train/Bag/00000.png",
        "train/Bag/00002.png",
        "train/Bag/00005.png",
        "train/T-shirt-top/00001.png",
        "train/T-shirt-top/00003.png",
        "train/T-shirt-top/00004.png",
    ]
    image = images["train/T-shirt-top/00003.png"]
    assert (image.label, image.split) == ("T-shirt/top", "train")
    np.testing.assert_array_equal(pixels(image), train[3])


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x01\0\0\0\x09short", b"<html>"])
def test_another_file_than_idx_is_one_clear_line(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=r"a\.gz is not an IDX file"):
        read_idx(tmp_path / "a.gz")


def test_the_binary_cifar10_gives_images_with_their_sides(tmp_path):
    random = np.random.default_rng(0)
    batches = random.integers(0, 256, (6, 2, 3073), np.uint8)
    batches[:, :, 0] = [0, 1]
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
    files = {name: batch.tobytes() for name, batch in zip(names, batches, strict=True)}
    files["batches.meta.txt"] = b"airplane\nautomobile\n\n"
    images = {image.path: image for image in cifar_images(write_cifar(tmp_path / "c", files))}
    assert len(images) == 12
    assert images["test/automobile/00001.png"].split == "test"
    image = images["train/automobile/00005.png"]  # the second record of the third batch
    assert (image.label, image.split) == ("automobile", "train")
    np.testing.assert_array_equal(
        pixels(image), batches[2, 1, 1:].reshape(3, 32, 32).transpose(1, 2, 0)
    )


def test_the_binary_cifar100_is_labelled_with_its_fine_classes(tmp_path):
    random = np.random.default_rng(0)
    records = random.integers(0, 256, (2, 3074), np.uint8)
    records[:, :2] = [[0, 1], [0, 0]]  # coarse, fine
    files = {
        "train.bin": records.tobytes(),
        "test.bin": records.tobytes(),
        "fine_label_names.txt": b"apple\nfish\n",
        "coarse_label_names.txt": b"things\n",
    }
    images = {image.path: image for image in cifar_images(write_cifar(tmp_path / "c", files))}
    assert set(images) == {
        f"{side}/{name}.png" for side in ["train", "test"] for name in ["apple/00001", "fish/00000"]
    }
    np.testing.assert_array_equal(
        pixels(images["train/fish/00000.png"]),
        records[0, 2:].reshape(3, 32, 32).transpose(1, 2, 0),
    )
