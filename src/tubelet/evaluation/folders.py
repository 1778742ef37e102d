"""Where the videos of a list lie: a folder of this machine, or one behind a URL."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from tubelet.archive.addresses import checked, is_url, resolve
from tubelet.archive.sources import open_source
from tubelet.spec.errors import InvalidRequestError

__all__ = ["VideoFolder"]


class VideoFolder:
    """Finds files by their names relative to a folder. A folder behind a URL is listed once, not asked file by file.

    Args:
        root: a path, or a URL that fsspec opens (``s3://bucket/folder``).
        storage_options: for fsspec, of a URL.
    """

    def __init__(self, root: str, storage_options: Mapping[str, object] = MappingProxyType({})) -> None:
        self._storage_options = storage_options
        self.root = root.rstrip("/") if is_url(root) else str(Path(root).absolute())

    def address(self, name: str) -> str:
        """Address of a file: ``name`` itself where that is an absolute path or a URL.

        Raises:
            InvalidRequestError: ``bad_input``, no file can have such a name.
        """
        try:
            return resolve(checked(name), self.root)
        except ValueError as exc:
            raise InvalidRequestError("bad_input", str(exc)) from exc

    def holds(self, name: str) -> bool:
        """Whether that file is there; of a URL outside of this folder it is taken for granted.

        Raises:
            InvalidRequestError: ``bad_input``, no file can have such a name, or the folder cannot be listed.
        """
        address = self.address(name)
        if not is_url(address):
            return os.path.isfile(address)  # noqa: PTH113  tens of thousands of them
        return not address.startswith(f"{self.root}/") or address in self._listed

    @cached_property
    def _listed(self) -> frozenset[str]:
        return frozenset(item.uri for item in open_source(self.root, self._storage_options).items())
