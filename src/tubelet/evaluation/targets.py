"""What the labels of a list mean to a model: indices of its classes, head by head."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tubelet.evaluation.annotations import AnnotatedList
from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.manifest import Head

__all__ = ["Classes", "classes_of", "resolve_label", "targets_of"]

SEPARATOR = "|"
"""Between several labels of one video, for multi-label heads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Classes:
    """One head's classes."""

    head: str
    activation: Literal["softmax", "sigmoid"]
    names: tuple[str, ...]
    """By index."""


def classes_of(heads: Sequence[Head], names: Sequence[str]) -> tuple[Classes, ...]:
    """Parts the names of all classes among the heads.

    Args:
        heads: of the contract.
        names: ``[C]``, one head's after the other's.

    Raises:
        InvalidRequestError: ``bad_input``, there are more or fewer names than classes.
    """
    if len(names) != (num_classes := sum(head.num_classes for head in heads)):
        raise InvalidRequestError(
            "bad_input", f"the model has {num_classes} classes, but {len(names)} names were given"
        )
    ends = np.cumsum([head.num_classes for head in heads]).tolist()
    return tuple(
        Classes(head=head.name, activation=head.activation, names=tuple(names[end - head.num_classes : end]))
        for head, end in zip(heads, ends, strict=True)
    )


def targets_of(listed: AnnotatedList, heads: Sequence[Classes]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Indices of the right classes of every row, for every head: one of a softmax head, any number of a sigmoid head.

    Raises:
        InvalidRequestError: ``bad_input``, the list has no column for a head, not a single label for one, or a label
            that the model does not know; names the line, the label, and classes that are spelt like it.
    """
    return tuple(_targets(listed, head, column) for head, column in zip(heads, _columns(listed, heads), strict=True))


def resolve_label(label: str, names: Mapping[str, int], num_classes: int) -> int:
    """Returns the index of a class that is given by name or, where no class has that name, by index.

    Copies of annotation files spell names with underscores, other capitals or quotation marks: where one class alone
    differs from the label by these, it is meant.

    Raises:
        InvalidRequestError: ``bad_input``, the model has no such class; names those that are spelt like it.
    """
    if label in names:
        return names[label]
    if label.isascii() and label.isdigit() and len(label) < 10 and int(label) < num_classes:
        return int(label)
    meant = [index for name, index in names.items() if _plain(name) == _plain(label)]
    if len(meant) == 1:
        return meant[0]
    folded = {name.casefold(): name for name in names}
    close = [folded[name] for name in difflib.get_close_matches(label.casefold(), folded, n=3)]
    hint = f"; close to it are {', '.join(map(repr, close))}" if close else ""
    raise InvalidRequestError(
        "bad_input", f"label {label!r} is neither a class's name nor an index below {num_classes}{hint}"
    )


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").strip("\"' ").split())


def _columns(listed: AnnotatedList, heads: Sequence[Classes]) -> list[int]:
    """Which label column of the list belongs to each head."""
    if len(heads) == 1 and len(listed.columns) == 1:
        return [0]
    if missing := [head.head for head in heads if head.head not in listed.columns]:
        raise InvalidRequestError(
            "bad_input",
            f"{listed.file} has the label columns {', '.join(listed.columns)}, but none for the model's "
            f"{'heads' if len(missing) > 1 else 'head'} {', '.join(missing)}",
        )
    return [listed.columns.index(head.head) for head in heads]


def _targets(listed: AnnotatedList, head: Classes, column: int) -> tuple[tuple[int, ...], ...]:
    names = {} if listed.by_index else {name: index for index, name in enumerate(head.names)}
    known: dict[str, tuple[int, ...]] = {}
    for row in listed.rows:
        text = row.labels[column]
        if text not in known:
            try:
                known[text] = _indices(text, head, names)
            except InvalidRequestError as exc:
                raise InvalidRequestError(exc.code, f"{listed.file}, line {row.line}: {exc.message}") from exc
    if not any(known.values()):
        raise InvalidRequestError("bad_input", f"{listed.file} has not a single label for the head {head.head}")
    return tuple(known[row.labels[column]] for row in listed.rows)


def _indices(text: str, head: Classes, names: Mapping[str, int]) -> tuple[int, ...]:
    if head.activation == "softmax":
        if not text:
            raise InvalidRequestError("bad_input", f"a label is needed for the head {head.head}")
        return (resolve_label(text, names, len(head.names)),)
    labels = (label.strip() for label in text.split(SEPARATOR))
    return tuple(sorted({resolve_label(label, names, len(head.names)) for label in labels if label}))
