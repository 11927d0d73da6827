"""Documents of a Hugging Face dataset, streamed."""

from collections.abc import Iterator
from typing import Any

from optimx.training.data.corpus import position_of
from optimx.training.data.documents import START, Piece, Position
from optimx.training.errors import InputError


class Hub:
    """The rows of a dataset, one document each; needs the extra ``hub``.

    A row is held out when the hash of its number says so.

    Args:
      name: of the dataset, or a folder that holds one.
      config: of the dataset; empty for its only one.
      split: which rows.
      column: that holds the text.
      share: of the rows that is held out; 0 for none.

    Raises:
      InputError: ``datasets`` is not installed, or cannot open this dataset.
    """

    total = None
    unit = "documents"

    def __init__(self, name: str, config: str, split: str, column: str, share: float):
        try:
            import datasets
        except ImportError as error:
            raise InputError(
                "datasets is not installed; --hub needs: "
                "python -m pip install -e '.[hub]'"
            ) from error
        self._name, self._config, self._split = name, config, split
        self._column, self._share = column, share
        try:
            self._rows = datasets.load_dataset(
                name, config or None, split=split, streaming=True
            )
        except Exception as error:  # the package raises errors of many kinds
            raise self._broken("cannot be opened", error) from error

    def describe(self) -> dict[str, Any]:
        """Name, configuration, split and column; the rows have no hash."""
        return {
            "kind": "hub",
            "name": self._name,
            "config": self._config,
            "split": self._split,
            "column": self._column,
        }

    def before(self, start: Position) -> int:
        """The rows before ``start``."""
        return start[0]

    def pieces(self, start: Position = START) -> Iterator[Piece]:
        """The rows from ``start`` on, which is (row, 0).

        Raises:
          InputError: the stream breaks, or a row has no text in the column.
        """
        first, _ = start
        try:
            rows = iter(self._rows.skip(first) if first else self._rows)
        except Exception as error:
            raise self._broken("cannot be read", error) from error
        number = first
        while (row := self._next(rows)) is not None:
            text = row.get(self._column)
            if not isinstance(text, str):
                raise InputError(
                    f"--text-column {self._column}: row {number} of {self._name} has "
                    f"no text there; its columns: {', '.join(row)}"
                )
            held_out = position_of(str(number)) < self._share
            yield Piece(text, (number, 0), True, held_out, 1)
            number += 1

    def _next(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        try:
            return next(rows, None)
        except Exception as error:
            raise self._broken("cannot be read on", error) from error

    def _broken(self, what: str, error: Exception) -> InputError:
        words = " ".join(str(error).split()) or type(error).__name__
        return InputError(f"--hub {self._name}: {what}: {words}")
