import pytest

from optimx.training.data import corpus as corpus_module
from optimx.training.data.corpus import read_corpus
from optimx.training.errors import InputError
from optimx.training.sections import Data


def text(path, **more):
    return Data(source="text", path=str(path), **more)


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def many(folder, count=40):
    return fill(folder, {f"f{i}.txt": f"text {i}" for i in range(count)})


def test_every_file_is_on_one_side(tmp_path):
    corpus = read_corpus(text(many(tmp_path), validation=0.25))
    both = corpus.train + corpus.validation
    assert sorted(both) == sorted(f"text {i}" for i in range(40))
    assert 4 <= len(corpus.validation) <= 16


def test_a_files_side_does_not_depend_on_the_other_files(tmp_path):
    few = read_corpus(text(many(tmp_path / "a", 30), validation=0.25))
    more = read_corpus(text(many(tmp_path / "b", 60), validation=0.25))
    assert set(few.train) <= set(more.train)
    assert set(few.validation) <= set(more.validation)


def test_one_file_is_cut_and_two_are_parted(tmp_path):
    one = read_corpus(text(fill(tmp_path / "a", {"only.txt": "0123456789"})))
    assert (one.train, one.validation) == (["012345678"], ["9"])
    two = read_corpus(text(fill(tmp_path / "b", {"x": "xx", "y": "yy"})))
    assert sorted(two.train + two.validation) == ["xx", "yy"]
    assert len(two.train) == len(two.validation) == 1


def test_a_path_is_a_file_a_folder_or_a_glob(tmp_path):
    fill(tmp_path, {"a.txt": "aaa", "sub/b.txt": "bbb", "c.md": "ccc", ".d": "ddd"})

    def found(path):
        corpus = read_corpus(text(path))
        return sorted("".join(corpus.train + corpus.validation))

    assert found(tmp_path) == list("aaabbbccc")
    assert found(tmp_path / "a.txt") == list("aaa")
    assert found(tmp_path / "*.txt") == list("aaa")
    assert found(tmp_path / "**" / "*.txt") == list("aaabbb")


def test_the_hash_is_of_names_and_contents(tmp_path):
    base = read_corpus(text(fill(tmp_path / "a", {"x": "1", "y": "2"}))).sha256
    same = read_corpus(text(fill(tmp_path / "b", {"x": "1", "y": "2"}))).sha256
    names = read_corpus(text(fill(tmp_path / "c", {"x": "1", "z": "2"}))).sha256
    other = read_corpus(text(fill(tmp_path / "d", {"x": "12", "y": ""}))).sha256
    assert base == same
    assert len({base, names, other}) == 3


def test_another_text_than_expected_is_an_error(tmp_path):
    path = many(tmp_path)
    sha256 = read_corpus(text(path)).sha256
    assert read_corpus(text(path, sha256=sha256)).sha256 == sha256
    fill(path, {"f0.txt": "changed"})
    with pytest.raises(InputError, match="not the text of that run"):
        read_corpus(text(path, sha256=sha256))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "names no file|holds no text"),
        ({"a.txt": "", "b.txt": " \n"}, "holds no text"),
        ({"a.txt": "fine", "b.bin": b"ab\xff"}, r"b\.bin: is not UTF-8 .*byte 2"),
    ],
)
def test_a_corpus_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        read_corpus(text(fill(tmp_path, files)))


def test_a_path_that_names_nothing(tmp_path):
    with pytest.raises(InputError, match=r"absent.*': names no file"):
        read_corpus(text(tmp_path / "absent" / "*.txt"))


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = many(tmp_path)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(corpus_module.Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"f0\.txt: cannot be read: Permission denied"):
        read_corpus(text(path))


def test_the_standard_library_comes_without_its_tests(tmp_path, monkeypatch):
    fill(
        tmp_path,
        {
            "a.py": "import a",
            "pkg/b.py": "import b",
            "test/c.py": "import c",
            "pkg/tests/d.py": "import d",
            "site-packages/e.py": "import e",
            "latin.py": b"# -*- coding: latin-1 -*-\n# \xe9",
            "notes.txt": "no source",
        },
    )
    paths = {"stdlib": str(tmp_path)}
    monkeypatch.setattr(corpus_module.sysconfig, "get_paths", lambda: paths)
    corpus = read_corpus(Data())
    assert sorted(corpus.train + corpus.validation) == [
        "# -*- coding: latin-1 -*-\n# é",
        "import a",
        "import b",
    ]


def test_the_installed_standard_library_can_be_read():
    corpus = read_corpus(Data())
    assert sum(map(len, corpus.train)) > 5_000_000
    assert any("class OrderedDict" in text for text in corpus.train + corpus.validation)
