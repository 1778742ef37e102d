"""Annotation files of data sets, as their makers publish them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tubelet.archive.items import Item
from tubelet.evaluation.annotations import Entry
from tubelet.evaluation.tables import read_table
from tubelet.spec.errors import InvalidRequestError

__all__ = ["read_ek100", "read_kinetics", "read_ssv2"]

_KINETICS_KINDS = (".mp4", ".mkv", ".webm")
_SSV2_KINDS = (".webm", ".mp4")
_TIME = re.compile(r"([0-9]+):([0-5]?[0-9]):([0-5]?[0-9](?:\.[0-9]+)?)")

Labelled = tuple[tuple[str, ...], Iterator[Entry]]
"""Names of the label columns, and the rows."""


def read_kinetics(text: str, name: str) -> Labelled:
    """Kinetics-400, 600, 700: CSV ``label,youtube_id,time_start,time_end,split``, other columns passed over.

    The files are those of DeepMind's archives (``kinetics400.tar.gz``, ``kinetics600.tar.gz``,
    ``kinetics700_2020.tar.gz``). Videos are the trimmed clips as the usual crawlers
    (``activitynet/ActivityNet``, ``Crawler/Kinetics``) name them, ``{youtube_id}_{start:06d}_{end:06d}.mp4``, side by
    side or in a folder for each label, whose spaces may be underscores.

    Raises:
        InvalidRequestError: ``bad_input``, at once or with a row; test lists, which have no labels, too.
    """
    _, rows = read_table(text, name, ("label", "youtube_id", "time_start", "time_end"))

    def entries() -> Iterator[Entry]:
        for line, row in rows:
            start, end = (_whole_seconds(row, key, name, line) for key in ("time_start", "time_end"))
            stem, label = f"{_youtube_id(row, name, line)}_{start:06d}_{end:06d}", row["label"]
            places = dict.fromkeys(("", f"{label}/", f"{label.replace(' ', '_')}/"))
            files = tuple(Item(f"{place}{stem}{kind}") for place in places for kind in _KINETICS_KINDS)
            yield Entry(line=line, candidates=files, labels=(label,))

    return ("label",), entries()


def read_ssv2(text: str, name: str) -> Labelled:
    """Something-Something V2: JSON, a list of ``{"id": ..., "label": ..., "template": ...}``.

    ``something-something-v2-validation.json`` of the data set; the class is the template without its square brackets,
    as in ``something-something-v2-labels.json``. Videos are ``{id}.webm``, or ``{id}.mp4``. The line of a row is its
    place in the list.

    Raises:
        InvalidRequestError: ``bad_input``, at once or with a row; the test list, which has no labels, too.
    """
    try:
        records = json.loads(text)
    except ValueError as exc:
        raise InvalidRequestError("bad_input", f"{name} is not JSON: {exc}") from exc
    if not isinstance(records, list):
        raise InvalidRequestError("bad_input", f"{name} must be a list of videos with id and template, as SSv2's are")

    def entries() -> Iterator[Entry]:
        for place, record in enumerate(records, start=1):
            video, template = _ssv2_fields(record, name, place)
            files = tuple(Item(f"{video}{kind}") for kind in _SSV2_KINDS)
            yield Entry(line=place, candidates=files, labels=(template.replace("[", "").replace("]", ""),))

    return ("label",), entries()


def read_ek100(text: str, name: str) -> Labelled:
    """Epic-Kitchens-100: ``EPIC_100_validation.csv`` of ``epic-kitchens/epic-kitchens-100-annotations``.

    A row is a segment of a long video, ``{participant_id}/videos/{video_id}.MP4`` (the layout of the data set's own
    download script) or ``{participant_id}/{video_id}.MP4``, from ``start_timestamp`` to ``stop_timestamp``. A clip that
    was cut out already, ``{narration_id}.mp4``, goes first: the long video is sent anew for each of its segments.
    Classes are the indices ``verb_class`` and ``noun_class``.

    Raises:
        InvalidRequestError: ``bad_input``, at once or with a row.
    """
    times = ("start_timestamp", "stop_timestamp")
    needed = ("narration_id", "participant_id", "video_id", *times, "verb_class", "noun_class")
    _, rows = read_table(text, name, needed)

    def entries() -> Iterator[Entry]:
        for line, row in rows:
            start_s, end_s = (_seconds(row, key, name, line) for key in times)
            person, video = row["participant_id"], row["video_id"]
            whole = (f"{person}/videos/{video}.MP4", f"{person}/{video}.MP4")
            segments = (Item(file, start_s, end_s) for file in whole)
            files = (Item(f"{row['narration_id']}.mp4"), *segments)
            yield Entry(line=line, candidates=files, labels=(row["verb_class"], row["noun_class"]))

    return ("verb", "noun"), entries()


def _youtube_id(row: dict[str, str], name: str, line: int) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", found := row["youtube_id"]):
        raise InvalidRequestError(
            "bad_input",
            f"{name}, line {line}: youtube_id {found!r} is none; a spreadsheet writes #NAME? and 1.2E+10 for some ids: "
            "take the list as it was published",
        )
    return found


def _whole_seconds(row: dict[str, str], key: str, name: str, line: int) -> int:
    # Some copies of the lists were written by pandas, with 10.0 for 10.
    if not re.fullmatch(r"[0-9]{1,6}(\.0*)?", row[key]):
        raise InvalidRequestError("bad_input", f"{name}, line {line}: {key} must be whole seconds, got {row[key]!r}")
    return int(float(row[key]))


def _seconds(row: dict[str, str], key: str, name: str, line: int) -> float:
    found = _TIME.fullmatch(row[key])
    if found is None:
        raise InvalidRequestError("bad_input", f"{name}, line {line}: {key} must be hh:mm:ss.ss, got {row[key]!r}")
    return round(int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]), 6)


def _ssv2_fields(record: Any, name: str, place: int) -> tuple[str, str]:
    video, template = (record.get(key) for key in ("id", "template")) if isinstance(record, dict) else (None, None)
    if not isinstance(video, str | int) or not isinstance(template, str):
        raise InvalidRequestError("bad_input", f"{name}, video {place} of the list: it needs an id and a template")
    return str(video), template
