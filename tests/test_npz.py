"""gdconv.npz: a file that cannot be trusted is refused in one sentence, and never run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from gdconv import npz
from gdconv.errors import InputError
from gdconv.npz import read_arrays

X = np.random.default_rng(0).standard_normal((3, 2, 4))
y = np.random.default_rng(1).standard_normal((3, 2))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_is_asked_for_is_read(tmp_path, save):
    save(tmp_path / "mine.npz", X=X, y=y, scalar=2.5, text=np.array("a"))
    arrays = read_arrays(tmp_path / "mine.npz", ("y", "scalar", "text"))
    assert list(arrays) == ["y", "scalar", "text"]
    assert np.array_equal(arrays["y"], y)
    assert arrays["scalar"] == 2.5
    assert arrays["text"] == "a"


def npy_bytes(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def zip_of(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_missing(path):
    pass


def write_directory(path):
    path.mkdir()


def write_empty(path):
    path.write_bytes(b"")


def write_text(path):
    path.write_text("X,y\n1,2\n")


def write_truncated(path):
    np.savez(path, X=X, y=y)
    path.write_bytes(path.read_bytes()[:-40])


def write_corrupt(path):
    np.savez_compressed(path, X=X, y=y)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(bytes(content))


def write_flipped_byte(path):
    np.savez(path, X=X, y=y)
    content = bytearray(path.read_bytes())
    content[content.index(X.tobytes()) + 5] ^= 1
    path.write_bytes(bytes(content))


def write_single_array(path):
    with path.open("wb") as file:
        np.save(file, X)


def write_pickle(path):
    path.write_bytes(pickle.dumps({"X": X, "y": y}))


def write_object_array(path):
    np.savez(path, X=X.astype(object), y=y)


def write_no_y(path):
    np.savez(path, X=X, labels=y)


def write_short_member(path):
    zip_of(path, {"X.npy": npy_bytes(X)[:-16], "y.npy": npy_bytes(y)})


def write_garbage_member(path):
    zip_of(path, {"X.npy": b"not an array", "y.npy": npy_bytes(y)})


def write_huge_header(path):
    """One number that claims to be 10^12 of them: nothing of that size may be allocated."""
    claimed = npy_bytes(np.ones(1)).replace(b"(1,)", b"(1000000000000,)", 1)
    claimed = claimed.replace(b" " * 12 + b"\n", b"\n", 1)
    zip_of(path, {"X.npy": claimed, "y.npy": npy_bytes(y)})


def write_encrypted_flag(path):
    np.savez(path, X=X, y=y)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # the central directory
    content[entry + 8] |= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (write_missing, "no such file"),
        (write_directory, "this is no file"),
        (write_empty, "no complete .npz"),
        (write_text, "no complete .npz"),
        (write_truncated, "no complete .npz"),
        (write_corrupt, "no complete .npz"),
        (write_flipped_byte, "no complete .npz"),
        (write_single_array, "single .npy array"),
        (write_pickle, "no complete .npz"),
        (write_object_array, "X holds pickled Python objects"),
        (write_no_y, r"holds \[X, labels\] but no y"),
        (write_short_member, "no complete .npz"),
        (write_garbage_member, "no complete .npz"),
        (write_huge_header, "no complete .npz"),
        (write_encrypted_flag, "no complete .npz"),
    ],
)
def test_bad_files_are_named(tmp_path, write, said):
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(InputError, match=said) as caught:
        read_arrays(path, ("X", "y"), option="file")
    assert str(caught.value).startswith("file = ")
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = np.array([[[Trap()]]], dtype=object)
    np.savez(tmp_path / "trap.npz", X=trap, y=y)
    with pytest.raises(InputError, match="pickled"):
        read_arrays(tmp_path / "trap.npz", ("X",))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))  # the control: the trap works
    assert (tmp_path / "sprung").exists()


def test_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    bomb = npy_bytes(np.zeros((2**18, 2, 4)))
    zip_of(path, {"X.npy": bomb, "y.npy": npy_bytes(y)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < len(bomb) / 100
    monkeypatch.setattr(npz, "LARGEST_BYTES", len(bomb) - 1)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # reading would fail loudly
    with pytest.raises(InputError, match="X unpacks to more than 4 GiB"):
        read_arrays(path, ("X",))


def test_false_header_is_refused_before_it_allocates(tmp_path, monkeypatch):
    write_huge_header(tmp_path / "bad.npz")
    monkeypatch.setattr(np.lib.format, "read_array", None)  # reading would fail loudly
    with pytest.raises(InputError, match="no complete .npz"):
        read_arrays(tmp_path / "bad.npz")
