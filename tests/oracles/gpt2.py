"""GPT-2's forward pass in numpy: one sequence, one head, one position at a time.

Parameters are a nested dict with kernels as (in, out); layer i is `h_{i}`.
"""

import math

import numpy as np


def gpt2(params, tokens, *, heads):
    """Logits, (sequence, vocabulary), for one sequence of integer tokens."""
    x = np.stack(
        [
            params["wte"]["embedding"][token] + params["wpe"]["embedding"][position]
            for position, token in enumerate(tokens)
        ]
    )
    layers = sum(name.startswith("h_") for name in params)
    for layer in range(layers):
        block = params[f"h_{layer}"]
        x = x + attention(block["attention"], layer_norm(block["ln_1"], x), heads)
        hidden = gelu(linear(block["mlp"]["up"], layer_norm(block["ln_2"], x)))
        x = x + linear(block["mlp"]["down"], hidden)
    return layer_norm(params["ln_f"], x) @ params["wte"]["embedding"].T


def linear(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def layer_norm(p, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * p["scale"] + p.get("bias", 0.0)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(p, x, heads):
    length, width = x.shape
    size = width // heads
    query, key, value = np.split(linear(p["qkv"], x), 3, axis=-1)
    mixed = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for position in range(length):
            seen = slice(0, position + 1)
            scores = key[seen, part] @ query[position, part] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            mixed[position, part] = weights @ value[seen, part] / weights.sum()
    return linear(p["out"], mixed)
