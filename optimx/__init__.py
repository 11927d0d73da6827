"""optimx: MARS, AdEMAMix and CAME as parts of one algebra of Optax transformations."""

from optimx import monitor, registry, schedules
from optimx.codecs import bfloat16, float8_e4m3, int8_blockwise
from optimx.combine import graft, incoming, mix, precondition, residual, stages
from optimx.optimizers.adamw import adamw
from optimx.optimizers.ademamix import ademamix
from optimx.optimizers.came import came
from optimx.optimizers.crossings import ademamix_came, mars_ademamix, mars_came
from optimx.optimizers.lion import lion
from optimx.optimizers.mars import mars_adamw, mars_adamw_exact, mars_lion
from optimx.optimizers.mars_lean import mars_adamw_lean
from optimx.optimizers.matrices.mars import mars_m, mars_shampoo
from optimx.optimizers.matrices.muon import muon
from optimx.optimizers.matrices.muon_crossings import ademamix_muon, mars_ademamix_muon
from optimx.optimizers.matrices.shampoo import shampoo
from optimx.optimizers.matrices.soap import soap
from optimx.optimizers.matrices.soap_crossings import ademamix_soap, mars_soap
from optimx.partition import by_path, by_rank, describe_labels, hidden_matrices
from optimx.schedules import (
    half_life_warmup,
    horizon,
    linear_warmup,
    warmup_stable_decay,
)
from optimx.sharding import state_shardings
from optimx.stacks import in_stacks
from optimx.switching.switch import Switched, SwitchReport, switch
from optimx.transforms.clipping import clip_by_block_norm
from optimx.transforms.diagonal import scale_by_rms
from optimx.transforms.eigenbasis import in_eigenbasis
from optimx.transforms.factored import scale_by_factored_rms
from optimx.transforms.gradient_difference import (
    add_gradient_difference,
    add_stale_gradient_difference,
    value_and_stale_grad,
)
from optimx.transforms.kronecker import scale_by_kronecker
from optimx.transforms.momentum import ema
from optimx.transforms.orthogonal import (
    orthogonalize,
    scale_by_aspect_ratio,
    scale_by_longest_axis,
)
from optimx.wrappers.kinds import moments
from optimx.wrappers.layers import per_layer
from optimx.wrappers.matrices import as_matrices, matrices_only
from optimx.wrappers.precision import in_float32
from optimx.wrappers.quantize import quantized

__all__ = [
    "SwitchReport",
    "Switched",
    "adamw",
    "add_gradient_difference",
    "add_stale_gradient_difference",
    "ademamix",
    "ademamix_came",
    "ademamix_muon",
    "ademamix_soap",
    "as_matrices",
    "bfloat16",
    "by_path",
    "by_rank",
    "came",
    "clip_by_block_norm",
    "describe_labels",
    "ema",
    "float8_e4m3",
    "graft",
    "half_life_warmup",
    "hidden_matrices",
    "horizon",
    "in_eigenbasis",
    "in_float32",
    "in_stacks",
    "incoming",
    "int8_blockwise",
    "linear_warmup",
    "lion",
    "mars_adamw",
    "mars_adamw_exact",
    "mars_adamw_lean",
    "mars_ademamix",
    "mars_ademamix_muon",
    "mars_came",
    "mars_lion",
    "mars_m",
    "mars_shampoo",
    "mars_soap",
    "matrices_only",
    "mix",
    "moments",
    "monitor",
    "muon",
    "orthogonalize",
    "per_layer",
    "precondition",
    "quantized",
    "registry",
    "residual",
    "scale_by_aspect_ratio",
    "scale_by_factored_rms",
    "scale_by_kronecker",
    "scale_by_longest_axis",
    "scale_by_rms",
    "schedules",
    "shampoo",
    "soap",
    "stages",
    "state_shardings",
    "switch",
    "value_and_stale_grad",
    "warmup_stable_decay",
]
