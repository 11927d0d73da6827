"""Text into token files: ``optimx prepare``."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from optimx.training.data.documents import Files, Piece, Source
from optimx.training.data.formats import MOST_TOKENS
from optimx.training.data.hub import Hub
from optimx.training.data.manifest import SIDES, Manifest, file_sha256, open_manifest
from optimx.training.data.prepare_report import PrepareReport
from optimx.training.data.shard_writer import Shard, ShardWriter, put_file
from optimx.training.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    token_dtype,
    train_tokenizer,
)
from optimx.training.errors import InputError
from optimx.training.lock import exclusive

_LEARNED_FROM = 100_000_000  # characters that a new tokenizer is trained on
_AT_ONCE = 2**22  # characters that are encoded together


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What ``optimx prepare`` was asked for.

    Attributes:
      out: folder of the token files.
      source: text files, a folder, a glob, or ``stdlib``; empty with ``hub``.
      tokenizer: a ``tokenizer.json``, or None to train one.
      vocab: entries of the one that is trained.
      shard_tokens: tokens of a file.
      validation: share of the documents that is held out; 0 for none.
      hub: a Hugging Face dataset; empty with ``source``.
      config: of the dataset.
      split: of the dataset.
      text_column: of the dataset.
    """

    out: Path
    source: str = ""
    tokenizer: Path | None = None
    vocab: int | None = None
    shard_tokens: int = 100_000_000
    validation: float = 0.1
    hub: str = ""
    config: str = ""
    split: str = "train"
    text_column: str = "text"

    def __post_init__(self):
        if bool(self.source) == bool(self.hub):
            raise InputError("prepare: needs either SOURCE or --hub NAME")
        if (self.tokenizer is None) == (self.vocab is None):
            raise InputError("prepare: needs either --tokenizer FILE or --vocab N")
        for name, value, low, high in (
            ("vocab", self.vocab, 257, 2**20),
            ("shard-tokens", self.shard_tokens, 1, MOST_TOKENS),
        ):
            if value is not None and not low <= value <= high:
                raise InputError(f"--{name} {value}: must be from {low} to {high}")
        if not 0 <= self.validation < 1:
            raise InputError(
                f"--validation {self.validation}: must be at least 0 and below 1"
            )


def prepare(asked: Preparation, report: PrepareReport) -> Manifest:
    """Writes the token files, or those that an earlier attempt did not finish.

    A document is followed by end-of-text. Whatever interrupts it, the files that it
    leaves in the end are the same to the last byte.

    Raises:
      InputError: the source or the tokenizer cannot be used, the folder belongs to
        other work, is being written or cannot be, the disk is full.
    """
    given = None if asked.tokenizer is None else load_tokenizer(asked.tokenizer)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{asked.out}: cannot be made: {error.strerror}") from error
    with exclusive(asked.out, "another optimx prepare"):
        return _prepare(asked, given, report)


def _prepare(
    asked: Preparation, given: Tokenizer | None, report: PrepareReport
) -> Manifest:
    source = _source(asked)
    report.say("Looking at the documents")
    manifest = open_manifest(asked.out, _options(asked), source.describe())
    if manifest.complete:
        report.say(f"{asked.out} is complete already: {_counts(manifest)}")
        return manifest
    manifest.save(asked.out)
    tokenizer = _tokenizer(asked, given, manifest, source, report)
    manifest.save(asked.out)
    _write(asked, manifest, source, tokenizer, report)
    if not manifest.tokens("train"):
        raise InputError(f"{asked.source or asked.hub}: holds no text to learn from")
    manifest.complete = True
    manifest.save(asked.out)
    report.say(
        f"{asked.out} is complete: {_counts(manifest)}; {manifest.dtype}, vocabulary "
        f"{tokenizer.get_vocab_size()}"
    )
    return manifest


def _source(asked: Preparation) -> Source:
    if asked.hub:
        return Hub(
            asked.hub, asked.config, asked.split, asked.text_column, asked.validation
        )
    return Files(asked.source, asked.validation)


def _options(asked: Preparation) -> dict[str, object]:
    given = asked.tokenizer
    return {
        "--tokenizer": "" if given is None else file_sha256(given),
        "--vocab": asked.vocab,
        "--shard-tokens": asked.shard_tokens,
        "--validation": asked.validation,
    }


def _counts(manifest: Manifest) -> str:
    files = sum(len(manifest.shards[side]) for side in SIDES)
    train, held_out = (manifest.tokens(side) for side in SIDES)
    return f"{train:,} training and {held_out:,} held-out tokens in {files} files"


def _tokenizer(
    asked: Preparation,
    given: Tokenizer | None,
    manifest: Manifest,
    source: Source,
    report: PrepareReport,
) -> Tokenizer:
    """The tokenizer that lies in the folder now and then."""
    path = asked.out / "tokenizer.json"
    before = manifest.tokenizer_sha256
    if before and path.exists() and file_sha256(path) == before:
        return load_tokenizer(path)
    if given is None:
        report.say(f"Training a tokenizer with {asked.vocab} entries")
        given = train_tokenizer(_learned_from(source), asked.vocab)
    put_file(path, given.to_str().encode())
    manifest.tokenizer_sha256 = file_sha256(path)
    if before and manifest.tokenizer_sha256 != before:
        raise InputError(f"{path}: is not the one that made the finished shards")
    manifest.dtype = token_dtype(given).__name__
    return given


def _learned_from(source: Source) -> Iterator[str]:
    left = _LEARNED_FROM
    for piece in source.pieces():
        if left <= 0:
            return
        if not piece.held_out:
            left -= len(piece.text)
            yield piece.text


def _write(
    asked: Preparation,
    manifest: Manifest,
    source: Source,
    tokenizer: Tokenizer,
    report: PrepareReport,
) -> None:
    writers = [_writer(asked, manifest, side, report) for side in SIDES]
    end = tokenizer.token_to_id(END_OF_TEXT)
    start = min(writer.begin for writer in writers)
    report.start(source.total, source.unit, source.before(start))
    try:
        for pieces in _batches(source.pieces(start), writers, report):
            texts = [piece.text for piece in pieces]
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for piece, item in zip(pieces, encoded, strict=True):
                tokens = np.array([*item.ids, end] if piece.ends else item.ids)
                writers[piece.held_out].add(piece.position, tokens)
                report.advance(piece.size, len(tokens))
        for writer in writers:
            writer.finish()
    finally:
        for writer in writers:
            writer.abandon()


def _writer(
    asked: Preparation, manifest: Manifest, side: str, report: PrepareReport
) -> ShardWriter:
    def finished(shard: Shard) -> None:
        manifest.shards[side].append(shard)
        manifest.save(asked.out)
        report.say(f"{shard.file}: {shard.tokens:,} tokens")

    return ShardWriter(
        asked.out,
        side,
        size=asked.shard_tokens,
        dtype=np.dtype(manifest.dtype).newbyteorder("<"),
        shards=manifest.shards[side],
        finished=finished,
    )


def _batches(
    pieces: Iterator[Piece], writers: list[ShardWriter], report: PrepareReport
) -> Iterator[list[Piece]]:
    """Pieces that are still to be written, about ``_AT_ONCE`` characters together."""
    batch, size = [], 0
    for piece in pieces:
        whole = piece.ends and not piece.position[1]
        empty = whole and not piece.text.strip()
        if empty or piece.position < writers[piece.held_out].begin:
            report.advance(piece.size, 0)
            continue
        batch.append(piece)
        size += len(piece.text)
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
