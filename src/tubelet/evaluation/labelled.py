"""A list whose labels were held against a model's classes: what its scores are compared with, now or later."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tubelet.archive.items import Item
from tubelet.evaluation.annotations import AnnotatedList
from tubelet.evaluation.result import ListFile
from tubelet.evaluation.targets import Classes
from tubelet.spec.errors import InvalidRequestError, RecipeError
from tubelet.spec.files import save_json
from tubelet.spec.strict import decode

__all__ = ["LabelledList"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledList:
    """N rows in columns, the order of the list kept."""

    schema_version: Literal[1]
    list_file: ListFile
    heads: tuple[Classes, ...]
    """Of the model, in the order of its contract."""
    product: str | None
    """Name of what the heads say together; None: the model has none."""
    lines: tuple[int, ...]
    uris: tuple[str, ...]
    starts_s: tuple[float | None, ...]
    ends_s: tuple[float | None, ...]
    wanted: tuple[tuple[tuple[int, ...], ...], ...]
    """The right classes of each head, of each row: one of a softmax head, any number of a sigmoid head."""

    @classmethod
    def of(
        cls,
        listed: AnnotatedList,
        heads: tuple[Classes, ...],
        product: str | None,
        wanted: tuple[tuple[tuple[int, ...], ...], ...],
    ) -> LabelledList:
        """Puts together what was read and what it means to the model."""
        items = listed.items
        return cls(
            schema_version=1,
            list_file=ListFile(
                file=listed.file,
                format=listed.format,
                sha256=listed.sha256,
                num_rows=len(items) + listed.num_skipped,
                num_skipped=listed.num_skipped,
            ),
            heads=heads,
            product=product,
            lines=tuple(row.line for row in listed.rows),
            uris=tuple(item.uri for item in items),
            starts_s=tuple(item.start_s for item in items),
            ends_s=tuple(item.end_s for item in items),
            wanted=wanted,
        )

    def __len__(self) -> int:
        return len(self.uris)

    @property
    def items(self) -> list[Item]:
        """What is to be scored."""
        return [Item(*item) for item in zip(self.uris, self.starts_s, self.ends_s, strict=True)]

    def right_class(self, head: int) -> NDArray[np.int64]:
        """Of a softmax head: ``[N]``."""
        return np.array([indices[0] for indices in self.wanted[head]], dtype=np.int64)

    def right_classes(self, head: int) -> NDArray[np.bool_]:
        """Of a sigmoid head: ``[N, C]``."""
        has = np.zeros((len(self), len(self.heads[head].names)), dtype=np.bool_)
        for row, indices in enumerate(self.wanted[head]):
            has[row, list(indices)] = True
        return has

    def wanted_names(self, head: int) -> list[tuple[str, ...]]:
        """The right classes of a head by their names, row by row."""
        names = self.heads[head].names
        return [tuple(names[index] for index in indices) for indices in self.wanted[head]]

    def save(self, path: Path) -> None:
        """Writes the list as JSON; who reads meanwhile sees the old file or the new one."""
        save_json(self, path)

    @classmethod
    def load(cls, path: Path) -> LabelledList:
        """Reads what `save` wrote.

        Raises:
            InvalidRequestError: ``bad_input``, the file cannot be read or is no such list.
        """
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            return decode(cls, data, where="list")
        except (OSError, ValueError, RecipeError) as exc:
            raise InvalidRequestError(
                "bad_input", f"{path.parent} is no folder that `tubelet evaluate --out` has filled: {exc}"
            ) from exc
