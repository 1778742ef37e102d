"""How far an engine's answers are from torch's, sample by sample, and what that means for one precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tubelet.averaging import average_views, probabilities
from tubelet.export.chain import Chain
from tubelet.export.compare import Logits, compare, within
from tubelet.export.gpu_engines import describe_engine
from tubelet.export.samples import Sample
from tubelet.preprocess.geometry import cut_units
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.engine import Arithmetic
from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.manifest import Contract, Measurement, Verification

__all__ = ["MIN_VIEWS", "Judge", "budget_name", "check_num_views", "open_judge"]

ODD_BATCH = 5
"""Units per run of the encoder, beside one and the most: a number that divides nothing."""

MIN_VIEWS = 100
"""Of real clips, where a share may disagree: of fewer views, a single one is more than the 1 % that bf16 is allowed."""


class Judge(Protocol):
    """Gathers what one engine gives at one precision."""

    def look(self, sample: Sample, expected: Logits, *, is_real: bool) -> None:
        """Runs the chain on a sample; ``expected`` float32 ``[V, C]``: torch's views of it."""
        ...

    def verdict(self) -> Verification:
        """What was found."""
        ...


@dataclass(kw_only=True)
class _Judge:
    chain: Chain
    arithmetic: Arithmetic
    graphs_sha256: str
    largest_batch: int
    num_clips: int = 0
    units_equal: bool = True

    @property
    def contract(self) -> Contract:
        return self.chain.contract

    def units(self, sample: Sample) -> NDArray[np.uint8]:
        """Cuts the units with the graph, and holds them against those of the server's step."""
        units = self.chain.units(sample)
        expected = cut_units(sample.frames, sample.unit_frames, sample.crops, size_px=self.contract.crop.size_px)
        self.units_equal &= np.array_equal(units, expected)
        return units

    def verification(self, measured: tuple[Measurement, ...], *, beside: tuple[Measurement, ...] = ()) -> Verification:
        """Judges ``measured`` by the budget; ``beside`` is told, and not judged."""
        engine, precision = self.arithmetic
        budget = BUDGETS[budget_name(self.arithmetic)]
        version, processor = describe_engine(engine)
        return Verification(
            engine=engine,
            precision=precision,
            version=version,
            processor=processor,
            graphs_sha256=self.graphs_sha256,
            num_clips=self.num_clips,
            budget=budget,
            passed=self.units_equal and all(within(budget, m) for m in measured),
            units_equal=self.units_equal,
            measured=(*measured, *beside),
        )


@dataclass(kw_only=True)
class _ExactJudge(_Judge):
    """Of fp32, where every number must be right: each sample by itself, generated ones at several batch sizes."""

    measured: list[Measurement] = field(default_factory=list)

    def look(self, sample: Sample, expected: Logits, *, is_real: bool) -> None:
        self.num_clips += is_real
        units = self.units(sample)
        batches = sorted({1, min(ODD_BATCH, self.largest_batch), self.largest_batch})
        for batch in batches[-1:] if is_real else batches:
            found = self.chain.answer(sample, units, batch=batch)
            self._compare(found["VIEW_LOGITS"], expected, sample, f"views, {batch} units at once")
        logits = average_views(expected.astype(np.float64), self.contract.aggregation, self.contract.heads)
        self._compare(found["LOGITS"][None], logits[None], sample, "logits")
        shares = probabilities(logits.astype(np.float32), self.contract.heads)
        self._compare(found["PROBABILITIES"][None], shares[None], sample, "probabilities")

    def _compare(self, found: Logits, expected: Logits, sample: Sample, what: str) -> None:
        stage = f"{sample.name}: {what}"
        self.measured.append(
            compare(
                found,
                expected.astype(np.float32),
                contract=self.contract,
                stage=stage,
                num_views=sample.num_views,
            )
        )

    def verdict(self) -> Verification:
        return self.verification(tuple(self.measured))


@dataclass(kw_only=True)
class _PooledJudge(_Judge):
    """Of all but fp32, where most decisions must hold: the views of all real clips together.

    Generated clips are noise to the network, and say nothing about that.
    """

    rows: list[tuple[Logits, Logits]] = field(default_factory=list)

    def look(self, sample: Sample, expected: Logits, *, is_real: bool) -> None:
        if not is_real:
            return
        self.num_clips += 1
        found = self.chain.answer(sample, self.units(sample), batch=self.largest_batch)
        self.rows.append((found["VIEW_LOGITS"], expected))

    def verdict(self) -> Verification:
        found, expected = (np.concatenate(part) for part in zip(*self.rows, strict=True))
        check_num_views(len(found))
        options: dict[str, Any] = {"contract": self.contract, "num_views": len(found)}
        stage = f"views of {self.num_clips} clips"
        together = compare(found, expected, stage=f"{stage}, together", pooled=True, **options)
        return self.verification(
            (together,), beside=(compare(found, expected, stage=f"{stage}, the worst", **options),)
        )


def open_judge(chain: Chain, arithmetic: Arithmetic, *, graphs_sha256: str, largest_batch: int) -> Judge:
    """The judge that a precision needs."""
    kind = _ExactJudge if arithmetic[1] == "fp32" else _PooledJudge
    return kind(chain=chain, arithmetic=arithmetic, graphs_sha256=graphs_sha256, largest_batch=largest_batch)


def budget_name(arithmetic: Arithmetic) -> str:
    """The row of `tubelet.spec.budgets.BUDGETS` that holds for a precision."""
    return f"engine-{arithmetic[1]}/torch-fp32"


def check_num_views(found: int) -> None:
    """Makes sure that there are enough views to judge a share of them.

    Raises:
        InvalidRequestError: ``bad_input``: too few.
    """
    if found < MIN_VIEWS:
        raise InvalidRequestError(
            "bad_input",
            f"all but fp32 is judged on at least {MIN_VIEWS} views of real clips, these videos give {found}; "
            "add videos",
        )
