"""GPT-2 weights both ways, on a folder that fixtures/make_gpt2.py made with torch."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import safe_open
from safetensors.flax import save_file as save_any
from safetensors.numpy import load_file, save_file

from optimx.training.checkpoints.checkpoint import Checkpoints
from optimx.training.checkpoints.resumption import about
from optimx.training.config import dump_config, load_config
from optimx.training.data import load_dataset, load_tokenizer, training_batch
from optimx.training.data.tokenizer import train_tokenizer
from optimx.training.errors import InputError
from optimx.training.folder import RunFolder
from optimx.training.interop import export_gpt2, import_gpt2
from optimx.training.network import model
from optimx.training.network.model import mean_loss
from optimx.training.optimizer import build_optimizer
from optimx.training.sections import Model
from optimx.training.state import abstract_state, init_state
from optimx.training.train import resume, train
from training.network.test_model import jittered
from training.small import config

THEIRS = Path(__file__).parent / "fixtures" / "gpt2"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

forward = jax.jit(model.apply, static_argnums=0)
loss_of = jax.jit(mean_loss, static_argnums=(0, 3))
gradient = jax.jit(jax.grad(mean_loss, 1), static_argnums=(0, 3))


def assert_near(found, expected, what=""):
    """To 1e-4 of the largest number of the array, as the two are float32."""
    scale = np.abs(expected).max()
    assert scale > 0, what
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale, err_msg=what)


def imported(source, out):
    """The model and the parameters that the run of an import has."""
    import_gpt2(source, out)
    return of_run(RunFolder(out))


def of_run(folder):
    chosen = load_config(folder.config).model
    with Checkpoints(folder.checkpoints) as saved:
        return chosen, saved.restore_params(model.parameter_shapes(chosen))


def write_run(folder, chosen):
    """A run with jittered parameters, which it returns, and a tokenizer."""
    params = jittered(chosen.model)
    folder.create()
    with Checkpoints(folder.checkpoints, keep=1) as saved:
        state = init_state(chosen, optax.identity(), params=params)
        saved.save(0, state, about(chosen, "", 0.0))
    folder.config.write_text(dump_config(chosen))
    # As many entries as the model has, so that it may choose any of its own.
    tokenizer = train_tokenizer([Path(__file__).read_text()], 300)
    assert tokenizer.get_vocab_size() == chosen.model.vocab
    folder.tokenizer.write_text(tokenizer.to_str())
    return params


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def theirs(tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(THEIRS, tmp_path / "theirs"))


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    return imported(THEIRS, tmp_path_factory.mktemp("import") / "run")[1]


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """The folder of a finished run."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    train(config(corpus, model__layers=2, train__steps=2, schedule__warmup=0), folder)
    return folder


def test_logits_and_gradients_are_theirs(tmp_path):
    expected = load_file(THEIRS / "expected.safetensors")
    tokens = jnp.asarray(expected["tokens"])
    sizes, params = imported(THEIRS, tmp_path / "run")
    assert sizes == Model("tiny", 2, 2, 16, 16, 64, True)
    assert_near(forward(sizes, params, tokens), expected["logits"])
    grads = gradient(sizes, params, tokens, jnp.float32)
    block, wanted = grads["h_1"], lambda name: expected[f"gradient.{name}"]
    assert_near(grads["wte"]["embedding"], wanted("wte.weight"))
    assert_near(grads["wpe"]["embedding"], wanted("wpe.weight"))
    assert_near(grads["ln_f"]["scale"], wanted("ln_f.weight"))
    assert_near(grads["ln_f"]["bias"], wanted("ln_f.bias"))
    for ours, name in (("ln_1", "ln_1"), ("ln_2", "ln_2")):
        assert_near(block[ours]["scale"], wanted(f"h.1.{name}.weight"))
        assert_near(block[ours]["bias"], wanted(f"h.1.{name}.bias"))
    for (part, linear), name in {
        ("attention", "qkv"): "attn.c_attn",
        ("attention", "out"): "attn.c_proj",
        ("mlp", "up"): "mlp.c_fc",
        ("mlp", "down"): "mlp.c_proj",
    }.items():
        for layer in range(2):
            found = grads[f"h_{layer}"][part][linear]
            # The gradient of keys' biases is 0 but for rounding, which is small
            # beside the other two thirds.
            assert_near(found["kernel"], wanted(f"h.{layer}.{name}.weight"))
            assert_near(found["bias"], wanted(f"h.{layer}.{name}.bias"))


def test_an_import_is_a_run_of_no_steps(tmp_path):
    import_gpt2(THEIRS, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    chosen = load_config(folder.config)
    assert (chosen.data.context, chosen.optimizer.rule.name) == (16, "mars_adamw")
    tx = build_optimizer(chosen.optimizer, chosen.schedule, chosen.train.steps)
    with Checkpoints(folder.checkpoints) as saved:
        assert saved.latest() == 0
        state = saved.restore(0, abstract_state(chosen, tx))
        assert saved.about(0)["seconds"] == 0.0
    assert int(state.step) == 0
    equal(state.optimizer, tx.init(state.params))
    assert not folder.tokenizer.exists()


def test_what_is_imported_is_exported_bit_for_bit(tmp_path):
    import_gpt2(THEIRS, tmp_path / "run")
    export_gpt2(tmp_path / "run", tmp_path / "out")
    before, after = (load_file(path / WEIGHTS) for path in (THEIRS, tmp_path / "out"))
    assert after.keys() == before.keys()
    equal(after, before)
    with safe_open(tmp_path / "out" / WEIGHTS, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    said, says = (
        json.loads((path / "config.json").read_text())
        for path in (THEIRS, tmp_path / "out")
    )
    same = set(says) - {"attn_pdrop", "embd_pdrop", "resid_pdrop"}
    same -= {"bos_token_id", "eos_token_id"}  # without a tokenizer nobody knows
    assert {k: says[k] for k in same} == {k: said.get(k) for k in same}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {WEIGHTS, "config.json"}


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_exported_is_imported_bit_for_bit(corpus, tmp_path, bias):
    folder = RunFolder(tmp_path / "run")
    chosen = config(corpus, model__bias=str(bias).lower())
    write_run(folder, chosen)
    export_gpt2(folder.path, tmp_path / "out")
    sizes, params = imported(tmp_path / "out", tmp_path / "back")
    assert sizes == chosen.model
    equal(params, of_run(folder)[1])
    tokenizer = RunFolder(tmp_path / "back").tokenizer
    assert tokenizer.read_text() == folder.tokenizer.read_text()
    if not bias:
        tensors = load_file(tmp_path / "out" / WEIGHTS)
        assert not any(tensors[n].any() for n in tensors if n.endswith(".bias"))
        assert sum(name.endswith(".bias") for name in tensors) == 7


def test_names_without_a_prefix_masks_and_a_tied_head(theirs, tmp_path, params):
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(theirs / WEIGHTS).items()
    }
    tensors["lm_head.weight"] = tensors["wte.weight"]
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = np.ones((1, 1, 16, 16), bool)
        tensors[f"h.{layer}.attn.masked_bias"] = np.float32([-1e4])
    save_file(tensors, theirs / WEIGHTS)
    equal(imported(theirs, tmp_path / "run")[1], params)


def test_shards_are_put_together(theirs, tmp_path, params):
    tensors = load_file(theirs / WEIGHTS)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, theirs / file)
    files = {name: file for file, part in parts.items() for name in part}
    (theirs / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (theirs / WEIGHTS).unlink()
    equal(imported(theirs, tmp_path / "run")[1], params)
    (theirs / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors: cannot be read"):
        import_gpt2(theirs, tmp_path / "other")


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_becomes_float32(theirs, tmp_path, params, dtype):
    halves = {
        name: jnp.asarray(tensor, dtype)
        for name, tensor in load_file(theirs / WEIGHTS).items()
    }
    save_any(halves, theirs / WEIGHTS)
    _, found = imported(theirs, tmp_path / "run")
    equal(found, jax.tree.map(lambda p: p.astype(dtype).astype(jnp.float32), params))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type = 'llama': must be 'gpt2'"),
        ({"activation_function": "relu"}, "'relu': must be 'gelu_new' or 'gelu_py"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06: must be 1e-05"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False: must be True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "layer_idx = True: must be False"),
        ({"add_cross_attention": True}, "add_cross_attention = True: must be False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False: must be True"),
        ({"n_inner": 32}, "n_inner = 32: must be 4 n_embd, or null"),
        ({"n_layer": None}, "n_layer = None: must be an integer"),
        ({"n_layer": 0}, r"model\.layers = 0: must be at least 1"),
        ({"n_head": 3}, r"model\.heads = 3: must divide model\.width = 16"),
        ({"vocab_size": 65}, r"wte\.weight \(64, 16\) instead of \(65, 16\)$"),
        (
            {"n_layer": 3},
            r"there is no h\.2\.attn\.c_attn\.bias, h\.2\.attn\.c_attn\.weight, "
            r"h\.2\.attn\.c_proj\.bias and 9 more$",
        ),
        ({"n_layer": 1}, r"unknown tensor h\.1\.attn\.c_attn\.bias, .* and 9 more$"),
        (
            {"n_embd": 32},
            r"h\.0\.attn\.c_attn\.bias \(48,\) instead of \(96,\), .* and 25 more$",
        ),
        ({"bias": False}, r'"bias": false, but not zero: h\.0\.attn\.c_attn\.bias, '),
    ],
)
def test_what_the_model_cannot_be_is_named(theirs, tmp_path, changes, message):
    table = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps(table | changes))
    with pytest.raises(InputError, match=message) as caught:
        import_gpt2(theirs, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_inner_width_of_four_and_the_other_name_of_gelu(theirs, tmp_path, params):
    table = json.loads((theirs / "config.json").read_text())
    table |= {"n_inner": 64, "activation_function": "gelu_pytorch_tanh"}
    (theirs / "config.json").write_text(json.dumps(table))
    equal(imported(theirs, tmp_path / "run")[1], params)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"config\.json: cannot be read: No such file"),
        ("config.json", b"{", r"config\.json: is not JSON"),
        ("config.json", b"[]", r"config\.json: is not a JSON object"),
        (WEIGHTS, None, rf"has no {WEIGHTS} and no {INDEX}"),
        (WEIGHTS, b"PK", "is not a safetensors file"),
        ("tokenizer.json", b"{}", r"tokenizer\.json: is not a tokenizer\.json"),
        ("vocab.json", b"{}", r"vocab\.json, merges\.txt: are not a BPE"),
    ],
)
def test_files_that_cannot_be_used(theirs, tmp_path, file, content, message):
    (theirs / file).unlink(missing_ok=True)
    if content is not None:
        (theirs / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        import_gpt2(theirs, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "lm_head.weight",
            np.zeros((64, 16), "f4"),
            "lm_head.weight is not wte.weight",
        ),
        ("ln_f.weight", np.zeros(16, "f4"), "ln_f.weight: is there twice"),
        ("transformer.ln_f.bias", np.zeros(16, "i4"), "ln_f.bias: is I32, must be F32"),
        ("score.weight", np.zeros(2, "f4"), "unknown tensor score.weight$"),
    ],
)
def test_tensors_that_cannot_be_used(theirs, tmp_path, name, tensor, message):
    tensors = load_file(theirs / WEIGHTS)
    save_file(tensors | {name: tensor}, theirs / WEIGHTS)
    with pytest.raises(InputError, match=message):
        import_gpt2(theirs, tmp_path / "run")


def test_an_index_names_files_beside_it(theirs, tmp_path):
    (theirs / WEIGHTS).unlink()
    (theirs / INDEX).write_text('{"weight_map": {"wte.weight": "../secret"}}')
    with pytest.raises(InputError, match="must map tensors to files beside it"):
        import_gpt2(theirs, tmp_path / "run")


def test_a_folder_in_use_stays_as_it_is(theirs, tmp_path, run):
    for work in (
        lambda: import_gpt2(theirs, theirs),
        lambda: export_gpt2(run.path, theirs),
    ):
        with pytest.raises(InputError, match="exists already; name a new folder"):
            work()
    assert {p.name for p in theirs.iterdir()} == {p.name for p in THEIRS.iterdir()}
    (tmp_path / "empty").mkdir()
    export_gpt2(run.path, tmp_path / "empty")
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        export_gpt2(run.path, theirs / "config.json" / "out")


def test_an_export_that_fails_leaves_nothing(tmp_path, run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("optimx.training.interop._write_json", full)
    with pytest.raises(InputError, match="out: cannot be written: No space left"):
        export_gpt2(run.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_run_cannot_be_exported(tmp_path):
    with pytest.raises(InputError, match=r"no config\.toml; optimx import-gpt2 makes"):
        export_gpt2(THEIRS, tmp_path / "out")


def test_a_vocabulary_in_two_files(run, tmp_path):
    """As the first GPT-2 came: entries, merges, and nothing else."""
    export_gpt2(run.path, tmp_path / "out")
    whole = load_tokenizer(tmp_path / "out" / "tokenizer.json")
    whole.model.save(str(tmp_path / "out"))
    (tmp_path / "out" / "tokenizer.json").unlink()
    import_gpt2(tmp_path / "out", tmp_path / "back")
    parted = load_tokenizer(tmp_path / "back" / "tokenizer.json")
    for text in ("def return if x", "a<|endoftext|>b", "\t\n ä€"):
        assert parted.encode(text).ids == whole.encode(text).ids
        assert parted.decode(whole.encode(text).ids) == text.replace(
            "<|endoftext|>", ""
        )


def test_a_tokenizer_for_a_larger_model(theirs, tmp_path):
    train_tokenizer([""], 257).save(str(theirs / "tokenizer.json"))
    message = r"tokenizer\.json: has 257 entries, model\.vocab = 64 is smaller"
    with pytest.raises(InputError, match=message):
        import_gpt2(theirs, tmp_path / "run")


def finetuned(corpus, folder, init, **more):
    """A run of one step from the parameters of another."""
    words = {"model.init": str(init), "data.source": "text", "data.path": str(corpus)}
    words |= {"train.steps": "1", "schedule.warmup": "0", "train.batch_size": "4"}
    words |= {key.replace("__", "."): str(value) for key, value in more.items()}
    chosen = load_config(None, words.items())
    return chosen, train(chosen, folder)


def test_training_starts_from_imported_parameters(corpus, run, tmp_path):
    export_gpt2(run.path, tmp_path / "out")
    import_gpt2(tmp_path / "out", tmp_path / "imported")
    folder = RunFolder(tmp_path / "tuned")
    chosen, _ = finetuned(corpus, folder, tmp_path / "imported")
    sizes, params = of_run(run)
    assert chosen.model.layers == sizes.layers == 2
    assert folder.tokenizer.read_text() == run.tokenizer.read_text()
    # The first line is the loss before the first update.
    first = next(folder.read_metrics())
    tokens = first_batch(chosen, folder)
    loss = float(loss_of(sizes, params, tokens, jnp.float32))
    assert abs(first["loss"] - loss) < 1e-6
    drawn = model.init(sizes, chosen.train.seed)
    assert abs(loss - float(loss_of(sizes, drawn, tokens, jnp.float32))) > 1e-3
    # The run stands on its own: what it came from may go.
    shutil.rmtree(tmp_path / "imported")
    resume(folder)
    assert of_run(folder)[0] == chosen.model


def first_batch(chosen, folder):
    own = dataclasses.replace(chosen.data, tokenizer=str(folder.tokenizer))
    data = load_dataset(own, chosen.model.vocab)
    batch = training_batch(
        data.train, seed=0, step=0, shape=(1, 4), context=chosen.data.context
    )
    return jnp.asarray(batch[0])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"model__layers": 1},
            r"h_1/attention/out/bias: expected none, found float32\[16\]; ",
        ),
        (
            {"model__vocab": 301},
            r"1 of \d+ leaves differ: wte/embedding: expected float32\[301,16\], found "
            r"float32\[300,16\]$",
        ),
        (
            {"model__preset": "tiny"},
            r"h_0/attention/out/bias: expected float32\[128\], found float32\[16\]",
        ),
        ({"model__bias": "false"}, r"expected none, .* and 10 more$"),
    ],
)
def test_parameters_of_another_model_are_refused(corpus, run, tmp_path, more, message):
    with pytest.raises(InputError, match=message) as caught:
        finetuned(corpus, RunFolder(tmp_path / "tuned"), run.path, **more)
    assert f"{run.path}: the run is of another model" in str(caught.value)


def test_another_vocabulary_is_refused(corpus, run, tmp_path):
    train_tokenizer(["zz zz yy"], 260).save(str(tmp_path / "other.json"))
    with pytest.raises(InputError, match=r"other\.json': has another vocabulary than"):
        finetuned(
            corpus,
            RunFolder(tmp_path / "tuned"),
            run.path,
            data__tokenizer=tmp_path / "other.json",
        )


def test_no_tokenizer_said_is_that_of_the_start(corpus, run, tmp_path):
    """As it stands in the config.toml of a run that learned token files without one."""
    folder = RunFolder(tmp_path / "tuned")
    finetuned(corpus, folder, run.path, data__tokenizer="")
    assert folder.tokenizer.read_text() == run.tokenizer.read_text()


@pytest.mark.parametrize("more", [{}, {"model__preset": "tiny"}])
def test_what_is_no_run_is_no_start(corpus, tmp_path, more):
    for source in (tmp_path / "absent", THEIRS):
        with pytest.raises(InputError, match=r"is not a run's folder: no config\.toml"):
            finetuned(corpus, RunFolder(tmp_path / "tuned"), source, **more)


def test_a_checkpoint_of_another_model_is_named(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.config.write_text(
        folder.config.read_text().replace("layers = 2", "layers = 1")
    )
    for work in (
        lambda: resume(folder),
        lambda: of_run(folder),
        lambda: export_gpt2(folder.path, tmp_path / "out"),
    ):
        with pytest.raises(InputError, match=r"is of another model .* and \d+ more$"):
            work()
