import jax
import jax.numpy as jnp
import numpy as np

from optimx.training.data import validation_batches
from optimx.training.evaluate import make_evaluate
from optimx.training.network import model
from optimx.training.network.model import mean_loss
from training.small import config


def test_the_validation_loss_is_the_mean_over_all_batches(corpus):
    chosen = config(corpus)
    params = model.init(chosen.model, 0)
    held_out = np.random.default_rng(0).integers(0, 300, 500)
    batches = validation_batches(held_out, batches=3, batch_size=2, context=16)
    found = make_evaluate(chosen, batches)(params)
    together = jnp.asarray(batches.reshape(6, 17))
    expected = jax.jit(mean_loss, static_argnums=(0, 3))(
        chosen.model, params, together, "float32"
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_several_models_have_a_loss_each(corpus):
    chosen = config(corpus)
    models = [model.init(chosen.model, seed) for seed in (0, 1)]
    held_out = np.random.default_rng(0).integers(0, 300, 500)
    batches = validation_batches(held_out, batches=3, batch_size=2, context=16)
    stacked = jax.tree.map(lambda *one: jnp.stack(one), *models)
    found = make_evaluate(chosen, batches, several=True)(stacked)
    one_by_one = make_evaluate(chosen, batches)
    expected = [one_by_one(params) for params in models]
    assert expected[0] != expected[1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
