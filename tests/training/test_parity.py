"""The numbers of ``transformers`` itself, which the ``parity`` extra installs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimx.training.data import load_tokenizer
from optimx.training.folder import RunFolder
from optimx.training.interop import export_gpt2
from optimx.training.interop.names import to_params, to_tensors
from optimx.training.sample import sample
from training.small import config
from training.test_interop import assert_near, forward, gradient, imported, write_run

torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="nor is this")

from training.fixtures.make_gpt2 import computed, jittered_gpt2  # noqa: E402


def assert_parity(theirs, config, params):
    """Logits and every gradient, on the same tokens."""
    size = (3, config.context)
    tokens = np.random.default_rng(0).integers(0, config.vocab, size)
    expected = {
        name: tensor.detach().numpy()
        for name, tensor in computed(theirs, torch.tensor(tokens)).items()
    }
    assert_near(forward(config, params, jnp.asarray(tokens)), expected["logits"])
    grads = gradient(config, params, jnp.asarray(tokens), jnp.float32)
    for name, grad in to_tensors(config, grads).items():
        if name.endswith(".bias") and not config.bias:
            continue  # theirs are there, and zero, but have a gradient
        want = expected["gradient." + name.removeprefix("transformer.")]
        assert_near(grad, want, name)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_what_is_imported_computes_the_same(tmp_path, activation):
    sizes = {"n_layer": 3, "n_embd": 24, "n_head": 3, "vocab_size": 100}
    theirs = jittered_gpt2(**sizes, activation_function=activation)
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = imported(tmp_path / "theirs", tmp_path / "run")
    assert (config.layers, config.heads, config.vocab) == (3, 3, 100)
    assert_parity(theirs, config, params)


def test_what_transformers_cuts_into_shards_is_put_together(tmp_path):
    theirs = jittered_gpt2()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    assert_parity(theirs, *imported(tmp_path / "theirs", tmp_path / "run"))


def test_half_precision_is_read_as_transformers_reads_it(tmp_path):
    theirs = jittered_gpt2().bfloat16()
    theirs.save_pretrained(tmp_path / "theirs")
    assert_parity(theirs.float(), *imported(tmp_path / "theirs", tmp_path / "run"))


@pytest.fixture(params=["true", "false"], ids=["biases", "no biases"])
def ours(request, corpus, tmp_path):
    """A run with a tokenizer and one checkpoint of jittered parameters."""
    chosen = config(corpus, model__layers=2, model__bias=request.param)
    folder = RunFolder(tmp_path / "run")
    params = write_run(folder, chosen)
    return folder, chosen.model, params


def test_transformers_loads_what_is_exported(ours, tmp_path):
    folder, sizes, params = ours
    export_gpt2(folder.path, tmp_path / "out")
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert all(not found for found in report.values()), report
    assert_parity(theirs.eval(), sizes, params)
    theirs.save_pretrained(tmp_path / "again")
    again, back = imported(tmp_path / "again", tmp_path / "back")
    # transformers keeps keys of config.json that it does not know: no biases too.
    assert again.bias == sizes.bias
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_tokenizer_and_greedy_text_are_the_same(ours, tmp_path):
    folder, sizes, params = ours
    export_gpt2(folder.path, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    mine = load_tokenizer(folder.tokenizer)
    for text in ("def f(x): return x", " \n\täöü€", "a<|endoftext|>b", ""):
        ids = theirs(text)["input_ids"]
        assert ids == mine.encode(text).ids
        assert theirs.decode(ids) == mine.decode(ids, skip_special_tokens=False)
    gpt2 = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    start = theirs("def f", return_tensors="pt")
    steps = sizes.context - start["input_ids"].shape[1]
    written = gpt2.generate(**start, max_new_tokens=steps, do_sample=False)
    text = sample(sizes, params, mine, "def f", tokens=steps, temperature=0)
    assert text == theirs.decode(written[0], skip_special_tokens=True)


def test_a_renamed_tensor_would_show(ours):
    """The jitter tells any two parameters of one shape apart."""
    _, sizes, params = ours
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in to_tensors(sizes, params).items()
    }
    one, other = "h.0.ln_1.weight", "h.0.ln_2.weight"
    tensors[one], tensors[other] = tensors[other], tensors[one]
    swapped = to_params(sizes, tensors, "here")
    tokens = jnp.arange(sizes.context)[None]
    before, after = (forward(sizes, p, tokens) for p in (params, swapped))
    with pytest.raises(AssertionError):
        assert_near(after, before)
