"""Which runs ``forgetting`` compares, and what is kept of them."""

from optimx.bench.claims.forgetting import arms
from optimx.bench.claims.request import Request


def test_the_first_optimizer_runs_at_the_others_rates_too(overrides):
    def labels(*names):
        chosen = arms(Request("forgetting", overrides=overrides), names, 50)
        return [(arm.label, arm.settings) for arm in chosen]

    at = {"optimizer.learning_rate": 1e-3}
    assert labels("adamw", "ademamix") == [
        ("adamw", {}),
        ("ademamix", {}),
        ("adamw at 0.001", at),
    ]
    # Both have a learning rate of 0.001 in their recipes: nothing to add.
    assert labels("ademamix", "came") == [("ademamix", {}), ("came", {})]
    # One such rate is run once.
    assert len(labels("adamw", "ademamix", "came")) == 4
    request = Request("forgetting", overrides=overrides)
    rule = request.config("adamw", 50, at).optimizer.rule
    assert (rule.name, rule.learning_rate) == ("adamw", 1e-3)
