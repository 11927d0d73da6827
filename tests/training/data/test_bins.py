import dataclasses
import os

import numpy as np
import pytest

from optimx.training.data import (
    bins,
    load_dataset,
    shards,
    training_batch,
    validation_batches,
)
from optimx.training.data.bins import read_bins
from optimx.training.data.formats import make_header, read_part
from optimx.training.data.shards import Shards
from optimx.training.data.tokenizer import train_tokenizer
from optimx.training.errors import InputError
from optimx.training.sections import Data

U2, U4 = np.dtype("<u2"), np.dtype("<u4")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("OPTIMX_CACHE", str(folder))
    return folder


def header(magic, version, count):
    """As llm.c's `write_datafile` lays it out."""
    words = np.zeros(256, np.int32)
    words[0], words[1], words[2] = magic, version, count
    return words.tobytes()


def tokens(count, seed=0, high=50257):
    return np.random.default_rng(seed).integers(0, high, count)


def llmc(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = np.asarray(content, np.uint16).tobytes()
    path.write_bytes(header(20240520, 1, len(content)) + text)
    return path


def llama(path, content):
    text = np.asarray(content, np.uint32).tobytes()
    path.write_bytes(header(20240801, 7, len(content)) + text)
    return path


def nanogpt(path, content, dtype=np.uint16):
    path.write_bytes(np.asarray(content, dtype).tobytes())
    return path


def data(path, **more):
    return Data(source="bin", path=str(path), context=8, **more)


@pytest.mark.parametrize("write", [llmc, llama, nanogpt])
def test_the_three_kinds_of_file_are_recognized(tmp_path, write):
    content = tokens(5000)
    part = read_part(write(tmp_path / "a.bin", content))
    np.testing.assert_array_equal(Shards([part])[:], content)
    assert part.dtype == (U4 if write is llama else U2)


def test_a_headerless_file_of_uint32_is_said(tmp_path):
    content = tokens(5000, high=128_256)
    path = nanogpt(tmp_path / "a.bin", content, np.uint32)
    np.testing.assert_array_equal(Shards([read_part(path, "uint32")])[:], content)
    with pytest.raises(InputError, match=r'looks like uint32 .*data\.dtype = "uint32"'):
        read_part(path)
    assert read_part(path, "uint16").count == 10_000


def test_our_headers_are_those_of_llmc():
    assert make_header(77, U2) == header(20240520, 1, 77)
    assert make_header(77, U4) == header(20240801, 7, 77)


@pytest.mark.parametrize(
    ("content", "dtype", "message"),
    [
        (b"", "", "is empty"),
        (b"\1" * 7, "", "has 7 bytes, no multiple of 2"),
        (b"\1" * 6, "uint32", "has 6 bytes, no multiple of 4"),
        (header(20240520, 1, 5)[:600], "", "truncated: 600 bytes, its header .* 1024"),
        (
            header(20240520, 1, 5) + b"\1" * 8,
            "",
            "is truncated: its header counts 5 tokens, which makes 1034 bytes, it has "
            "1032",
        ),
        (header(20240520, 1, 5) + b"\1" * 12, "", "is too long: .* 1034 .* 1036"),
        (header(20240520, 1, 0), "", "counts 0 tokens, must be at least 1"),
        (header(20240520, 1, -3), "", "counts -3 tokens, must be at least 1"),
        (
            header(20240520, 2, 1) + b"\1" * 2,
            "",
            "20240520 version 2 is no token file; it must be 20240520 version 1 or "
            "20240801 version 7",
        ),
        (
            header(20240522, 1, 1) + b"\1" * 2,
            "",
            "magic 20240522 version 1 is no token",
        ),
        (
            header(20240520, 1, 1) + b"\1" * 2,
            "uint32",
            r"data\.dtype = 'uint32': .*a\.bin has a header, which says uint16",
        ),
        (b"\x93NUMPY\1\0" + b"\0" * 64, "", "is a NumPy file, not a token file"),
        (b"PK\3\4" + b"\0" * 64, "uint16", "is a zip archive"),
        ("ein schöner Tag ".encode() * 300, "", "is text, not a token file"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, dtype, message):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_bins(data(path, dtype=dtype), 50257)
    assert str(path) in str(caught.value)


def test_tokens_of_few_kinds_are_no_text_and_no_uint32(tmp_path):
    """nanoGPT's characters, a tiny vocabulary, and a single token again and again."""
    for high in (2, 65, 300):
        path = nanogpt(tmp_path / f"{high}.bin", tokens(4000, high=high))
        assert read_part(path).count == 4000


def test_a_token_beyond_the_vocabulary_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bins, "_CHUNK", 64)
    content = tokens(1000, high=300)
    content[777] = 4096
    path = llmc(tmp_path / "a.bin", content)
    with pytest.raises(InputError) as caught:
        read_bins(data(path), 4096)
    assert str(caught.value) == (
        f"{path}: token 777 is 4096, must be below model.vocab = 4096"
    )
    read_bins(data(path), 4097)


def test_files_are_scanned_once_and_again_when_they_change(tmp_path, monkeypatch):
    scanned = []
    scan = bins._scan
    monkeypatch.setattr(bins, "_scan", lambda p: scanned.append(p.path.name) or scan(p))
    one, two = (llmc(tmp_path / f"{i}.bin", tokens(100, i, 300)) for i in range(2))
    for _ in range(2):
        read_bins(data(tmp_path), 300)
    assert scanned == ["0.bin", "1.bin"]
    content = tokens(100, high=300)
    content[0] = 300
    llmc(two, content)
    os.utime(two, ns=(0, 1))  # a clock too coarse to tell would hide the change
    with pytest.raises(InputError, match="token 0 is 300"):
        read_bins(data(tmp_path), 300)
    assert scanned == ["0.bin", "1.bin", "1.bin"]
    read_bins(data(one), 2**16)
    assert len(scanned) == 3


def many(folder, sizes=(50, 1, 7, 200, 64), write=llmc):
    """Shards, and what they hold as one array."""
    folder.mkdir(exist_ok=True)
    contents = [tokens(size, i) for i, size in enumerate(sizes)]
    paths = [write(folder / f"{i}.bin", c) for i, c in enumerate(contents)]
    return Shards([read_part(path) for path in paths]), np.concatenate(contents)


def test_shards_are_their_concatenation(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN_MAPS", 2)  # fewer than there are files
    joined, plain = many(tmp_path)
    assert len(joined) == len(plain) == 322
    generator = np.random.default_rng(0)
    spans = [(0, 322), (49, 52), (50, 58), (321, 400), (322, 330), (9, 3), (-5, None)]
    spans += [tuple(generator.integers(-10, 340, 2)) for _ in range(200)]
    for start, stop in spans:
        np.testing.assert_array_equal(joined[start:stop], plain[start:stop])
    with pytest.raises(ValueError, match="contiguous, got step 2"):
        joined[::2]


@pytest.mark.parametrize("at", [0, 1, 49, 50, 51, 57, 100, 322])
def test_shards_are_parted_anywhere(tmp_path, at):
    joined, plain = many(tmp_path)
    before, after = joined.parted(at)
    assert (len(before), len(after)) == (at, 322 - at)
    np.testing.assert_array_equal(before[:], plain[:at])
    np.testing.assert_array_equal(after[:], plain[at:])
    np.testing.assert_array_equal(after[3:60], plain[at:][3:60])


def test_shards_of_two_types_are_joined(tmp_path):
    parts = [llmc(tmp_path / "0.bin", [1, 2]), llama(tmp_path / "1.bin", [70_000])]
    assert Shards(map(read_part, parts))[:].tolist() == [1, 2, 70_000]


def test_batches_of_shards_are_those_of_the_concatenation(tmp_path):
    joined, plain = many(tmp_path)
    for step in range(20):
        how = {"seed": 3, "step": step, "shape": (2, 4), "context": 60}
        np.testing.assert_array_equal(
            training_batch(joined, **how), training_batch(plain, **how)
        )
    how = {"batches": 3, "batch_size": 4, "context": 60}
    np.testing.assert_array_equal(
        validation_batches(joined, **how), validation_batches(plain, **how)
    )


def test_a_process_reads_its_own_rows_only(tmp_path, monkeypatch):
    joined, _ = many(tmp_path)
    read = []
    getitem = Shards.__getitem__
    monkeypatch.setattr(
        Shards, "__getitem__", lambda self, w: read.append(w) or getitem(self, w)
    )
    for draw, how in (
        (training_batch, {"seed": 3, "step": 5, "shape": (3, 8)}),
        (validation_batches, {"batches": 3, "batch_size": 8}),
    ):
        whole = draw(joined, context=20, **how)
        read.clear()
        sizes = [slice(0, 2), slice(2, 5), slice(5, 8)]
        pieces = [draw(joined, context=20, rows=rows, **how) for rows in sizes]
        assert [piece.shape for piece in pieces] == [(3, n, 21) for n in (2, 3, 3)]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
        assert len(read) == 24


def held_out(folder, **more):
    train, validation, _ = read_bins(data(folder, **more), 2**16)
    names = [[part.path.name for part in side.parts] for side in (train, validation)]
    return (*names, len(train), len(validation))


def test_files_named_val_are_held_out(tmp_path):
    for i in range(3):
        llmc(tmp_path / f"fineweb_train_00000{i}.bin", tokens(10))
    llmc(tmp_path / "fineweb_val_000000.bin", tokens(5))
    llmc(tmp_path / "interval.bin", tokens(10))
    (tmp_path / "tokenizer.json").write_text("not looked at")
    names = [f"fineweb_train_00000{i}.bin" for i in range(3)]
    expected = ([*names, "interval.bin"], ["fineweb_val_000000.bin"], 40, 5)
    assert held_out(tmp_path) == expected
    assert held_out(tmp_path / "*.bin") == expected


def test_nanogpts_two_files_and_folders_named_val(tmp_path):
    for name in ("train", "val"):
        nanogpt(tmp_path / f"{name}.bin", tokens(300))
    assert held_out(tmp_path) == (["train.bin"], ["val.bin"], 300, 300)
    other = tmp_path / "other"
    for name in ("train/0.bin", "val/0.bin"):
        llmc(other / name, tokens(20))
    assert held_out(other) == (["0.bin"], ["0.bin"], 20, 20)


def test_held_out_files_can_be_said(tmp_path):
    for i in range(3):
        llmc(tmp_path / f"{i}.bin", tokens(10))
    beside = llmc(tmp_path / "elsewhere" / "held", tokens(4))
    assert held_out(tmp_path / "*.bin", validation_path=str(tmp_path / "[12].bin")) == (
        ["0.bin"],
        ["1.bin", "2.bin"],
        10,
        20,
    )
    assert held_out(tmp_path, validation_path=str(beside))[1:] == (["held"], 30, 4)
    with pytest.raises(InputError, match="every file is held out, none is left"):
        held_out(tmp_path / "1.bin", validation_path=str(tmp_path))
    with pytest.raises(InputError, match=r"data\.validation_path = .*: names no file"):
        held_out(tmp_path, validation_path=str(tmp_path / "absent"))


def test_without_such_files_the_end_of_the_tokens_is_held_out(tmp_path):
    _, plain = many(tmp_path)
    train, validation, _ = read_bins(data(tmp_path, validation=0.25), 2**16)
    np.testing.assert_array_equal(train[:], plain[:242])
    np.testing.assert_array_equal(validation[:], plain[242:])


def test_a_folder_without_token_files(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"data\.path = .*: holds no \.bin file"):
        read_bins(data(tmp_path), 300)


def sha256(folder, **more):
    return read_bins(data(folder, **more), 2**16)[2]


def test_the_identity_is_of_names_sizes_and_contents(tmp_path):
    folders = [tmp_path / name for name in "abcde"]
    for folder in folders:
        many(folder)
    (folders[2] / "4.bin").rename(folders[2] / "5.bin")
    llmc(folders[3] / "0.bin", tokens(50, seed=99))
    (folders[4] / "1.bin").unlink()
    found = [sha256(folder) for folder in folders]
    assert found[0] == found[1]
    assert len(set(found)) == 4
    assert len(found[0]) == 64


def test_the_identity_samples_large_files(tmp_path):
    size = 2**22
    path = nanogpt(tmp_path / "a.bin", tokens(size // 2))
    content, before = bytearray(path.read_bytes()), sha256(path)
    for at, seen in ((0, True), (size - 1, True), (2**16 + 5, False)):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert (sha256(path) != before) is seen
    small = nanogpt(tmp_path / "b.bin", tokens(2**19 - 7))
    content, before = small.read_bytes(), sha256(small)
    for at in range(0, len(content), 50_001):
        small.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert sha256(small) != before


def test_other_files_than_expected_are_an_error(tmp_path):
    many(tmp_path, write=nanogpt)
    chosen = data(tmp_path)
    chosen = dataclasses.replace(chosen, sha256=sha256(tmp_path))
    read_bins(chosen, 2**16)
    nanogpt(tmp_path / "3.bin", tokens(100))
    with pytest.raises(InputError, match="not the files of that run"):
        read_bins(chosen, 2**16)


@pytest.mark.parametrize("opened", [False, True])
def test_a_file_that_shrinks_under_the_run_is_an_error(tmp_path, opened):
    """Reading the missing pages of its map would kill the process."""
    joined, plain = many(tmp_path, sizes=(50_000, 40_000))
    if opened:
        np.testing.assert_array_equal(joined[49_000:51_000], plain[49_000:51_000])
    os.truncate(tmp_path / "1.bin", 1024)
    np.testing.assert_array_equal(joined[:50_000], plain[:50_000])
    with pytest.raises(
        InputError, match=r"1\.bin: shrank since the run began: it had 81024 .* 1024$"
    ):
        joined[49_000:51_000]
    os.truncate(tmp_path / "0.bin", 0)
    with pytest.raises(InputError, match=r"0\.bin: (shrank|cannot be read)"):
        joined[:10]


def test_a_file_that_goes_away_is_an_error(tmp_path):
    joined, _ = many(tmp_path)
    (tmp_path / "3.bin").unlink()
    with pytest.raises(InputError, match=r"3\.bin: cannot be read: No such file"):
        joined[:]


def test_a_tokenizer_is_optional_and_found_where_prepare_left_it(tmp_path):
    llmc(tmp_path / "0.bin", tokens(100, high=257))
    chosen = data(tmp_path)
    assert load_dataset(chosen, 300).tokenizer is None
    tokenizer = train_tokenizer(["abc"], 257)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    assert load_dataset(chosen, 300).tokenizer is None
    given = dataclasses.replace(chosen, tokenizer=str(path))
    assert load_dataset(given, 300).tokenizer.to_str() == tokenizer.to_str()
    (tmp_path / "manifest.json").write_text("{}")
    assert load_dataset(chosen, 300).tokenizer.to_str() == tokenizer.to_str()
    with pytest.raises(InputError, match=r"tokenizer\.json': has 257 entries"):
        load_dataset(chosen, 256)
