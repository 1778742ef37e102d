"""Evaluates a model on a labelled list: scores its videos, and holds the scores against the labels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from tubelet.archive.agreement import agree_on_run
from tubelet.archive.score import score_archive
from tubelet.archive.settings import Settings
from tubelet.archive.sources import Source
from tubelet.archive.watching import Watcher
from tubelet.clients import Label, Tls, VideoClassifier
from tubelet.evaluation.annotations import AnnotatedList
from tubelet.evaluation.labelled import LabelledList
from tubelet.evaluation.measure import measure
from tubelet.evaluation.outcome import LIST_FILE, SCORES, load_outcome
from tubelet.evaluation.result import Evaluation
from tubelet.evaluation.targets import classes_of, targets_of
from tubelet.preprocess.canary import canary_video
from tubelet.spec.ensemble import EnsembleContract, cheapest_protocol
from tubelet.spec.errors import InvalidRequestError, UnavailableError
from tubelet.spec.manifest import Contract, Head

__all__ = ["EVALUATION_FILE", "evaluate", "read_names"]

EVALUATION_FILE = "evaluation.json"

_TOP = 5


def evaluate(
    listed: AnnotatedList,
    folder: Path,
    *,
    urls: Sequence[str],
    model: str | None = None,
    protocol: str | None = None,
    names: Sequence[str] | None = None,
    concurrency: int | None = None,
    patience_s: float = 600.0,
    headers: Mapping[str, str] = MappingProxyType({}),
    ca_file: Path | None = None,
    storage_options: Mapping[str, object] = MappingProxyType({}),
    watchers: Sequence[Watcher] = (),
) -> Evaluation:
    """Scores a list into a folder, and computes all figures; the same call again goes on where one ended.

    Labels are held against the model's classes before a video of the list is sent. Triton tells the names of classes
    only with an answer, so a tiny video is classified first.

    Args:
        listed: the list.
        folder: for list, scores and evaluation, see `tubelet.evaluation.outcome`. Scores by another model or protocol
            are refused; those of videos that the list does not name are left alone and do not count.
        urls: of the servers, as `tubelet.clients.VideoClassifier` takes them.
        model: public name; None: the only one that is served.
        protocol: one that the model has; None: its default.
        names: of all the model's classes, one head's after the other's, where the list spells them otherwise than the
            model; None: the model's own.
        concurrency: requests in flight at each server; None: as many as keep it full.
        patience_s: how long to wait for servers that were lost meanwhile.
        headers: sent with every request, such as a token.
        ca_file: certificates to trust with TLS; None: the system's.
        storage_options: for fsspec: how to open the videos that are no files of this machine.
        watchers: hear of what happens while videos are scored.

    Raises:
        InvalidRequestError: a label is none of the model's, or the folder holds other scores.
        TubeletError: as `tubelet.archive.score.score_archive`.
    """
    run = asyncio.run(
        agree_on_run(
            urls,
            model=model,
            protocol=protocol,
            top=_TOP,
            keeps_logits=True,
            patience_s=0,
            headers=headers,
            ca_file=ca_file,
        )
    )
    settings = Settings(
        urls=tuple(urls),
        run=run,
        concurrency=concurrency,
        patience_s=patience_s,
        storage_options=storage_options,
        headers=headers,
        ca_file=ca_file,
    )
    contract, served = _ask_for_classes(settings, names)
    heads = classes_of(contract.heads, served)
    labelled = LabelledList.of(listed, heads, getattr(contract, "product", None), targets_of(listed, heads))
    folder.mkdir(parents=True, exist_ok=True)
    items = list(dict.fromkeys(labelled.items))
    source = Source(f"videos of {listed.file}", lambda: iter(items), lambda: len(items))
    asyncio.run(score_archive(source, folder / SCORES, settings, watchers=watchers))
    labelled.save(folder / LIST_FILE)
    evaluation = measure(load_outcome(folder))
    evaluation.save(folder / EVALUATION_FILE)
    return evaluation


_Classes = tuple[Contract | EnsembleContract, Sequence[str]]


def _ask_for_classes(settings: Settings, names: Sequence[str] | None) -> _Classes:
    """The contract, and the names of its classes: ``names`` if there are any, else the model's own."""
    *others, last = settings.urls
    for url in others:
        with suppress(UnavailableError):
            return _classes_at(url, settings, names)
    return _classes_at(last, settings, names)


def _classes_at(url: str, settings: Settings, names: Sequence[str] | None) -> _Classes:
    run, ca_file = settings.run, settings.ca_file
    with VideoClassifier(
        url,
        model=run.model,
        expect_digest=run.contract_digest,
        headers=settings.headers,
        tls=None if ca_file is None else Tls(ca_file=ca_file),
    ) as classifier:
        contract = classifier.describe().contract
        if names is None:
            protocol = cheapest_protocol(contract)
            labels = classifier.classify(canary_video(), protocol=protocol, top=contract.num_classes).labels
            names = _names_of(contract.heads, labels)
    return contract, names


def _names_of(heads: Sequence[Head], labels: Sequence[Label]) -> list[str]:
    """Names of all classes by index. With several heads the served ones have the head's name before them."""
    owners = [head.name for head in heads for _ in range(head.num_classes)]
    served = [label.name for label in sorted(labels, key=lambda label: label.index)]
    if len(heads) == 1:
        return served
    return [name.removeprefix(f"{owner}: ") for owner, name in zip(owners, served, strict=True)]


def read_names(path: Path) -> list[str]:
    """Names of classes from a file, one a line.

    Raises:
        InvalidRequestError: ``bad_input``, it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as exc:
        raise InvalidRequestError("bad_input", f"cannot read the labels {path}: {exc}") from exc
