"""A run's configuration: read, checked, filled in, written."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from optimx.training import optimizer as optimizers
from optimx.training.errors import InputError
from optimx.training.folder import RunFolder
from optimx.training.resolve import resolve_data, resolve_model, resolve_schedule
from optimx.training.sections import (
    SECTION_TYPES,
    Checkpoint,
    Data,
    Mesh,
    Model,
    Schedule,
    Train,
    build_section,
)
from optimx.training.settings import (
    SECTIONS,
    Layer,
    Setting,
    merge,
    read_file,
    read_overrides,
    read_text,
    section,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on, with no key left open."""

    model: Model
    optimizer: optimizers.Optimizer
    schedule: Schedule
    data: Data
    train: Train
    mesh: Mesh
    checkpoint: Checkpoint

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update of the parameters learns from."""
        sequences = self.train.batch_size * self.train.accumulation
        return sequences * self.data.context

    @property
    def batch_shape(self) -> tuple[int, int]:
        """(accumulation, batch size): the leading axes of a training batch."""
        return self.train.accumulation, self.train.batch_size


def load_config(
    path: Path | None = None, overrides: Iterable[tuple[str, str]] = ()
) -> Config:
    """The configuration of a file and of dotted arguments, resolved.

    Args:
      path: a TOML file, or None for the defaults.
      overrides: pairs such as ``("train.steps", "500")``; they win over the file.

    Raises:
      InputError: an unknown section or key, a value of the wrong type or out of
        range, sizes that do not fit together.
    """
    file = {} if path is None else read_file(path)
    return resolve_layers([file, read_overrides(overrides)])


def resolve_layers(layers: Iterable[Layer]) -> Config:
    """The configuration that settings mean.

    Args:
      layers: of settings, the later the stronger, all above the defaults.

    Raises:
      InputError: as :func:`load_config`.
    """
    default: Layer = {"optimizer.name": Setting(optimizers.DEFAULT, "default")}
    return _resolve(merge([default, *layers]))


def parse_config(text: str, origin: str) -> Config:
    """The configuration that :func:`dump_config` wrote.

    Args:
      text: that it returned.
      origin: says in errors where the text is from.

    Raises:
      InputError: as :func:`load_config`.
    """
    return _resolve(read_text(text, origin))


def switch_config(path: Path, overrides: Iterable[tuple[str, str]]) -> Config:
    """The configuration of a run that goes on with another optimizer.

    Args:
      path: of the run's config.toml.
      overrides: dotted settings of ``[optimizer]``; none: as it is.

    Raises:
      InputError: a setting of something else, or as :func:`load_config`.
    """
    overrides = list(overrides)
    for key, _ in overrides:
        if not key.startswith("optimizer."):
            raise InputError(
                f"--{key}: a run goes on with its own settings; only those of its "
                "optimizer can change, such as --optimizer.name ademamix"
            )
    config = load_config(path, overrides)
    if not overrides:
        return config
    name = config.optimizer.rule.name
    checkpoint = dataclasses.replace(config.checkpoint, switch_to=name)
    return dataclasses.replace(config, checkpoint=checkpoint)


def _resolve(layer: Layer) -> Config:
    if layer.get("data.tokenizer", Setting(None, "")).value == "":
        # What a run's own config.toml says where it has none.
        layer = {k: v for k, v in layer.items() if k != "data.tokenizer"}
    layer = _inherited(layer) | layer
    parts = {name: build_section(name, section(layer, name)) for name in SECTION_TYPES}
    train = parts["train"]
    model = resolve_model(parts["model"])
    model = dataclasses.replace(model, init=_absolute(model.init))
    data = resolve_data(parts["data"], model)
    return Config(
        model=model,
        optimizer=optimizers.resolve_optimizer(
            section(layer, "optimizer"), train.steps
        ),
        schedule=resolve_schedule(parts["schedule"], train.steps),
        data=dataclasses.replace(
            data,
            path=_absolute(data.path),
            validation_path=_absolute(data.validation_path),
            tokenizer=_absolute(data.tokenizer),
        ),
        train=train,
        mesh=parts["mesh"],
        checkpoint=parts["checkpoint"],
    )


def _inherited(layer: Layer) -> Layer:
    """What a run that starts from another's parameters has from there.

    That is the model's sizes, unless a preset is named, and the tokenizer. A run's
    own config.toml says both, so that it does without the other folder.
    """
    init = layer.get("model.init", Setting("", "")).value
    if not init or not isinstance(init, str):
        return {}
    folder = RunFolder(Path(_absolute(init)))
    found: Layer = {}
    if "model.preset" not in layer:
        folder.require()
        model = dataclasses.asdict(load_config(folder.config).model)
        for key in model.keys() - {"init"}:
            found[f"model.{key}"] = Setting(model[key], str(folder.config))
    if folder.tokenizer.is_file():
        name = str(folder.tokenizer)
        found["data.tokenizer"] = Setting(name, f"model.init = {init}")
    return found


def _absolute(path: str) -> str:
    """The path from the root, so that a run can be resumed from any folder."""
    return os.path.abspath(os.path.expanduser(path)) if path else path


def dump_config(config: Config) -> str:
    """TOML that :func:`load_config` turns into the same configuration."""
    return tomli_w.dumps(tables(config))


def tables(config: Config) -> dict[str, Any]:
    """The sections as a file has them, by name."""
    found: dict[str, Any] = {}
    for name in SECTIONS:
        if name == "optimizer":
            found[name] = _optimizer_table(config.optimizer)
        else:
            found[name] = _writable(dataclasses.asdict(getattr(config, name)))
    return found


def _optimizer_table(optimizer: optimizers.Optimizer) -> dict[str, Any]:
    table = _rule_table(optimizer.rule)
    if optimizer.others is not None:
        paths = {"paths": list(optimizer.paths)}
        table["others"] = _rule_table(optimizer.others) | paths
    return table


def _rule_table(rule: optimizers.Rule) -> dict[str, Any]:
    named = {"name": rule.name, "learning_rate": rule.learning_rate}
    return named | _writable(rule.hyperparameters)


def _writable(table: Mapping[str, Any]) -> dict[str, Any]:
    """What TOML can say: a key without a value is a key that is absent."""
    kinds = (bool, int, float, str, list, tuple)
    return {k: v for k, v in table.items() if isinstance(v, kinds)}
