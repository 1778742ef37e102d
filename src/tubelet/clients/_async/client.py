"""`AsyncVideoClassifier`: classifies videos through a running server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from tenacity import AsyncRetrying

from tubelet.clients._async.connect import connect
from tubelet.clients._async.served import AsyncConnection, describe_model, model_names, only_model
from tubelet.clients._async.sharing import AsyncSharing
from tubelet.clients.address import parse_url
from tubelet.clients.attempts import Budget, retry_options
from tubelet.clients.calls import Call, Tensor, Wishes
from tubelet.clients.description import ModelDescription, choose_way
from tubelet.clients.inputs import Source, check_source, feature_tensors, is_to_be_read, source_tensors
from tubelet.clients.results import AS_LABELS, Classification, read_classification
from tubelet.clients.settings import DEFAULT_URL, Headers, Retries, Timeouts, Tls
from tubelet.clients.twins import AsyncLock, async_in_thread, async_owner
from tubelet.clients.wire import check_text, closed_error, foreign_error
from tubelet.spec.errors import ContractError, InvalidRequestError, UnavailableError
from tubelet.spec.manifest import Contract
from tubelet.spec.priorities import DEFAULT_PRIORITY, PRIORITIES, Priority
from tubelet.spec.tensors import WayIn

__all__ = ["AsyncVideoClassifier"]

_T = TypeVar("_T")


class AsyncVideoClassifier:
    """The models of one server; any number of coroutines may use it at a time.

    Nothing is sent before it is first asked something. What it learns of a model it keeps, until the server is lost.
    It belongs to the event loop that first used it.
    Close it, or use it in an ``async with``. Cancelling a task that waits for an answer cancels the call on the server,
    too, which then begins no further step of it. That is so over gRPC; over HTTP the connection is closed, of which
    Triton 2.51 takes no notice.

    Args:
        url: ``HOST:PORT`` or ``grpc://HOST:PORT`` of the server's gRPC, ``grpcs://`` with TLS; or a URL of its HTTP.
        model: public name of the model for calls that name none; None: the one that is served, if it is one.
        expect_digest: digest of the contract that the caller was built for; a model with another is refused before
            any video is sent.
        timeouts: how long to wait for what.
        retries: second attempts when the server is lost or has too much to do.
        headers: sent with every call, such as ``{"authorization": "Bearer ..."}``; or what gives them, called for each.
        tls: certificates; None: those that this system trusts.
        shared_memory: whether large inputs may go through shared memory, where the server is on this machine and
            was started with ``--allow-shared-memory``; they are sent as ever where it was not.

    Raises:
        InvalidRequestError: ``bad_parameter``, the URL has none of these forms, or no TLS where ``tls`` is given.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        expect_digest: str | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        retries: Retries = Retries(),  # noqa: B008
        headers: Headers | None = None,
        tls: Tls | None = None,
        shared_memory: bool = False,
    ) -> None:
        self._address = parse_url(url)
        if tls is not None and not self._address.tls:
            raise InvalidRequestError("bad_parameter", f"Tls: {url} is no address with TLS; grpcs:// and https:// are")
        check_text("model", model)
        self._model = model
        self._expect_digest = expect_digest
        self._timeouts = timeouts
        self._retries = retries
        self._connect = partial(connect, self._address, timeouts=timeouts, headers=headers, tls=tls)
        self._shares = shared_memory and self._address.is_loopback
        self._connection: AsyncConnection | None = None
        self._owner: object = None
        self._sharing: AsyncSharing | None = None
        self._known: dict[str | None, ModelDescription] = {}
        self._lock = AsyncLock()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls that are under way end with `UnavailableError`."""
        self._is_closed = True
        if self._owner != async_owner():
            return  # what is open is another's
        if self._sharing is not None:
            await self._sharing.close()
        if self._connection is not None:
            await self._connection.close()

    async def models(self) -> tuple[str, ...]:
        """Public names of the models that are ready, in alphabetical order.

        Raises:
            UnavailableError: no server answers.
            InvalidRequestError: ``bad_parameter``, the server does not tell this caller.
        """
        budget = Budget(self._timeouts.total_s)
        return await self._try(self._names, budget)

    async def describe(self, model: str | None = None) -> ModelDescription:
        """What a model promises, and what the server accepts for it.

        Args:
            model: its public name; None: the client's, or the only one.

        Raises:
            ContractError: the served contract is damaged, or not the one that is expected.
            InvalidRequestError: ``bad_parameter``, there is no such model, or several and none was named.
            UnavailableError: no server answers, or the model is not ready.
        """
        check_text("model", model)
        return await self._described(model, Budget(self._timeouts.total_s))

    async def classify(
        self,
        source: Source,
        *,
        model: str | None = None,
        protocol: str | None = None,
        top: int = 5,
        start_s: float | None = None,
        end_s: float | None = None,
        deadline_s: float | None = None,
        fps: float | None = None,
        chunked: bool = False,
        with_features: bool = False,
        with_views: bool = True,
        priority: Priority = DEFAULT_PRIORITY,
    ) -> Classification:
        """Classifies one video.

        Args:
            source: the bytes of a video file, where it lies, an open binary file (read once, to its end), or decoded
                frames, uint8 ``[N, h, w, 3]``, RGB.
            model: public name of the model; None: the client's.
            protocol: one that the contract allows; None: the model's default.
            top: number of labels in the answer, at most C.
            start_s: start of the part that counts, in seconds from the first frame; None: the start.
            end_s: end of that part; None: the end of the video.
            deadline_s: how long the answer is worth having, all attempts together; the server stops working on it then.
                An attempt has at most ``limits.default_deadline_s``.
            fps: frames per second; of decoded frames, and only of them.
            chunked: whether the server is to keep no more than a batch of frames at a time, for long videos in many
                frames; only of models that take any number of frames (VTN). The answer is the same.
            with_features: whether the answer is to bring what `classify_features` takes; of the same models.
            with_views: whether it is to bring what tells of single views: their logits, frame times, clip spans and
                attention. Of many views they are most of an answer.
            priority: ``archive`` lets those go first, at the server, for whose answers somebody waits.

        Raises:
            InvalidRequestError: a parameter does not fit, the model does not have what was asked for, or the file
                cannot be read.
            InvalidVideoError: nothing usable comes out of the video.
            LimitError: a limit of the server is exceeded; too large a file is not sent at all.
            OverloadedError: the server has too much to do; try again later.
            DeadlineError: the time is over.
            UnavailableError: the server or the model is not there, or was lost meanwhile.
            ContractError: the contract is not the one that is expected, or the server's answer does not fit it.
        """
        check_source(source, fps=fps, chunked=chunked)
        way: WayIn = "chunked" if chunked else "video" if fps is None else "frames"
        wishes = Wishes(
            way=way,
            model=model,
            top=top,
            protocol=protocol,
            start_s=start_s,
            end_s=end_s,
            deadline_s=deadline_s,
            with_features=with_features,
            with_views=with_views,
            priority=priority,
        )
        budget = Budget(self._timeouts.total_s, deadline_s)
        described = await self._described(model, budget)
        choose_way(described.contract, way, with_features=with_features)
        make = partial(source_tensors, source, fps=fps, limits=described.limits)
        tensors = await async_in_thread(make) if is_to_be_read(source) else make()
        return await self._try(self._answer, wishes, tensors, budget)

    async def classify_features(
        self,
        features: NDArray[np.float32],
        positions: NDArray[np.int32] | None = None,
        *,
        model: str | None = None,
        deadline_s: float | None = None,
        top: int = 5,
        priority: Priority = DEFAULT_PRIORITY,
    ) -> Classification:
        """Classifies a video whose features an earlier answer brought; nothing is decoded or encoded again.

        Args:
            features: float32 ``[V, n, D]``: `Classification.features`.
            positions: int32 ``[V, n]``: `Classification.positions`; needed where that is not None.
            model: see `classify`.
            deadline_s: see `classify`.
            top: see `classify`.
            priority: see `classify`.

        Raises:
            TubeletError: as `classify`.
        """
        wishes = Wishes(way="features", model=model, top=top, deadline_s=deadline_s, priority=priority)
        budget = Budget(self._timeouts.total_s, deadline_s)
        described = await self._described(model, budget)
        choose_way(described.contract, "features")
        # No other contract has this way in.
        tensors = feature_tensors(features, positions, cast(Contract, described.contract))
        return await self._try(self._answer, wishes, tensors, budget)

    async def _answer(self, wishes: Wishes, tensors: tuple[Tensor, ...], budget: Budget) -> Classification:
        """One attempt."""
        described = await self._read(wishes.model, budget)
        contract = described.contract
        name, outputs = choose_way(
            contract, wishes.way, with_features=wishes.with_features, with_views=wishes.with_views
        )
        top = min(int(wishes.top), contract.num_classes)
        # More than its own default the server grants to nobody, so waiting longer for it would be in vain.
        wanted_s = self._timeouts.request_s if wishes.deadline_s is None else wishes.deadline_s
        deadline_s = budget.share_s(wanted_s, described.limits.default_deadline_s)
        call = Call(
            model=name,
            tensors=tensors,
            outputs={output: top if output in AS_LABELS else 0 for output in outputs},
            parameters=wishes.parameters(deadline_s),
            deadline_s=deadline_s,
            priority=PRIORITIES[wishes.priority],
        )
        connection = await self._connected()
        started = time.perf_counter()
        try:
            answer = await (self._sharing or connection).infer(call)
            round_trip_ms = (time.perf_counter() - started) * 1000
            return read_classification(answer, contract=contract, asked=outputs, top=top, round_trip_ms=round_trip_ms)
        except (ContractError, UnavailableError):
            # Whoever answers next may serve something else, and otherwise.
            self._known.clear()
            if self._sharing is not None:
                self._sharing.try_again()
            raise

    async def _described(self, model: str | None, budget: Budget) -> ModelDescription:
        known = self._known.get(model)
        return await self._try(self._read, model, budget) if known is None else known

    async def _read(self, model: str | None, budget: Budget) -> ModelDescription:
        """A model's description, from the server where it is not known yet."""
        if (known := self._known.get(model)) is not None:
            return known
        connection = await self._connected()
        async with self._lock:
            if (known := self._known.get(model)) is not None:
                return known
            timeout_s = budget.share_s(self._timeouts.question_s)
            name = model or self._model or await only_model(connection, timeout_s=timeout_s)
            described = await describe_model(connection, name, timeout_s=timeout_s)
            if self._expect_digest not in (None, described.contract.digest):
                raise ContractError(
                    "contract_mismatch",
                    f"model {name} has contract {described.contract.digest}, expected {self._expect_digest}; "
                    "nothing was sent",
                )
            self._known[model] = described
            return described

    async def _names(self, budget: Budget) -> tuple[str, ...]:
        timeout_s = budget.share_s(self._timeouts.question_s)
        return tuple(await model_names(await self._connected(), timeout_s=timeout_s))

    async def _connected(self) -> AsyncConnection:
        if self._connection is None and not self._is_closed:
            async with self._lock:
                if self._connection is None:
                    self._owner = async_owner()
                    connection = self._connect()
                    self._sharing = AsyncSharing(connection) if self._shares else None
                    self._connection = connection
        if self._is_closed or self._connection is None:
            if self._connection is not None:  # opened while another thread closed
                await self._connection.close()
            raise closed_error()
        if self._owner != async_owner():
            raise foreign_error()
        return self._connection

    async def _try(self, attempt: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
        """Calls ``attempt``, whose last argument is the budget, as often as it is worth it."""
        if self._retries.attempts == 1:
            # Who asks thousands of times a second, and tries again by itself, does not pay for tenacity.
            return await attempt(*arguments)
        options = retry_options(self._retries, arguments[-1], is_closed=lambda: self._is_closed)
        answer: _T = await AsyncRetrying(**options)(attempt, *arguments)
        return answer
