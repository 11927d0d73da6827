import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from optimx.training.data import documents, load_dataset, shard_writer
from optimx.training.data.documents import Files
from optimx.training.data.formats import read_part
from optimx.training.data.prepare import Preparation, prepare
from optimx.training.data.prepare_report import PrepareReport
from optimx.training.data.shards import Shards
from optimx.training.data.tokenizer import encode, load_tokenizer, train_tokenizer
from optimx.training.errors import InputError
from optimx.training.sections import Data
from training.small import write_corpus

ROOT = Path(__file__).parents[3]


def texts(folder, count=9):
    """Documents of very different lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        text = "".join(f"line {j} of {i}\n" for j in range(1 + 40 * (i % 3)))
        (folder / f"{i}.txt").write_text(text + "naïve ☕")
    return folder


@pytest.fixture
def byte_tokenizer(tmp_path):
    path = tmp_path / "bytes.json"
    path.write_text(train_tokenizer([""], 257).to_str())
    return path


def run(source, out, is_hub=False, **more):
    """Prepares, and returns the manifest and what was shown."""
    where = {"hub" if is_hub else "source": str(source)}
    if "tokenizer" not in more:
        where["vocab"] = 300
    console = Console(file=io.StringIO())
    with PrepareReport(console) as report:
        manifest = prepare(Preparation(out, **(where | more)), report)
    return manifest, console.file.getvalue()


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def tokens(out, side):
    parts = [read_part(path) for path in sorted(out.glob(f"{side}_*.bin"))]
    return Shards(parts)[:]


def test_the_tokens_are_those_of_the_documents(tmp_path):
    source, out = texts(tmp_path / "text"), tmp_path / "out"
    manifest, shown = run(source, out, shard_tokens=500, validation=0.3)
    tokenizer = load_tokenizer(out / "tokenizer.json")
    assert tokenizer.get_vocab_size() == 300
    sides = {False: [], True: []}
    for piece in Files(str(source), 0.3).pieces():
        sides[piece.held_out].append(piece.text)
    assert len(sides[False]) + len(sides[True]) == 9
    for side, held_out in (("train", False), ("val", True)):
        np.testing.assert_array_equal(
            tokens(out, side), encode(tokenizer, sides[held_out])
        )
    counts = [shard.tokens for shard in manifest.shards["train"]]
    assert len(counts) > 2
    assert set(counts[:-1]) == {500}
    assert 0 < counts[-1] <= 500
    assert "train_000001.bin: 500 tokens" in shown
    assert f"{out} is complete: " in shown


def test_the_split_is_the_trainers(tmp_path):
    """Prepared or not, the same files are held out and the same tokenizer trained."""
    source, out = write_corpus(tmp_path / "text"), tmp_path / "out"
    run(source, out, validation=0.3)
    text = Data(source="text", path=str(source), validation=0.3, context=8)
    bins = Data(source="bin", path=str(out), context=8)
    plain, prepared = load_dataset(text, 300), load_dataset(bins, 300)
    np.testing.assert_array_equal(prepared.train[:], plain.train)
    np.testing.assert_array_equal(prepared.validation[:], plain.validation)
    assert prepared.tokenizer.to_str() == plain.tokenizer.to_str()


def test_the_manifest_says_what_there_is(tmp_path):
    source, out = texts(tmp_path / "text"), tmp_path / "out"
    run(source, out, shard_tokens=500, validation=0.3)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is True
    for side in ("train", "val"):
        shards = manifest["shards"][side]
        assert manifest["tokens"][side] == len(tokens(out, side))
        for shard in shards:
            digest = hashlib.sha256((out / shard["file"]).read_bytes()).hexdigest()
            assert shard["sha256"] == digest
    names = [shard["file"] for side in manifest["shards"].values() for shard in side]
    assert {"manifest.json", "tokenizer.json", *names} == set(content(out))
    assert manifest["source"]["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in source.iterdir()
    }
    digest = hashlib.sha256((out / "tokenizer.json").read_bytes()).hexdigest()
    assert manifest["tokenizer_sha256"] == digest
    assert manifest["options"]["--shard-tokens"] == 500


def test_a_larger_vocabulary_makes_uint32(tmp_path):
    source, out = texts(tmp_path / "text"), tmp_path / "out"
    tokenizer = train_tokenizer([""], 257)
    tokenizer.add_tokens([f"<{i}>" for i in range(70_000)])
    (tmp_path / "t.json").write_text(tokenizer.to_str())
    (source / "z.txt").write_text("<69999>")
    run(source, out, tokenizer=tmp_path / "t.json", validation=0.0)
    (path,) = out.glob("*.bin")
    assert read_part(path).dtype == np.uint32
    assert tokens(out, "train")[-2:].tolist() == [257 + 69_999, 0]


def test_a_long_file_comes_in_pieces_that_end_with_lines(
    tmp_path, monkeypatch, byte_tokenizer
):
    monkeypatch.setattr(documents, "_PIECE", 64)
    text = "☕é" * 100 + "\n" + "".join(f"line {i}\n" for i in range(200)) + "end"
    path = tmp_path / "long.txt"
    path.write_text(text)
    source = Files(str(path), 0.0)
    pieces = list(source.pieces())
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert sum(piece.size for piece in pieces) == source.total == len(text.encode())
    assert max(piece.size for piece in pieces) <= 2 * 64 + 4
    for i, piece in enumerate(pieces):
        assert list(source.pieces(piece.position)) == pieces[i:]
        assert source.before(piece.position) == sum(p.size for p in pieces[:i])
    run(path, tmp_path / "out", tokenizer=byte_tokenizer, validation=0.0)
    tokenizer = load_tokenizer(byte_tokenizer)
    expected = encode(tokenizer, [text])  # one end of text, and each byte a token
    np.testing.assert_array_equal(tokens(tmp_path / "out", "train"), expected)


def test_the_end_of_a_single_file_is_held_out_from_a_line_on(tmp_path):
    path = tmp_path / "only.txt"
    path.write_text("".join(f"{i:09}\n" for i in range(100)))
    train, held_out = Files(str(path), 0.095).pieces()
    assert (train.held_out, held_out.held_out) == (False, True)
    assert held_out.text.startswith("000000091\n")
    assert train.text + held_out.text == path.read_text()
    path.write_text("☕" * 100)
    train, held_out = Files(str(path), 0.1).pieces()
    assert (train.text, held_out.text) == ("☕" * 90, "☕" * 10)


def test_the_standard_library_can_be_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(
        documents.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "lib")}
    )
    (tmp_path / "lib" / "test").mkdir(parents=True)
    (tmp_path / "lib" / "a.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9")
    (tmp_path / "lib" / "b.py").write_text("import b\n" * 30)
    (tmp_path / "lib" / "test" / "c.py").write_text("left out")
    manifest, _ = run("stdlib", tmp_path / "out", validation=0.0)
    text = load_tokenizer(tmp_path / "out" / "tokenizer.json").decode(
        tokens(tmp_path / "out", "train").tolist()
    )
    assert text == "# -*- coding: latin-1 -*-\n# é" + "import b\n" * 30
    assert manifest.source["kind"] == "stdlib"


PREPARE = """
import sys, time
from optimx.training.data import shard_writer
finish = shard_writer.ShardWriter.finish
def slow(self):
    finish(self)
    time.sleep(0.05)  # so that the signal falls between any two shards
shard_writer.ShardWriter.finish = slow
from optimx.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(*words, **how):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, "prepare", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **how,
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Words of the command but for the folder, and what it makes undisturbed."""
    folder = tmp_path_factory.mktemp("large")
    source = texts(folder / "text", 30)
    words = (source, "--vocab", 300, "--shard-tokens", 700, "--validation", 0.3)
    process = start(*words, "--out", folder / "out")
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    made = content(folder / "out")
    assert len(made) > 10
    return words, made


def test_two_preparations_of_one_folder(tmp_path, large):
    """The second is a real process too; the first ends as if it had been alone."""
    words, whole = large
    out = tmp_path / "out"
    first = start(*words, "--out", out)
    while not list(out.glob("*.bin")):
        assert first.poll() is None, first.communicate()
    first.send_signal(signal.SIGSTOP)
    second = start(*words, "--out", out)
    _, err = second.communicate(timeout=100)
    first.send_signal(signal.SIGCONT)
    line = "another optimx prepare is writing there at this moment"
    assert (second.returncode, err) == (2, f"optimx: {out}: {line}\n")
    assert first.communicate(timeout=100)[1] == ""
    assert content(out) == whole


def test_a_killed_preparation_continues_to_the_same_bytes(tmp_path, large):
    """Real processes, killed at three different moments."""
    words, whole = large
    out = tmp_path / "out"
    kept = {}
    for count in (1, 3, 7):
        process = start(*words, "--out", out)
        while len(list(out.glob("*.bin"))) < count:
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not json.loads((out / "manifest.json").read_text())["complete"]
        for name, stamp in kept.items():
            assert (out / name).stat().st_mtime_ns == stamp
        shards = json.loads((out / "manifest.json").read_text())["shards"]
        names = [shard["file"] for side in shards.values() for shard in side]
        kept = {name: (out / name).stat().st_mtime_ns for name in names}
    (out / ".val_000099.bin.partial").write_bytes(b"half a shard")
    (out / ".manifest.json.partial").write_bytes(b"half a manifest")
    process = start(*words, "--out", out)
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    assert content(out) == whole
    for name, stamp in kept.items():
        assert (out / name).stat().st_mtime_ns == stamp
    process = start(*words, "--out", out)
    shown, _ = process.communicate(timeout=100)
    assert f"{out} is complete already" in shown


@pytest.mark.parametrize("stop", range(1, 12, 2))
def test_stopped_after_any_shard_it_continues_to_the_same_bytes(
    tmp_path, monkeypatch, stop
):
    source = texts(tmp_path / "text")
    how = {"shard_tokens": 150, "validation": 0.4}
    run(source, tmp_path / "whole", **how)
    finish = shard_writer.ShardWriter.finish
    finished = []

    def stopping(self):
        finish(self)
        finished.append(self)
        if len(finished) == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.ShardWriter, "finish", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out", **how)
    assert list((tmp_path / "out").glob(".*")) == []
    run(source, tmp_path / "out", **how)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["train_000001.bin", "val_000000.bin"])
def test_shards_that_are_gone_or_cut_are_made_again(tmp_path, lost):
    source, out = texts(tmp_path / "text"), tmp_path / "out"
    how = {"shard_tokens": 300, "validation": 0.4}
    run(source, out, **how)
    whole = content(out)
    os.truncate(out / lost, 1030)
    run(source, out, **how)
    assert content(out) == whole


def test_other_work_in_the_same_folder_is_refused(tmp_path, byte_tokenizer):
    source, out = texts(tmp_path / "text"), tmp_path / "out"
    run(source, out, shard_tokens=300)
    before = content(out)
    for more, message in (
        ({"shard_tokens": 301}, "begun with --shard-tokens = 300, now it is 301"),
        ({"validation": 0.2}, "begun with --validation = 0.1, now it is 0.2"),
        ({"vocab": 301}, "begun with --vocab = 300, now it is 301"),
        ({"tokenizer": byte_tokenizer}, "begun with --tokenizer = ''"),
    ):
        with pytest.raises(InputError, match=message):
            run(source, out, **({"shard_tokens": 300} | more))
    (source / "3.txt").write_text("changed")
    with pytest.raises(InputError, match=r"other documents: 3\.txt is not what it was"):
        run(source, out, shard_tokens=300)
    assert content(out) == before


def test_a_folder_of_others_is_left_alone(tmp_path):
    source, out = texts(tmp_path / "text"), tmp_path / "out"
    out.mkdir()
    (out / "train_000000.bin").write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"holds train_000000\.bin, and no manifest"):
        run(source, out)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is not the manifest of optimx prepare"):
        run(source, out)
    assert (out / "train_000000.bin").read_bytes() == b"somebody's"


def limit_file_size():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on file sizes")
def test_a_limit_on_file_sizes_is_one_line(tmp_path, byte_tokenizer):
    """The shard does not fit and the manifest does, as on a disk that is full."""
    source, out = texts(tmp_path / "text", 60), tmp_path / "out"
    words = (source, "--tokenizer", byte_tokenizer, "--out", out, "--validation", 0)
    process = start(*words, preexec_fn=limit_file_size)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert err == (
        f"optimx: {out}: cannot be written: File too large; finished shards stay, and "
        "the same command continues\n"
    )
    assert list(out.glob("*.bin")) == list(out.glob(".*")) == []


def test_a_full_disk_leaves_the_finished_shards(tmp_path, monkeypatch):
    source, out = texts(tmp_path / "text"), tmp_path / "out"
    how = {"shard_tokens": 300, "validation": 0.4}
    run(source, tmp_path / "whole", **how)
    fsync, done = os.fsync, []

    def fill(descriptor):
        done.append(descriptor)
        if len(done) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.os, "fsync", fill)
        with pytest.raises(
            InputError, match="No space left on device; finished shards"
        ):
            run(source, out, **how)
    whole = content(tmp_path / "whole")
    left = {k: v for k, v in content(out).items() if k.endswith(".bin")}
    assert len(left) == 3
    assert left.items() <= whole.items()
    run(source, out, **how)
    assert content(out) == whole


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    source = texts(tmp_path / "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out: cannot be made: Not a directory"):
        run(source, tmp_path / "file" / "out")

    def refuse(self, content):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match="out: cannot be written: Permission denied"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "names no file|holds no text"),
        ({"a.txt": b""}, "holds no text"),
        ({"a.txt": b" \n", "b.txt": b"\n"}, "holds no text to learn from"),
        ({"a.txt": b"fine\n" * 50, "b.txt": b"ab\xff"}, r"b\.txt: is not UTF-8 .* 2\)"),
    ],
)
@pytest.mark.parametrize("vocab", [True, False])
def test_documents_that_cannot_be_used(tmp_path, byte_tokenizer, files, message, vocab):
    source = tmp_path / "text"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_bytes(text)
    how = {} if vocab else {"tokenizer": byte_tokenizer}
    with pytest.raises(InputError, match=message):
        run(source, tmp_path / "out", validation=0.0, **how)


def test_a_document_that_changes_meanwhile_is_refused(tmp_path, byte_tokenizer):
    source = Files(str(texts(tmp_path / "text")), 0.0)
    os.utime(tmp_path / "text" / "4.txt", ns=(0, 1))
    with pytest.raises(InputError, match=r"4\.txt: changed while it was read"):
        list(source.pieces())


ROWS = [{"text": f"row {i} " * (i % 7), "id": i} for i in range(40)]


class FakeStream:
    """What `datasets.load_dataset(..., streaming=True)` gives, as far as it is used."""

    def __init__(self, rows, fails_at=None):
        self.rows, self.fails_at = rows, fails_at

    def skip(self, count):
        return FakeStream(self.rows[count:])

    def __iter__(self):
        for row in self.rows:
            if row["id"] == self.fails_at:
                raise ConnectionError("the line\nbroke")
            yield row


@pytest.fixture
def fake_hub(monkeypatch):
    hub = types.SimpleNamespace(stream=FakeStream(ROWS), asked=[])

    def load_dataset(*words, **how):
        hub.asked.append((words, how))
        return hub.stream

    fake = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return hub


def test_a_dataset_is_streamed_row_by_row(tmp_path, fake_hub, byte_tokenizer):
    manifest, _ = run(
        "some/name",
        tmp_path / "out",
        is_hub=True,
        tokenizer=byte_tokenizer,
        config="small",
        split="all",
        validation=0.25,
    )
    assert fake_hub.asked == [
        (("some/name", "small"), {"split": "all", "streaming": True})
    ]
    assert manifest.source == {
        "kind": "hub",
        "name": "some/name",
        "config": "small",
        "split": "all",
        "column": "text",
    }
    tokenizer = load_tokenizer(byte_tokenizer)
    sides = [tokens(tmp_path / "out", side) for side in ("train", "val")]
    rows = [row["text"] for row in ROWS if row["text"]]
    assert sum(map(len, sides)) == len(encode(tokenizer, rows))
    assert 0.1 < len(sides[1]) / len(sides[0]) < 0.6


def test_a_stream_that_breaks_is_taken_up_again(tmp_path, fake_hub, byte_tokenizer):
    how = {"is_hub": True, "tokenizer": byte_tokenizer, "shard_tokens": 100}
    run("name", tmp_path / "whole", **how)
    fake_hub.stream = FakeStream(ROWS, fails_at=30)
    with pytest.raises(
        InputError, match=r"hub name: cannot be read on: the line broke$"
    ):
        run("name", tmp_path / "out", **how)
    fake_hub.stream = FakeStream(ROWS)
    run("name", tmp_path / "out", **how)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_row_without_text_is_named(tmp_path, fake_hub):
    with pytest.raises(
        InputError, match=r"--text-column body: row 0 of name has no .*: text, id"
    ):
        run("name", tmp_path / "out", is_hub=True, text_column="body")


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"datasets is not installed; .*'\.\[hub\]'"):
        run("name", tmp_path / "out", is_hub=True)


def test_a_real_dataset_on_disk_is_streamed(tmp_path, byte_tokenizer, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets", reason="the extra hub is optional")
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "train.jsonl").write_text(lines)
    how = {"is_hub": True, "tokenizer": byte_tokenizer, "shard_tokens": 100}
    run(folder, tmp_path / "out", **how)
    tokenizer = load_tokenizer(byte_tokenizer)
    rows = [row["text"] for row in ROWS if row["text"]]
    both = [len(tokens(tmp_path / "out", side)) for side in ("train", "val")]
    assert sum(both) == len(encode(tokenizer, rows))
    for path in sorted((tmp_path / "out").glob("train_*.bin"))[2:]:
        path.unlink()
    before = content(tmp_path / "out")
    run(folder, tmp_path / "out", **how)
    assert before.items() <= content(tmp_path / "out").items()
    assert sum(both) == sum(len(tokens(tmp_path / "out", s)) for s in ("train", "val"))
    with pytest.raises(InputError, match="absent: cannot be opened: "):
        run(tmp_path / "absent", tmp_path / "other", **how)


def test_the_progress_is_lines_or_a_line():
    for terminal in (False, True):
        file = io.StringIO()
        console = Console(
            file=file, force_terminal=terminal, width=100, highlight=False
        )
        with PrepareReport(console) as report:
            report.start(2000, "bytes", 500)
            report._last_plain -= 60
            report.advance(500, 300)
            report.say("[b]")
        shown = file.getvalue()
        assert "1,000 of 2,000 bytes, 300 tokens, " in shown
        assert "[b]" in shown
        assert ("\x1b" in shown) is terminal
