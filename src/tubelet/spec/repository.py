"""What a model repository holds: ``repository.json`` at its top, written last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.spec.engine import Running, Target
from tubelet.spec.errors import ContractError, RecipeError
from tubelet.spec.strict import decode, encode

__all__ = ["ENGINE_FOLDER", "REPOSITORY_FILE", "Decoder", "RepositoryIndex", "ServedModel"]

REPOSITORY_FILE = "repository.json"

ENGINE_FOLDER = "/var/cache/tubelet/engines"
"""Where ONNX Runtime keeps the engines that TensorRT builds for it: minutes of work, and code, so no folder of all."""

Decoder = Literal["pyav", "nvdec"]
"""Who decodes videos: the processor, or the card's own decoder for what that can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One public model of a repository."""

    name: str
    contract_digest: str
    entries: tuple[str, ...]
    """Triton's names that callers may use: the public one, and where there is one that for decoded frames."""
    works_as: tuple[str, ...]
    """Names under which its work is counted: its own, and those of its members where models answer together."""
    canary_protocol: str
    """The protocol that asks least of the model."""
    shm_bytes: int
    """Shared memory that each process of a step should start with."""
    max_silence_s: float
    """How long the model may work without a sign of progress before it counts as stuck."""
    running: Running
    """Of its encoder; of every member's where models answer together."""
    verified: bool
    """Whether the bundle, or every member's, passed `tubelet verify` for that engine and precision."""
    device_pool_bytes: int = 0
    """The card's memory for tensors between the steps; 0 on processors, and where the members have their own."""
    pinned_pool_bytes: int = 0
    """As `device_pool_bytes`, the host's memory from which the card reads by itself."""
    tensorrt: str | None = None
    """The version that built its plans, where no other runs them; None: it has no plans, or they run on more."""
    gpu: str | None = None
    """As `tensorrt`, the name of the card."""
    host_code: bool = False
    """Whether its plans bring a TensorRT runtime along, which Triton loads only when it is told to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositoryIndex:
    """A repository's table of contents."""

    schema_version: Literal[1]
    target: Target
    models: tuple[ServedModel, ...]

    @classmethod
    def load(cls, repository: Path) -> RepositoryIndex:
        """Reads a repository's index.

        Raises:
            ContractError: the folder holds no finished repository, or one that another version wrote.
        """
        try:
            data = json.loads((repository / REPOSITORY_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ContractError(
                "contract_mismatch",
                f"{repository} is no model repository: no readable {REPOSITORY_FILE}; run tubelet repository",
            ) from exc
        try:
            return decode(cls, data, where="repository")
        except RecipeError as exc:
            raise ContractError(
                "contract_mismatch",
                f"{repository} was written by another version of tubelet: {exc.message}; run tubelet repository again",
            ) from exc

    def save(self, repository: Path) -> None:
        """Writes the index into the repository's folder."""
        text = json.dumps(encode(self), indent=2)
        (repository / REPOSITORY_FILE).write_text(text + "\n", encoding="utf-8")
