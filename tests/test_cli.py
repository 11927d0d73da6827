"""The command line as a person or a program meets it."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from training.small import words, write_corpus

from optimx import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _explicit_arithmetic():
    """The command line runs under JAX's own defaults."""


@pytest.fixture(autouse=True)
def _keep_jax_as_it_is(monkeypatch):
    monkeypatch.setattr(
        "optimx.training.compilation.use_compilation_cache", lambda: None
    )


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    """What runs in this process has one device, as what runs in another."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *backend: first)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = start("train", *words(corpus), "--out", str(folder))
    out, err = done.communicate(timeout=200)
    assert (done.returncode, err) == (0, ""), err
    assert f"The run is in {folder}" in out
    return folder


def start(*arguments, program=("-m", "optimx"), **how):
    """A process of its own, without the devices that the tests pretend to have."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **how,
    )


def refuse(capsys, *arguments):
    """Runs the command, which must refuse its input, and returns its one line."""
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("optimx: ")
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --optimizer.name marz_adamw", "did you mean mars_adamw"),
        ("train --optimizer.b1 1.0", r"b1 must be in \[0, 1\), got 1\.0"),
        ("train --optimizer.b2 -0.1", r"b2 must be in \[0, 1\), got -0\.1"),
        ("train --optimizer.eps -1e-8", "eps must be .* got -1e-08"),
        ("train --optimizer.gamma -1", "gamma must be .* got -1"),
        ("train --optimizer.gama 1", "mars_adamw has no gama; did you mean gamma"),
        (
            "train --optimizer.name ademamix --optimizer.alpha_warmup 0",
            r"optimizer\.alpha_warmup = 0: must be a number of steps, at least 1",
        ),
        ("train --train.stepz 5", r"\[train\] has no key stepz; did you mean steps"),
        ("train --trane.steps 5", r"--trane\.steps: there is no section"),
        ("train --train.steps five", r"train\.steps = 'five': must be an integer"),
        ("train --train.steps", r"--train\.steps: needs a value"),
        ("train --data.context 129", "at most the model's context, 128"),
        ("train --data.source text", r"data\.path"),
        ("train --data.source text --data.path absent.txt", "names no file"),
        ("train absent.toml", r"absent\.toml: cannot be read: No such file"),
        ("train a.toml b.toml", "unrecognized arguments: b.toml"),
        ("train --stesp 5", "unrecognized arguments: --stesp"),
        ("trian", "invalid choice: 'trian'"),
        ("", "required: COMMAND"),
        (
            "list --train.steps 5",
            "only optimx train, resume, compare, plan, bench train and bench claim",
        ),
        ("resume absent", r"absent: is not a run's folder: no config\.toml"),
        ("sample absent --prompt x", "absent: is not a run's folder"),
        ("sample absent", "required: --prompt TEXT or --prompt-file FILE"),
        ("sample absent --prompt x --prompt-file y", "not allowed with .* --prompt"),
        ("sample absent --prompt-file y", "absent: is not a run's folder"),
        ("import-gpt2", "required: DIR"),
        ("import-gpt2 absent", "absent: is not a folder"),
        ("import-gpt2 .", r"config\.json: cannot be read: No such file"),
        ("export-gpt2 absent", "required: OUT"),
        ("export-gpt2 absent out", "absent: is not a run's folder"),
        ("train --model.init absent", "absent: is not a run's folder"),
        ("train --model.init 3", r"model\.init = 3: must be text"),
        ("sample absent --prompt x --tokens many", "invalid int value: 'many'"),
        ("train --data.source bin", r'data\.path = "": must name token files'),
        ("train --data.source bin --data.path a --data.dtype int8", "uint16, uint32"),
        ("train --data.source bin --data.path absent.bin", "names no file"),
        ("prepare", "required: --out"),
        ("prepare --out out --vocab 300", "needs either SOURCE or --hub NAME"),
        ("prepare a --hub b --out out --vocab 300", "either SOURCE or --hub NAME"),
        ("prepare stdlib --out out", "needs either --tokenizer FILE or --vocab N"),
        ("prepare absent --out out --vocab 300", "SOURCE = 'absent': names no file"),
        ("prepare stdlib --out out --vocab 256", "--vocab 256: must be from 257 to"),
        (
            "prepare a --out b --vocab 300 --shard-tokens 0",
            "0: must be from 1 to 21474",
        ),
        (
            "prepare a --out b --vocab 300 --validation 1",
            "must be at least 0 and below",
        ),
        ("prepare a --out b --tokenizer no.json", r"no\.json: cannot be read: No such"),
        ("bench", "required: WHAT"),
        ("bench updaet", "invalid choice: 'updaet'"),
        ("bench update --preset smal", "--preset 'smal': .*; did you mean small"),
        (
            "bench update --only lion,marz_lion",
            "'marz_lion': .* did you mean mars_lion",
        ),
        ("bench update --only lion,", "--only '': no such optimizer; known: axpy, "),
        ("bench update --dtype float8", "--dtype 'float8': there is no such dtype"),
        ("bench update --steps 0", "--steps 0: must be at least 1"),
        ("bench update --steps few", "invalid int value: 'few'"),
        ("bench update --out absent/a.json", "absent/a.json: cannot be written: No"),
        (
            "bench update --train.steps 5",
            "only optimx train, resume, compare, plan, bench train",
        ),
    ],
)
def test_bad_words_give_one_line_and_status_2(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refuse(capsys, *arguments.split()))
    assert list(tmp_path.rglob("config.toml")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text"),
        (b"some \xff text", r"text\.txt: is not UTF-8 text \(byte 5\)"),
        (b"too little", "the corpus is smaller than one batch"),
    ],
)
def test_a_corpus_that_cannot_be_used(capsys, tmp_path, content, message):
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    line = refuse(capsys, "train", *words(text), "--out", tmp_path / "run")
    assert re.search(message, line)


def test_a_corpus_that_cannot_be_read(capsys, tmp_path, monkeypatch, corpus):
    def refuse_to_read(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse_to_read)
    line = refuse(capsys, "train", *words(corpus), "--out", tmp_path / "run")
    assert "file_0.txt: cannot be read: Permission denied" in line


def test_a_folder_that_holds_another_run(capsys, run, corpus):
    before = (run / "config.toml").read_text()
    line = refuse(capsys, "train", *words(corpus), "--out", run)
    assert f"{run}: holds another run; optimx resume {run} continues it" in line
    assert (run / "config.toml").read_text() == before


def test_a_checkpoint_of_another_model(capsys, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("width = 16", "width = 32"))
    line = refuse(capsys, "resume", folder)
    assert re.search(r"another model or optimizer: \d+ of \d+ leaves differ: ", line)
    line = refuse(capsys, "sample", folder, "--prompt", "x")
    assert "16 of 16 leaves differ: params/h_0/attention/out/bias: expected " in line


def test_a_run_whose_folder_cannot_be_written_has_status_1(capsys, tmp_path, corpus):
    folder = tmp_path / "run"
    (folder / "summary.json").mkdir(parents=True)
    short = words(corpus, train__steps=1, schedule__warmup=0)
    assert cli.main(["train", *short, "--out", str(folder)]) == 1
    assert re.fullmatch(
        r"optimx: .*summary\.json: cannot be written: Is a directory; "
        r"to continue from the last checkpoint: optimx resume .*/run\n",
        capsys.readouterr().err,
    )


def test_a_prompt_longer_than_the_context(capsys, run):
    line = refuse(capsys, "sample", run, "--prompt", "x y " * 30)
    assert re.search(r"prompt: \d+ tokens are more than the model's context, 16", line)


def test_sample_prints_text_that_the_seed_decides(capsys, run):
    texts = []
    for seed in (1, 1, 2):
        arguments = ["sample", str(run), "--prompt", "def", "--seed", str(seed)]
        assert cli.main([*arguments, "--tokens", "20"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("def") for text in texts)


def test_text_becomes_token_files_that_train_and_sample(capsys, tmp_path, corpus):
    bins, run = tmp_path / "bins", tmp_path / "run"
    asked = [corpus, "--out", bins, "--vocab", 300, "--validation", 0.3]
    assert cli.main(["prepare", *map(str, asked)]) == 0
    assert f"{bins} is complete: " in capsys.readouterr().out
    chosen = words(bins, data__source="bin", train__steps=2, schedule__warmup=0)
    assert cli.main(["train", *chosen, "--out", str(run)]) == 0
    assert "The model writes" in capsys.readouterr().out
    assert cli.main(["sample", str(run), "--prompt", "def"]) == 0
    assert capsys.readouterr().out.startswith("def")
    (run / "tokenizer.json").unlink()
    line = refuse(capsys, "sample", run, "--prompt", "def")
    assert f"{run}: has no tokenizer.json" in line


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (b"\1\0" * 999, {"model__vocab": 257}, "the corpus is smaller than one batch"),
        (b"\1\0\2\1" * 2000, {"model__vocab": 257}, "token 1 is 258, must be below"),
        (b"\1\0" * 999 + b"\1", {}, "has 1999 bytes, no multiple of 2"),
        (b"\x88\xd8\x34\x01" * 300, {}, "20240520 version 20240520 is no token file"),
        (b"", {}, "is empty"),
    ],
)
def test_token_files_that_cannot_be_used(capsys, tmp_path, content, more, message):
    path = tmp_path / "tokens.bin"
    path.write_bytes(content)
    more = {"train__batch_size": 64} | more
    chosen = words(path, data__source="bin", **more)
    line = refuse(capsys, "train", *chosen, "--out", tmp_path / "run")
    assert re.search(message, line)
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_prompt_from_a_file_or_the_standard_input(capsys, run, tmp_path, monkeypatch):
    """One last line break is the editor's, not the prompt's."""
    how = ["--tokens", "5", "--temperature", "0"]
    assert cli.main(["sample", str(run), "--prompt", "def\nx ", *how]) == 0
    expected = capsys.readouterr().out
    for ending in ("", "\n", "\r\n"):
        (tmp_path / "prompt.txt").write_bytes(f"def\nx {ending}".encode())
        file = str(tmp_path / "prompt.txt")
        assert cli.main(["sample", str(run), "--prompt-file", file, *how]) == 0
        assert capsys.readouterr().out == expected
    stdin = io.TextIOWrapper(io.BytesIO(b"def\nx \n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert cli.main(["sample", str(run), "--prompt-file", "-", *how]) == 0
    assert capsys.readouterr().out == expected


def test_a_prompt_file_that_cannot_be_used(capsys, run, tmp_path):
    line = refuse(capsys, "sample", run, "--prompt-file", tmp_path / "absent")
    assert "absent: cannot be read: No such file" in line
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    line = refuse(capsys, "sample", run, "--prompt-file", tmp_path / "bytes")
    assert "bytes: is not UTF-8 text (byte 2)" in line


def test_out_to_hugging_face_and_back(capsys, run, tmp_path):
    """Real processes, as a person would call them."""
    out, back = tmp_path / "out", tmp_path / "back"
    commands = (
        ("export-gpt2", str(run), str(out)),
        ("import-gpt2", str(out), "--out", str(back)),
        ("sample", str(back), "--prompt", "def", "--tokens", "9"),
    )
    for command in commands:
        done = start(*command)
        shown, err = done.communicate(timeout=200)
        assert (done.returncode, err) == (0, "")
    assert cli.main(["sample", str(run), "--prompt", "def", "--tokens", "9"]) == 0
    assert capsys.readouterr().out == shown
    assert "exists already" in refuse(capsys, "export-gpt2", run, out)
    assert "exists already" in refuse(capsys, "import-gpt2", out, "--out", back)


def test_an_import_without_a_folder_gets_a_new_one(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = ROOT / "tests" / "training" / "fixtures" / "gpt2"
    assert cli.main(["import-gpt2", str(source)]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-import", folder.name)
    line = refuse(capsys, "sample", folder, "--prompt", "x")
    assert "has no tokenizer.json" in line


def test_a_run_whose_configuration_is_of_another_model(capsys, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "config.toml"
    file.write_text(file.read_text().replace("width = 16", "width = 18"))
    for command in ("sample --prompt x", "resume", "export-gpt2"):
        name, *more = command.split()
        out = [tmp_path / "out"] if name == "export-gpt2" else []
        line = refuse(capsys, name, tmp_path / "run", *out, *more)
        assert "is of another model or optimizer: " in line
        assert "expected float32[18" in line


def test_resume_of_a_finished_run_shows_its_result(capsys, run):
    before = (run / "metrics.jsonl").read_text()
    assert cli.main(["resume", str(run)]) == 0
    assert "validation loss" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == before


def test_a_file_and_arguments_together(capsys, tmp_path, corpus):
    file = tmp_path / "run.toml"
    file.write_text('[train]\nsteps = 3\nseed = 7\n[optimizer]\nname = "lion"\n')
    chosen = words(corpus)
    at = chosen.index("--train.steps")
    del chosen[at : at + 2]
    out = tmp_path / "out"
    done = cli.main(["train", str(file), *chosen, "--train.seed=8", "--out", str(out)])
    assert done == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["steps"], summary["seed"], summary["optimizer"]) == (3, 8, "lion")


def test_a_run_without_a_folder_gets_a_new_one(tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *words(corpus, train__steps=1, schedule__warmup=0)]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-mars_adamw", folder.name)


def test_a_run_that_diverges_has_status_1(capsys, tmp_path, corpus):
    wild = words(
        corpus,
        optimizer__name="adamw",
        optimizer__learning_rate=1e38,
        schedule__warmup=0,
    )
    assert cli.main(["train", *wild, "--out", str(tmp_path / "run")]) == 1
    assert re.fullmatch(
        r"optimx: step \d: .* the run has diverged .*\n", capsys.readouterr().err
    )


def test_list(capsys):
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("mars_adamw", "stale_grads", "124,439,808"))


def test_bench_update(capsys, tmp_path):
    file = tmp_path / "cost.json"
    chosen = "--preset tiny --only lion --steps 2 --matrices-only --markdown"
    done = cli.main(["bench", "update", *chosen.split(), "--out", str(file)])
    assert done == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^\| (\S+) \|", shown, re.MULTILINE) == [
        "optimizer",
        "---",
        "axpy",
        "optax.adamw",
        "lion",
    ]
    measured = json.loads(file.read_text())
    assert (measured["parameters"], measured["steps"]) == (393_216, 2)


def test_help_has_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    known = "train resume sample import-gpt2 export-gpt2 list bench"
    assert all(word in shown for word in known.split())


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("train", "flax"),
        ("train", "orbax"),
        ("train", "tomli_w"),
        ("import-gpt2 .", "safetensors"),
        ("list", "rich"),
        ("bench update", "rich"),
    ],
)
def test_without_the_extra_one_line_says_what_to_install(command, package):
    program = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from optimx.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = start(*command.split(), program=("-c", program))
    _, err = done.communicate(timeout=100)
    assert done.returncode == 2
    assert err.count("\n") == 1
    assert "python -m pip install -e '.[train]'" in err


LONG = {
    "optimizer__name": "mars_adamw_exact",
    "train__accumulation": 2,
    "train__steps": 1200,
    "train__eval_every": 400,
    "checkpoint__every": 500,
}


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start("train", *words(corpus, **LONG), "--out", str(folder))
    _, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    assert len(lines(folder)) == 1200 + 3
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_be_resumed_exactly(
    tmp_path, corpus, uninterrupted, number
):
    """Real processes: stopped by a signal in the middle, continued, compared."""
    folder = tmp_path / "run"
    process = start("train", *words(corpus, **LONG), "--out", str(folder))
    wait_for_line(folder / "metrics.jsonl", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert err.count("\n") == 1
    (step,) = re.findall(rf"after step (\d+), .* optimx resume {folder}\n", err)
    assert 1 <= int(step) < 1200
    assert (folder / "checkpoints" / step).is_dir()
    process = start("resume", str(folder))
    _, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    assert lines(folder) == lines(uninterrupted)


def wait_for_line(file, process):
    """Until training has begun."""
    while not (file.exists() and file.stat().st_size):
        assert process.poll() is None, process.communicate()
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue


def lines(folder):
    found = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        record.pop("tokens_per_second", None)
        found.append(record)
    return found
