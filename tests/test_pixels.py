"""Laws of storing pixels: what is written comes back, shards end where their images say."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.images.fingerprints import digests, perceptual_hashes
from stages.images.reuse import Journal, read_journal
from stages.store.processed import Pixels, Shards, natural_order, shard_starts

laws = settings(max_examples=60, derandomize=True, deadline=None)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
HASHES = st.lists(st.binary(min_size=8, max_size=8).map(bytes.hex), max_size=60)


@laws
@given(
    shape=SHAPES,
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_pixels_come_back_as_written_without_what_was_dropped(shape, lengths, seed, share):
    random = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    images = random.integers(0, 256, (starts[-1], *shape), np.uint8)
    gaps = np.flatnonzero(random.random(len(images)) < share)
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(Path(folder), shape, starts)
        for shard in range(len(lengths)):
            shards.create(shard)
        for rows in np.array_split(random.permutation(len(images)), 3):
            shards.write(np.sort(rows), images[np.sort(rows)])
        assert np.array_equal(Pixels(folder).take(np.arange(len(images))), images)
        shards.drop(gaps)
        kept, pixels = np.delete(images, gaps, axis=0), Pixels(folder)
        assert len(pixels) == len(kept)
        rows = random.integers(0, len(kept), 9) if len(kept) else np.zeros(0, int)
        if len(kept):
            assert np.array_equal(pixels.take(rows), kept[rows])
            assert np.array_equal(np.concatenate([np.load(path) for path in pixels.paths]), kept)


@laws
@given(HASHES, SHAPES, st.integers(1, 2000))
def test_shards_share_out_all_images_and_are_bounded(hashes, shape, target):
    starts = shard_starts(hashes, shape, target)
    expected = max(1, target // int(np.prod(shape)))
    assert starts[0] == 0
    assert starts[-1] == len(hashes)
    assert (np.diff(starts) > 0).all()
    assert (np.diff(starts) <= 4 * expected).all()


@laws
@given(HASHES, HASHES, SHAPES)
def test_shards_end_alike_from_the_first_end_that_an_image_asks_for(left, right, shape):
    """So one image more or less changes the shard it lies in, and those until the next such end."""
    common = [f"{number * 7919 % 256:02x}" + "0" * 14 for number in range(60)]
    target = 8 * int(np.prod(shape))
    ends = []
    for before in (left, right):
        asked = [at for at, name in enumerate(common, 1) if int(name, 16) * 8 < 2**64]
        starts = set((shard_starts(before + common, shape, target) - len(before)).tolist())
        ends.append({end for end in starts if end >= asked[0]})
    assert ends[0] == ends[1]


@laws
@given(st.lists(st.text(max_size=8), max_size=20), st.integers(0, 99))
def test_natural_order_is_an_order_of_all_names(names, seed):
    ordered = sorted(names, key=natural_order)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    assert sorted((names[at] for at in shuffled), key=natural_order) == ordered
    numbers = [str(number) for number in range(25)]
    assert sorted(sorted(numbers), key=natural_order) == numbers


@laws
@given(SHAPES, st.integers(1, 12), st.integers(0, 99))
def test_fingerprints_do_not_depend_on_the_other_images(shape, count, seed):
    images = np.random.default_rng(seed).integers(0, 3, (count, *shape), np.uint8) * 100
    names, hashes = digests(images), perceptual_hashes(images)
    for at, image in enumerate(images):
        assert digests(image[None]) == [names[at]]
        assert perceptual_hashes(image[None]) == [hashes[at]]
        same = [np.array_equal(image, other) for other in images]
        assert same == [name == names[at] for name in names]
    assert all(len(name) == 32 for name in names)
    assert all(len(name) == 16 for name in hashes)


DOCUMENTS = st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=6)


@laws
@given(DOCUMENTS, st.integers(0, 400), st.booleans())
def test_a_journal_gives_what_is_whole_whatever_happens_to_it(documents, at, cut):
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "journal"
        journal = Journal(path)
        for document in documents:
            journal.append(document)
        journal.close()
        assert list(read_journal(path)) == documents
        data = bytearray(path.read_bytes())
        if not data:
            return
        at %= len(data)
        if cut:
            del data[at:]
        else:
            data[at] ^= 1
        path.write_bytes(data)
        left = list(read_journal(path))
        assert len(left) >= (data[:at].count(b"\n") if cut else len(documents) - 2)
        rest = iter(documents)
        assert all(any(document == other for other in rest) for document in left)  # in order
    finally:
        shutil.rmtree(folder)
