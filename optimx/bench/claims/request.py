"""What somebody wants tried: checked, and the runs that it means."""

import dataclasses
from collections.abc import Mapping

from optimx.training import catalogue
from optimx.training.config import Config, load_config
from optimx.training.data import Dataset, check_sizes, load_dataset
from optimx.training.errors import InputError, nearest

# Small enough that all claims together take minutes on two cores.
_MODEL = {"model.width": "64", "model.context": "64", "model.vocab": "1024"}
_QUICK = {
    "model.layers": "1",
    "model.width": "64",
    "model.context": "64",
    "model.vocab": "512",
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A claim, and the runs it is tried on.

    Attributes:
      claim: its name.
      quick: seconds instead of minutes, to see that it works: numbers of a model and
        of runs too small to tell anything.
      only: optimizers of the runs; the claim's own where empty.
      overrides: dotted settings of the runs.

    Raises:
      InputError: an optimizer that there is not, a setting of an optimizer.
    """

    claim: str
    quick: bool = False
    only: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        for name in self.only:
            if name not in catalogue.names():
                hint = nearest(name, catalogue.names())
                raise InputError(f"--only {name}: there is no such optimizer{hint}")
        for key, _ in self.overrides:
            if key.startswith("optimizer."):
                raise InputError(
                    f"--{key}: the optimizers of a claim run by their recipes; --only "
                    "names others"
                )

    def config(
        self, optimizer: str, steps: int, more: Mapping[str, object] | None = None
    ) -> Config:
        """The configuration of a run.

        Args:
          optimizer: its name.
          steps: unless the request says another number.
          more: settings that nothing overrides.
        """
        defaults = {"train.steps": str(steps)} | (_QUICK if self.quick else _MODEL)
        named = {"optimizer.name": optimizer}
        forced = {key: str(value) for key, value in (more or {}).items()}
        pairs = (*defaults.items(), *self.overrides, *named.items(), *forced.items())
        return load_config(None, pairs)


def data_of(config: Config) -> Dataset:
    """The data of a run, large enough for it."""
    data = load_dataset(config.data, config.model.vocab)
    check_sizes(data, config.data, config.train)
    return data
