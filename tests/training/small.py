"""A corpus and a model so small that a whole run takes seconds."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from optimx.training.config import Config, load_config

_WORDS = "def return self if else for in import class None True x y z ( ) : = + [ ]"


# First tokens of a sequence that no corpus here has.
BAD_LOSS, BAD_GRAD = (299, 299, 298), (299, 299, 297)


def write_corpus(folder: Path, files: int = 8, words: int = 600) -> Path:
    """Text files of random words in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for i in range(files):
        text = " ".join(generator.choice(_WORDS.split(), words))
        (folder / f"file_{i}.txt").write_text(text)
    return folder


def settings(corpus: Path, **more: object) -> dict[str, str]:
    """Dotted settings of a run that takes seconds; underscores twice for dots."""
    chosen = {
        "model.layers": 1,
        "model.heads": 2,
        "model.width": 16,
        "model.context": 16,
        "model.vocab": 300,
        "data.source": "text",
        "data.path": corpus,
        "data.validation": 0.3,
        "train.steps": 8,
        "train.batch_size": 4,
        "train.eval_every": 4,
        "train.eval_batches": 2,
        "train.log_every": 1,
        "schedule.warmup": 2,
    }
    chosen |= {key.replace("__", "."): value for key, value in more.items()}
    return {key: str(value) for key, value in chosen.items()}


def config(corpus: Path, **more: object) -> Config:
    """The configuration of such a run."""
    return load_config(None, settings(corpus, **more).items())


def words(corpus: Path, **more: object) -> list[str]:
    """The same as command-line arguments."""
    return [
        word
        for key, value in settings(corpus, **more).items()
        for word in (f"--{key}", value)
    ]


def faulty(mean_loss):
    """The loss, NaN on one kind of batch, with a gradient of NaN on another."""

    def wrapped(config, params, tokens_BxS, dtype):
        def begins_as(tokens):
            return (tokens_BxS[0, :3] == jnp.asarray(tokens)).all()

        loss = mean_loss(config, params, tokens_BxS, dtype)
        some = params["ln_f"]["scale"]
        nothing = jnp.sum((some - jax.lax.stop_gradient(some)) ** 2)
        # The root of 0 has no slope.
        sharp = jnp.sqrt(jnp.where(begins_as(BAD_GRAD), nothing, 1.0))
        loss += jnp.where(begins_as(BAD_GRAD), sharp, 0.0)
        return loss * jnp.where(begins_as(BAD_LOSS), jnp.nan, 1.0)

    return wrapped
