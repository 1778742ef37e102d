"""Sends the requests of a scenario: what the clients would send, each made once."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from tubelet.clients import AsyncVideoClassifier, ModelDescription, Retries, Timeouts, Tls
from tubelet.clients.address import parse_url
from tubelet.clients.calls import Answer, Call
from tubelet.clients.description import choose_way
from tubelet.clients.results import AS_LABELS, Report, read_report
from tubelet.clients.settings import Headers
from tubelet.clients.wire import is_refused_caller, request_parameters
from tubelet.loadtest.scenario import Closed, RequestKind, Scenario, Stream
from tubelet.loadtest.wires import Ask, Wire, open_wire
from tubelet.spec.errors import ContractError, InvalidRequestError, ScenarioError
from tubelet.spec.priorities import PRIORITIES
from tubelet.spec.protocol import listed

__all__ = ["Reply", "Sender"]

_LABELS = 5
"""That an answer names: as many as the clients ask for where nobody says otherwise."""

_MOST_UNITS = 2**31 - 1
_QUESTIONS = Timeouts(total_s=60.0)
_PATIENCE = Retries(attempts=6)
"""For a server that is just starting."""


class Reply(NamedTuple):
    """What counts of an answer."""

    protocol: str
    views: int
    units: int
    """Encoded."""
    server_ms: float
    """All steps, as the server's report says."""
    num_bytes: int
    """Of the video."""
    at_s: float | None = None
    """When the answer came, by the event loop's clock, before it was read; None: when `Sender.send` ended."""


class Sender:
    """One server, asked as a scenario says. Open it in an ``async with``; then `prepare` it, once.

    Only the scenario's address is ever contacted: no redirect is followed and no proxy is asked.

    Args:
        scenario: names the server, the kinds of requests, their models and videos.
        videos: by the name that the scenario has for them, one at least of each.
        headers: as `tubelet.clients.AsyncVideoClassifier` has them.
        tls: likewise.

    Raises:
        ScenarioError: ``bad_scenario``, the URL is none.
    """

    def __init__(
        self,
        scenario: Scenario,
        videos: Mapping[str, Sequence[bytes]],
        *,
        headers: Headers | None = None,
        tls: Tls | None = None,
    ) -> None:
        try:
            self._address = parse_url(scenario.url)
        except InvalidRequestError as exc:
            raise ScenarioError("bad_scenario", exc.message) from exc
        self._scenario = scenario
        self._videos = videos
        self._headers = headers
        self._tls = tls
        self._wire: Wire | None = None
        self._kinds: dict[str, tuple[Ask, str, Sequence[bytes]]] = {}
        self.contracts: dict[str, str] = {}
        """Digest of each model's contract, once it is prepared."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._wire is not None:
            await self._wire.close()

    async def prepare(self) -> None:
        """Asks the server for each model, and makes the requests.

        Raises:
            ScenarioError: ``bad_scenario``, a model or a protocol is not there; or more connections than there may be.
            TubeletError: the server cannot be asked.
        """
        described = await self._describe()
        self.contracts = {name: model.contract.digest for name, model in described.items()}
        callers = [stream.arrivals.callers for stream in self._scenario.streams if isinstance(stream.arrivals, Closed)]
        self._wire = open_wire(
            self._address,
            self._videos,
            most_in_flight=self._scenario.most_in_flight + sum(callers),
            headers=self._headers,
            tls=self._tls,
        )
        for stream, kind in self._scenario.kinds:
            ask = self._wire.prepare(_call(stream, kind, described[kind.model]), kind.videos)
            self._kinds[kind.name] = (ask, self.contracts[kind.model], self._videos[kind.videos])

    async def send(self, kind_name: str, index: int) -> Reply:
        """Sends a request of a kind, and waits for its answer until a little after its deadline.

        Args:
            kind_name: as in the scenario.
            index: which video; after the last they begin again.

        Raises:
            TubeletError: as `tubelet.clients.AsyncVideoClassifier.classify`, each at the first attempt.
        """
        ask, digest, videos = self._kinds[kind_name]
        answer, at_s = await ask(index)
        report = _report(answer, digest)
        return Reply(
            protocol=report.protocol,
            views=report.views,
            units=report.units_encoded,
            server_ms=report.milliseconds["total"],
            num_bytes=len(videos[index % len(videos)]),
            at_s=at_s,
        )

    async def _describe(self) -> dict[str, ModelDescription]:
        models = sorted({kind.model for _, kind in self._scenario.kinds})
        client = AsyncVideoClassifier(
            self._scenario.url, timeouts=_QUESTIONS, retries=_PATIENCE, headers=self._headers, tls=self._tls
        )
        async with client:
            try:
                return {model: await client.describe(model) for model in models}
            except InvalidRequestError as exc:
                if is_refused_caller(exc):
                    raise
                raise ScenarioError("bad_scenario", exc.message) from exc


def _call(stream: Stream, kind: RequestKind, model: ModelDescription) -> Call:
    """All of a request but its video."""
    contract = model.contract
    if kind.protocol is not None and not contract.allows(kind.protocol):
        raise ScenarioError(
            "bad_scenario",
            f"{kind.name}: model {kind.model} has the protocols {listed(contract.protocols)}, got {kind.protocol!r}",
        )
    name, outputs = choose_way(contract, "video")
    # More than its own default the server grants to nobody.
    deadline_s = min(stream.deadline_s, model.limits.default_deadline_s)
    return Call(
        model=name,
        tensors=(),
        outputs={output: min(_LABELS, contract.num_classes) if output in AS_LABELS else 0 for output in outputs},
        parameters=request_parameters(protocol=kind.protocol, start_s=None, end_s=None, deadline_s=deadline_s),
        deadline_s=deadline_s,
        priority=PRIORITIES[stream.priority],
    )


def _report(answer: Answer, digest: str) -> Report:
    try:
        report = read_report(answer, digest)
    except (struct.error, ValueError, IndexError) as exc:
        raise ContractError("contract_mismatch", f"the server's answer cannot be read ({exc!r})") from exc
    if not (0 <= report.views <= _MOST_UNITS and 0 <= report.units_encoded <= _MOST_UNITS):
        raise ContractError("contract_mismatch", "the server's answer has a REPORT with impossible numbers")
    return report
