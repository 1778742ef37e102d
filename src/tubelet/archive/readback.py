"""Reads single rows back from parts, which are cut into groups for that."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pyarrow as pa

from tubelet.archive.parts import open_part, part_name, unbroken
from tubelet.spec.errors import ContractError

__all__ = ["PartReader"]

_GROUPS_KEPT = 8


class PartReader:
    """Keeps the groups that were read last: the same content tends to come in runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: OrderedDict[tuple[int, int], tuple[int, pa.Table]] = OrderedDict()

    def find(self, number: int, place: int) -> tuple[pa.Table, int]:
        """The table, and the place in it, of the row at ``place`` of part ``number``, both from 0.

        Raises:
            ContractError: ``contract_mismatch``: the part is missing, damaged or too short.
        """
        for (kept, group), (first, table) in self._kept.items():
            if kept == number and first <= place < first + table.num_rows:
                self._kept.move_to_end((kept, group))
                return table, place - first
        group, first, table = self._read(number, place)
        self._kept[number, group] = first, table
        if len(self._kept) > _GROUPS_KEPT:
            self._kept.popitem(last=False)
        return table, place - first

    def _read(self, number: int, place: int) -> tuple[int, int, pa.Table]:
        path = self._folder / part_name(number)
        with open_part(path) as part, unbroken(path):
            first = 0
            for group in range(part.num_row_groups):
                rows = part.metadata.row_group(group).num_rows
                if place < first + rows:
                    return group, first, part.read_row_group(group)
                first += rows
        raise ContractError("contract_mismatch", f"{path} has {first} rows, row {place} was written into it")
