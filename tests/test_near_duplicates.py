"""Near-duplicates across sides: hashes propose, pixels decide."""

import io

import numpy as np
import pytest
from PIL import Image

from stages.images.fingerprints import perceptual_hashes
from stages.splits import EXTRA, LEFT_OUT, RANK, TEST, TRAIN, VAL
from stages.splits import near_duplicates as module
from stages.splits.near_duplicates import near_duplicates, unchecked


def picture(seed, size=32):
    """A smooth colourful picture, uint8 (size, size, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))


def saved_again(pixels, quality=90):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file))


def search(pixels, hashes, sides):
    pixels = np.stack(pixels)
    pairs, distances = near_duplicates(
        np.array(hashes, np.uint64), RANK[np.array(sides)], lambda chosen: pixels[chosen]
    )
    return pairs.tolist(), distances


@pytest.mark.parametrize("size", [5, 20, 32, 100])
def test_a_copy_saved_again_on_the_other_side_is_found(size):
    pixels = [picture(1, size), picture(2, size), saved_again(picture(1, size), 97)]
    pairs, distances = search(pixels, [7, 7, 6], [TRAIN, TRAIN, TEST])
    assert pairs == [[2, 0]]
    assert 0 < distances[0] < 0.01


def test_different_pictures_with_the_same_hash_are_not():
    assert search([picture(1), picture(2)], [7, 7], [TRAIN, TEST])[0] == []


@pytest.mark.parametrize(("hashes", "found"), [((0, 0b101), True), ((0, 0b111), False)])
def test_hashes_may_differ_in_two_bits(hashes, found):
    assert bool(search([picture(1)] * 2, hashes, [TRAIN, TEST])[0]) == found


@pytest.mark.parametrize(
    ("one", "other", "reported"),
    [
        (TRAIN, TRAIN, []),
        (TRAIN, VAL, [[1, 0]]),
        (TEST, VAL, [[0, 1]]),
        (EXTRA, TRAIN, [[0, 1]]),
        (EXTRA, TEST, []),
        (LEFT_OUT, TEST, []),
    ],
)
def test_only_pairs_that_make_a_score_look_better_are_reported(one, other, reported):
    assert search([picture(1)] * 2, [7, 7], [one, other])[0] == reported


def test_each_image_held_back_is_listed_once_with_its_nearest_copy():
    pixels = [saved_again(picture(1), 40), picture(1), picture(1), saved_again(picture(1), 90)]
    pairs, _ = search(pixels, [7] * 4, [TRAIN, TRAIN, TEST, TEST])
    assert sorted(pairs) == [[2, 1], [3, 1]]
    assert pairs[0] == [2, 1]  # the nearest come first


def test_blank_images_are_no_duplicates():
    blank = np.full((32, 32, 3), 200, np.uint8)
    assert search([blank, blank, blank + 1], [0, 0, 0], [TRAIN, TEST, VAL])[0] == []


@pytest.mark.parametrize("many", [0, 20, 100])
def test_every_pair_of_close_hashes_is_proposed_once(monkeypatch, many):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 30, np.uint64).repeat(20)
    for _ in range(2):
        hashes ^= np.uint64(1) << rng.integers(0, 64, len(hashes), np.uint64)
    rank = rng.integers(-1, 3, len(hashes))
    monkeypatch.setattr(module, "PAIRS_AT_A_TIME", 50)
    monkeypatch.setattr(module, "MANY", many)
    proposed = [
        (min(pair), max(pair))
        for chunk in module._candidates(hashes, rank)
        for pair in zip(*(side.tolist() for side in chunk), strict=True)
    ]
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 2
        and rank[i] != rank[j]
        and min(rank[i], rank[j]) >= 0
    }
    assert len(expected) > 100
    assert len(proposed) == len(expected)
    assert set(proposed) == expected


def test_a_part_that_a_crowd_shares_is_not_followed(monkeypatch):
    monkeypatch.setattr(module, "CROWDED", 50)
    same = np.full(51, 7, np.uint64)
    assert not list(module._candidates(same, np.arange(51) % 2))
    assert list(module._candidates(same[:50], np.arange(50) % 2))


def test_images_in_a_crowd_are_counted(monkeypatch):
    monkeypatch.setattr(module, "CROWDED", 50)
    hashes = np.append(np.full(51, 7, np.uint64), np.uint64(0b111000))
    sides = np.full(52, TRAIN, np.int8)
    assert unchecked(hashes, sides) == 51
    sides[0] = LEFT_OUT
    assert unchecked(hashes, sides) == 0


@pytest.mark.parametrize("background", [0, 255])
def test_copies_of_flat_images_have_close_hashes(background):
    canvas = np.full((60, 28, 28, 3), background, np.uint8)
    for number, image in enumerate(canvas):
        image[6:22, 8:20] = picture(number, 28)[6:22, 8:20]
    copies = np.stack([saved_again(image, 85) for image in canvas])
    before, after = (
        np.array([int(name, 16) for name in perceptual_hashes(images)], np.uint64)
        for images in (canvas, copies)
    )
    assert (np.bitwise_count(before ^ after) <= 2).mean() > 0.9
    assert len(np.unique(before)) > 50
