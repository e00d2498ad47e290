"""MNIST's IDX files: read as written, refused in one sentence when they are not what they say."""

from __future__ import annotations

import gzip
import os
import struct

import numpy as np
import pytest

from gdconv.data import idx
from gdconv.data import sources as data
from gdconv.data.images import digit_patches, patches
from gdconv.support.errors import InputError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 6), dtype=np.uint8)
DIGITS = RNG.integers(0, 10, 12, dtype=np.uint8)


def images_bytes(pixels=PIXELS):
    return struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()


def labels_bytes(digits=DIGITS):
    return struct.pack(">II", 0x801, len(digits)) + digits.tobytes()


def write(folder, images=None, labels=None, suffix=""):
    """A folder with both files."""
    pack = gzip.compress if suffix else bytes
    made = {
        "train-images-idx3-ubyte": images_bytes() if images is None else images,
        "train-labels-idx1-ubyte": labels_bytes() if labels is None else labels,
    }
    for name, content in made.items():
        (folder / (name + suffix)).write_bytes(pack(content))
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_what_was_written(tmp_path, suffix):
    images, labels = idx.read_folder(write(tmp_path, suffix=suffix))
    assert np.array_equal(images, PIXELS)
    assert np.array_equal(labels, DIGITS)


def test_other_spelling_and_wrong_suffix(tmp_path):
    """Some archives write a dot, some browsers unpack and keep the .gz."""
    (tmp_path / "train-images.idx3-ubyte").write_bytes(images_bytes())
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(labels_bytes())
    assert np.array_equal(idx.read_folder(tmp_path)[1], DIGITS)


def refused(folder):
    """The sentence."""
    with pytest.raises(InputError) as caught:
        idx.read_folder(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.field == "data"
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("images", "says"),
    [
        (b"", "damaged or cut off"),
        (images_bytes()[:3], "damaged or cut off"),
        (images_bytes()[:10], "damaged or cut off"),
        (images_bytes()[:-1], "damaged or cut off"),
        (images_bytes() + b"\0", "more than the 432 bytes"),
        (labels_bytes(), "holds labels, not images"),
        (struct.pack(">IIII", 0xD03, 1, 1, 1) + b"\0\0\0\0", "0x00000d03"),
        (b"P5 6 6 255 " + PIXELS.tobytes(), "no IDX file"),
        (struct.pack(">IIII", 0x803, 0, 28, 28), "announces nothing"),
        (struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1), "more than 512 MiB"),
        (struct.pack(">IIII", 0x803, 2**32 - 1, 2**16, 2**16), "more than 512 MiB"),
        (images_bytes(PIXELS[:5]), "5 images but 12 labels"),
    ],
)
def test_images_refused(tmp_path, images, says, suffix):
    assert says in refused(write(tmp_path, images=images, suffix=suffix))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (images_bytes(), "holds images, not labels"),
        (labels_bytes(np.full(12, 10, np.uint8)), "label 10 is no digit"),
        (labels_bytes()[:-2], "damaged or cut off"),
    ],
)
def test_labels_refused(tmp_path, labels, says):
    assert says in refused(write(tmp_path, labels=labels))


def test_announcement_alone_allocates_nothing(tmp_path):
    """A header that announces 500 MB over an empty body is refused without taking memory."""
    import tracemalloc

    write(tmp_path, images=struct.pack(">IIII", 0x803, 500_000, 32, 32))
    tracemalloc.start()
    assert "damaged or cut off" in refused(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


def test_bomb_is_read_no_further_than_announced(tmp_path):
    """50 MB of zeros in 50 kB of gzip behind a header for 36 bytes."""
    import tracemalloc

    header = struct.pack(">IIII", 0x803, 1, 6, 6)
    write(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(gzip.compress(header + bytes(5 * 10**7)))
    tracemalloc.start()
    assert "more than the 36 bytes" in refused(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("at", [15, 200, -3])
def test_damaged_gzip(tmp_path, at):
    write(tmp_path, suffix=".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)
    assert "data = " in refused(tmp_path)


def test_missing_files_and_folders(tmp_path):
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "no such folder" in refused("x" * 5000)
    assert "no file train-labels-idx1-ubyte(.gz)" in refused(tmp_path)
    write(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    assert "no file train-images-idx3-ubyte(.gz)" in refused(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    assert "this is no file" in refused(tmp_path)


LEFTOVERS = {
    "empty": b"", "cut off": images_bytes()[:-1], "another file": b"<html>", "a folder": None,
    "another kind": labels_bytes(),
}  # fmt: skip


@pytest.mark.parametrize("left", LEFTOVERS)
@pytest.mark.parametrize("good", ["train-images-idx3-ubyte.gz", "train-images.idx3-ubyte"])
def test_a_leftover_does_not_hide_a_good_file(tmp_path, left, good):
    write(tmp_path)
    (tmp_path / good).write_bytes(images_bytes())
    bad = tmp_path / "train-images-idx3-ubyte"
    bad.unlink()
    if LEFTOVERS[left] is None:
        bad.mkdir()
    else:
        bad.write_bytes(LEFTOVERS[left])
    assert np.array_equal(idx.read_folder(tmp_path)[0], PIXELS)
    (tmp_path / good).write_bytes(b"")  # nothing good: the first one is told
    assert str(bad) + ":" in refused(tmp_path)


@pytest.mark.parametrize("below", ["raw", "MNIST/raw", "FashionMNIST/raw", "a/b"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_root_folder_is_told_which_folder_below_it_to_give(tmp_path, below, suffix):
    (tmp_path / "A" / "raw").mkdir(parents=True)
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    write(tmp_path / below, suffix=suffix)
    told = refused(tmp_path)
    assert told.endswith(f"but in the folder {below}; give that one.")
    idx.read_folder(tmp_path / below)


def test_links_and_deep_folders_are_not_searched(tmp_path):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    write(tmp_path / "a" / "b" / "c")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "c")
    assert "but in the folder" not in refused(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_does_not_block(tmp_path):
    write(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    assert "this is no file" in refused(tmp_path)


def test_patches_hold_every_pixel_once():
    cut = patches(PIXELS.astype(float), 9)
    assert cut.shape == (12, 9, 4)
    for k in range(9):
        i, j = divmod(k, 3)
        expected = PIXELS[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(12, 4)
        assert np.array_equal(cut[:, k], expected)
    strips = PIXELS.astype(float).reshape(12, 9, 4)
    assert not np.array_equal(cut, strips)  # the control: rows of the image are no patches


@pytest.mark.parametrize("tokens", [0, 2, 16, 49, True])
def test_impossible_numbers_of_patches(tokens):
    with pytest.raises(InputError, match="tokens"):
        patches(PIXELS.astype(float), tokens)


def test_problem_of_a_folder(tmp_path):
    problem = idx.load_folder(write(tmp_path), samples=5, tokens=4, seed=1)
    assert (problem.N, problem.n, problem.D) == (5, 4, 9)
    assert tuple(problem.y.shape) == (1, 5, 1, 1)
    assert float(problem.X.square().sum(-1).mean()) == pytest.approx(4.0, abs=1e-12)
    centred = patches(PIXELS - PIXELS.mean(axis=0), 4).reshape(12, -1)
    for sample, label in zip(problem.X[0].flatten(1).numpy(), problem.y.flatten(), strict=True):
        cosine = centred @ sample / np.linalg.norm(centred, axis=1) / np.linalg.norm(sample)
        assert cosine.max() > 1 - 1e-12
        digit = DIGITS[int(cosine.argmax())]
        assert float(label) == pytest.approx((float(digit) - 4.5) / np.sqrt(8.25))
    again = idx.load_folder(tmp_path, samples=5, tokens=4, seed=1)
    assert np.array_equal(problem.X, again.X)
    assert not np.array_equal(problem.X, idx.load_folder(tmp_path, 5, 4, seed=2).X)


def test_option_data_takes_a_folder(tmp_path):
    write(tmp_path)
    per_token = data.load(str(tmp_path), samples=5, tokens=4, seed=1)
    per_sample = data.load(str(tmp_path), samples=5, tokens=4, seed=1, per_sample=True)
    alone = idx.load_folder(tmp_path, 5, 4, 1)
    assert tuple(per_token.y.shape) == (1, 5, 4, 1)
    assert np.array_equal(per_token.X, alone.X)
    assert np.allclose(per_sample.y, alone.y, rtol=1e-15)
    assert per_sample.name == tmp_path.name
    with pytest.raises(InputError, match="samples = 13: give at most 12"):
        data.load(str(tmp_path), samples=13)
    with pytest.raises(InputError, match="embedding = 5"):
        data.load(str(tmp_path), embedding=5)
    with pytest.raises(InputError, match="target = ink"):
        data.load(str(tmp_path), target="ink")


def test_images_that_are_all_alike(tmp_path):
    write(tmp_path, images=images_bytes(np.full((12, 6, 6), 7, np.uint8)))
    with pytest.raises(InputError, match="all alike"):
        idx.load_folder(tmp_path)


def test_digits_as_patches():
    problem = digit_patches(20, 4, seed=3)
    assert (problem.N, problem.n, problem.D) == (20, 4, 16)
    with pytest.raises(InputError, match="samples = 1798: give at most 1797"):
        digit_patches(1798)
    with pytest.raises(InputError, match="tokens = 2: give one of"):
        digit_patches(4, 2)
