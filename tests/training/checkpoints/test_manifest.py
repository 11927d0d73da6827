import pytest

from optimx.training.checkpoints.manifest import Manifests, write_text


@pytest.fixture
def step(tmp_path):
    """A folder like that of a step, described."""
    folder = tmp_path / "7"
    (folder / "params" / "d").mkdir(parents=True)
    (folder / "params" / "d" / "0").write_bytes(bytes(range(256)))
    (folder / "about").write_text("{}")
    (folder / "empty").write_bytes(b"")
    Manifests(tmp_path).write(7)
    return folder


def test_what_did_not_change_is_sound(tmp_path, step):
    manifests = Manifests(tmp_path)
    assert manifests.has(7)
    assert manifests.damage(7) is None
    assert not manifests.has(8)


def test_a_flipped_bit_is_found(tmp_path, step):
    file = step / "params" / "d" / "0"
    sound = file.read_bytes()
    for at in range(0, 8 * len(sound), 37):
        content = bytearray(sound)
        content[at // 8] ^= 1 << at % 8
        file.write_bytes(content)
        damage = Manifests(tmp_path).damage(7)
        assert damage == f"{file}: has another SHA-256 than when it was saved"
    file.write_bytes(sound)
    assert Manifests(tmp_path).damage(7) is None


def test_a_flipped_bit_of_a_manifest_is_found(tmp_path, step):
    file = tmp_path / "manifests" / "7.json"
    sound = file.read_bytes()
    for at in range(0, 8 * len(sound), 11):
        content = bytearray(sound)
        content[at // 8] ^= 1 << at % 8
        file.write_bytes(content)
        assert Manifests(tmp_path).damage(7) is not None


def test_a_missing_or_cut_file_is_named(tmp_path, step):
    file = step / "params" / "d" / "0"
    file.write_bytes(file.read_bytes()[:100])
    damage = Manifests(tmp_path).damage(7)
    assert damage == f"{file}: has 100 bytes, had 256"
    file.unlink()
    assert Manifests(tmp_path).damage(7) == f"{file}: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"files": 1}'])
def test_a_manifest_that_is_none(tmp_path, step, content):
    file = tmp_path / "manifests" / "7.json"
    file.write_bytes(content)
    assert Manifests(tmp_path).damage(7) == f"{file}: is no manifest"


def test_a_manifest_of_another_step(tmp_path, step):
    manifests = tmp_path / "manifests"
    (manifests / "7.json").rename(manifests / "8.json")
    step.rename(tmp_path / "8")
    damage = Manifests(tmp_path).damage(8)
    assert damage == f"{manifests / '8.json'}: is the manifest of step 7"


def test_a_removed_step_has_no_manifest(tmp_path, step):
    manifests = Manifests(tmp_path)
    (tmp_path / "8").mkdir()
    manifests.write(8)
    (tmp_path / "manifests" / "9.json.tmp").write_text("cut sho")
    manifests.keep_only([8])
    assert [path.name for path in (tmp_path / "manifests").iterdir()] == ["8.json"]
    assert not manifests.has(7)


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "file"
    write_text(file, "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "after \ud800")
    assert file.read_text() == "before"
