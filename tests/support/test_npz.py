"""gdconv.support.npz: a file that cannot be trusted is refused in one sentence, and never run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from gdconv.support import npz
from gdconv.support.errors import InputError
from gdconv.support.npz import read_arrays, read_members

X = np.random.default_rng(0).standard_normal((3, 2, 4))
y = np.random.default_rng(1).standard_normal((3, 2))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_is_asked_for_is_read(tmp_path, save):
    save(tmp_path / "mine.npz", scalar=2.5, y=y, none=y[:0], text=np.array("a"))
    arrays = read_arrays(tmp_path / "mine.npz", ("y", "scalar", "text", "none"))
    assert list(arrays) == ["y", "scalar", "text", "none"]
    assert np.array_equal(arrays["y"], y)
    assert arrays["none"].shape == (0, 2)
    assert arrays["scalar"] == 2.5
    assert arrays["text"] == "a"


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", [">f8", "<f4", "<i8", "|u1", ">i2", "<c16", "?"])
def test_every_layout_is_read_as_it_is(tmp_path, version, dtype):
    array = np.asfortranarray((4 * X).astype(dtype))
    zip_of(tmp_path / "a.npz", {"X.npy": npy_bytes(array, version=version)})
    found = read_arrays(tmp_path / "a.npz", ("X",))["X"]
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, array)


def npy_bytes(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def zip_of(path, members, compression=zipfile.ZIP_STORED):
    pairs = members.items() if isinstance(members, dict) else members
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of members with one name
        for name, content in pairs:
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
    np.savez(tmp_path / "trap.npz", X=trap)
    with pytest.raises(InputError, match="pickled"):
        read_arrays(tmp_path / "trap.npz", ("X",))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))  # the control: the trap works
    assert (tmp_path / "sprung").exists()


def test_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    bomb = npy_bytes(np.zeros((2**18, 2, 4)))
    zip_of(path, {"X.npy": bomb}, zipfile.ZIP_DEFLATED)
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


# Headers -----------------------------------------------------------------------------------------


def npy_with(header, data=b"", version=1):
    """An .npy member with a header of our own."""
    text = header if isinstance(header, bytes) else header.encode("latin1")
    width = 2 if version == 1 else 4
    prefix = b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little")
    return prefix + text + data


def described(shape, descr="'<f8'", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


HEADERS = {
    "no closing brace": "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), \n",
    "no closing quote": "{'descr': '<f8, 'fortran_order': False, 'shape': (1,), }\n",
    "no end of string": '{"descr": """<f8\n',
    "indented": "  x\n y\n",
    "empty": "",
    "nulls": "\0" * 64,
    "no dictionary": "[1, 2]\n",
    "calls": "__import__('os')\n",
    "escape": described("(1,)", r"'\d'"),
    "deep": "(" * 5000 + ")" * 5000,
    "minus": "-" * 9000 + "1",
    "65 bits": described("(18446744073709551617,)"),
    "64 bits": described("(9223372036854775808, 0)"),
    "digits": described("(" + "9" * 5000 + ",)"),
    "product": described("(4294967296, 4294967296, 4294967296)"),
    "true": described("(True,)"),
    "true twice": described("(1, True)"),
    "false": described("(False,)"),
    "negative": described("(-1,)"),
    "negative pair": described("(-1, -1)"),
    "real": described("(1.0,)"),
    "list": described("[1]"),
    "text": described("('1',)"),
    "no tuple": described("1"),
    "none": described("None"),
    "other order": described("(1,)", order="3"),
    "other type": described("(1,)", "'<q9'"),
    "object": described("(8,)", "[('a', '|b1', (2,)), 3]"),
    "field": described("(1,)", "[('a', '<f8'), ('a', '<f8')]"),
    "no size": described("(8,)", "'<U0'"),
    "void": described("(1000000000000,)", "'|V0'"),
    "missing key": "{'descr': '<f8', 'shape': (1,), }\n",
    "key too many": "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'x': 1}\n",
    "two numbers": described("(2,)"),
    "no numbers": described("(0,)"),
    "four bytes": described("(1,)", "'<f4'"),
}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("name", HEADERS)
def test_odd_headers(tmp_path, name, version):
    content = npy_with(HEADERS[name], np.ones(1).tobytes(), version)
    zip_of(tmp_path / "a.npz", {"X.npy": content, "y.npy": npy_bytes(y)})
    with pytest.raises(InputError, match=r"this is no complete \.npz file; save it again"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", ["(1,)", "(1L,)"])  # as Python 2 wrote it: without a warning
def test_the_control_of_the_headers(tmp_path, shape):
    for version in (1, 2) if "L" in shape else (1, 2, 3):
        zip_of(tmp_path / "a.npz", {"X.npy": npy_with(described(shape), bytes(8), version)})
        assert read_arrays(tmp_path / "a.npz", ("X",))["X"].tolist() == [0.0]


MAGIC = b"\x93NUMPY"


@pytest.mark.parametrize("content", [b"", MAGIC[:1], MAGIC, MAGIC + b"\x09\0ab", MAGIC + b"\1"])
def test_no_header_at_all(tmp_path, content):
    zip_of(tmp_path / "a.npz", {"X.npy": content, "y.npy": npy_bytes(y)})
    with pytest.raises(InputError, match=r"no complete \.npz"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(("length", "whole"), [(10_000, True), (10_001, False), (2**26, False)])
def test_a_long_header_is_not_read(tmp_path, length, whole):
    """64 MiB of blanks take a few kilobytes in the archive."""
    text = described("(1,)").encode().rstrip(b"\n").ljust(length - 1) + b"\n"
    content = npy_with(text, bytes(8), 2)
    zip_of(tmp_path / "a.npz", {"X.npy": content}, zipfile.ZIP_DEFLATED)
    if whole:
        assert read_arrays(tmp_path / "a.npz", ("X",))["X"].shape == (1,)
        return
    del content, text
    tracemalloc.start()
    with pytest.raises(InputError, match=r"no complete \.npz"):
        read_arrays(tmp_path / "a.npz", ("X",))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("change", [-8, -1, 1, 8])
def test_a_member_holds_what_its_header_says(tmp_path, change):
    content = npy_bytes(X)
    content = content[:change] if change < 0 else content + bytes(change)
    zip_of(tmp_path / "a.npz", {"X.npy": content})
    with pytest.raises(InputError, match=r"no complete \.npz"):
        read_arrays(tmp_path / "a.npz", ("X",))


def test_the_largest_array_is_read(tmp_path, monkeypatch):
    content = npy_bytes(X)
    zip_of(tmp_path / "a.npz", {"X.npy": content})
    assert npz.LARGEST_BYTES == 4294967296
    monkeypatch.setattr(npz, "LARGEST_BYTES", len(content))
    assert np.array_equal(read_arrays(tmp_path / "a.npz", ("X",))["X"], X)
    monkeypatch.setattr(npz, "LARGEST_BYTES", len(content) - 1)
    with pytest.raises(InputError, match="X unpacks to more than 4 GiB; give fewer samples"):
        read_arrays(tmp_path / "a.npz", ("X",))


# Names -------------------------------------------------------------------------------------------

ALL = ("X", "y", "W_Q", "W_K", "W_V", "W_O")


@pytest.mark.parametrize(
    ("members", "names", "option", "said"),
    [
        (("X", "y", "mask"), ALL[:2], "data", "it holds mask, which nothing reads; save it"),
        (("X", "y", "x"), ALL[:2], "data", "holds x, which nothing reads; did you mean X; save"),
        (("X", "Y"), ALL[:2], "data", r"it holds Y: did you mean y; save it again with numpy.sav"),
        (("x", "Y"), ALL[:2], "data", "it holds x: did you mean X; save"),
        (("X", "y", "W_Q"), ALL[:2], "data", "holds weights, W_Q; give such a file to --problem"),
        (ALL, ALL[:2], "data", "it holds weights, W_Q; give such a file to --problem"),
        (("X", "y", "w_O"), ALL[:2], "data", "it holds weights, w_O; give such a file to --pro"),
        ((*ALL[:5], "w_O"), ALL, "problem", r"holds \[W_K, W_Q, W_V, X, w_O, y\] but no W_O"),
        (("X", "y", "W_q", *ALL[3:]), ALL, "problem", "it holds W_q: did you mean W_Q; save it"),
        (("X", "y", "WQ", *ALL[3:]), ALL, "problem", "it holds WQ: did you mean W_Q; save it"),
        ((*ALL, "W_q"), ALL, "problem", "it holds W_q, which nothing reads; did you mean W_Q; s"),
        ((*ALL, "mask"), ALL, "problem", "it holds mask, which nothing reads; save it again"),
        (ALL[1:], ALL, "problem", r"holds \[W_K, W_O, W_Q, W_V, y\] but no X; save it again"),
        (("a", "X"), ("X",), "data", "it holds a, which nothing reads; save it again"),
        ((), ("X",), "data", r"it holds \[\] but no X; save it again with numpy\.savez\(path, X=X"),
        (("folder/X",), ("X",), "data", "it holds .?folder/X"),
    ],
)
def test_names_that_nobody_reads_are_refused(tmp_path, members, names, option, said):
    zip_of(tmp_path / "a.npz", {f"{name}.npy": npy_bytes(X) for name in members})
    with pytest.raises(InputError, match=said) as caught:
        read_arrays(tmp_path / "a.npz", names, option)
    assert caught.value.field == option
    assert all(f"{name}={name}" in str(caught.value) for name in names if "weights" not in said)


def test_only_six_names_are_listed(tmp_path):
    members = {f"{c}{i}.npy": npy_bytes(X) for i, c in enumerate("hgfedcba")}
    zip_of(tmp_path / "a.npz", members)
    with pytest.raises(InputError, match=r"holds \[a7, b6, c5, d4, e3, f2\] but no X"):
        read_arrays(tmp_path / "a.npz", ("X",))


@pytest.mark.parametrize("second", ["X.npy", "X"])
def test_one_name_twice_is_refused(tmp_path, second):
    zip_of(tmp_path / "a.npz", [("X.npy", npy_bytes(X)), (second, npy_bytes(X + 1))])
    with pytest.raises(InputError, match="it holds X twice; save it again"):
        read_arrays(tmp_path / "a.npz", ("X",))


@pytest.mark.parametrize("names", [("X",), ("X", "y")])
def test_a_member_without_its_ending(tmp_path, names):
    members = {"X": npy_bytes(X), "y.npy": npy_bytes(y)}
    zip_of(tmp_path / "a.npz", {k: v for k, v in members.items() if k[0] in names})
    with pytest.raises(InputError, match=r"its member X is no \.npy array; save it again"):
        read_arrays(tmp_path / "a.npz", names)


@pytest.mark.parametrize(
    ("members", "names", "said"),
    [
        (("{}.npy", "{}"), (), "it holds {} twice"),
        (("{}.npy",), ("{}x",), "it holds {}: did you mean"),
        (("{}.npy",), ("X",), r"it holds \[{}\] but no X"),
        (("X.npy", "{}.npy"), ("X",), "it holds {}, which nothing reads"),
        (("{}",), ("{}",), "its member {} is no"),
    ],
)
@pytest.mark.parametrize("length", [40, 41])
def test_a_long_name_is_shown_in_forty_characters(members, names, said, length):
    name = "n" * length
    shown = name if length == 40 else "n" * 25 + r"\.\.\." + "n" * 12
    filled = [[text.format(name) for text in texts] for texts in (members, names)]
    with pytest.raises(npz._RefusedError, match=f"^{said.format(shown)}"):
        npz._require_names(filled[0], tuple(filled[1]), "data", "")


def test_the_first_of_several_is_named(tmp_path):
    zip_of(tmp_path / "a.npz", [(f"{n}.npy", npy_bytes(X)) for n in ("X", "y", "z", "y", "X", "z")])
    with pytest.raises(InputError, match="it holds X twice"):
        read_arrays(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"it holds \[\] but no X; save"):
        read_arrays(tmp_path / "b.npz", ("X", "y", "z"))


def test_the_members_of_a_file_of_ours(tmp_path):
    np.savez(tmp_path / "a.npz", u=X, v=y)
    found = read_members(tmp_path / "a.npz")
    assert list(found) == ["u", "v"]
    assert np.array_equal(found["u"], X)
    np.savez(tmp_path / "a.npz", u=X.astype(object))
    with pytest.raises(ValueError, match=r"^a\.npz: u holds pickled Python objects$"):
        read_members(tmp_path / "a.npz")


@pytest.mark.parametrize("descr", ["'<U0'", "'|V0'"])
def test_numbers_of_no_size_are_refused(tmp_path, descr):
    zip_of(tmp_path / "a.npz", {"X.npy": npy_with(described("(8,)", descr))})
    with pytest.raises(InputError, match=r"no complete \.npz"):
        read_arrays(tmp_path / "a.npz", ("X",))


def test_an_axis_may_be_as_long_as_numpy_allows(tmp_path):
    zip_of(tmp_path / "a.npz", {"X.npy": npy_with(described(f"({2**63 - 1}, 0)", "'|u1'"))})
    assert read_arrays(tmp_path / "a.npz", ("X",))["X"].shape == (2**63 - 1, 0)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", X=X)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match="it may not be read; change its permissions"):
        read_arrays(tmp_path / "a.npz", ("X",))


def mutated(sound, rng):
    """One to three changes: a byte set, some cut out, some put in."""
    content = bytearray(sound)
    for _ in range(rng.integers(1, 4)):
        place, length = rng.integers(len(content)), rng.integers(1, 20)
        kind = rng.integers(3)
        if kind == 0:
            content[place] = rng.integers(256)
        elif kind == 1:
            del content[place : place + length]
        else:
            content[place:place] = rng.bytes(length)
    return bytes(content)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_mutated_file_is_one_sentence_or_the_same_numbers(tmp_path, save):
    rng = np.random.default_rng(0)
    save(tmp_path / "a.npz", X=X, y=y)
    for _ in range(300):
        (tmp_path / "b.npz").write_bytes(mutated((tmp_path / "a.npz").read_bytes(), rng))
        with contextlib.suppress(InputError):
            arrays = read_arrays(tmp_path / "b.npz")
            assert np.array_equal(arrays["X"], X)  # a byte that nobody reads was changed
            assert np.array_equal(arrays["y"], y)
