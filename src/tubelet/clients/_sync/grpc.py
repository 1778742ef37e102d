# Made of _async/grpc.py by docs/make_sync.py: change that file, and make this one again.
"""KServe's protocol over gRPC, by tritonclient."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tritonclient.grpc import InferInput, InferRequestedOutput

from tubelet.clients.address import Address
from tubelet.clients.calls import GRACE_S, Answer, Call, ServedConfig, Tensor
from tubelet.clients.channels import channel_options, credentials
from tubelet.clients.settings import Headers, Timeouts, Tls, fresh_headers
from tubelet.clients.twins import SyncTriton, sync_is_cancelled
from tubelet.clients.wire import closed_error, translated_errors

__all__ = ["SyncGrpcConnection"]


class SyncGrpcConnection:
    """A connection to one server, which gRPC itself opens and opens again."""

    def __init__(self, address: Address, *, timeouts: Timeouts, headers: Headers | None, tls: Tls | None) -> None:
        self._question_s = timeouts.question_s
        self._headers = headers
        self._is_closed = False
        # tritonclient's unary calls hold no state of their own, and a gRPC channel may be shared between threads.
        self._triton = SyncTriton(
            address.authority,
            creds=credentials(tls) if address.tls else None,
            channel_args=channel_options(timeouts),
        )

    def infer(self, call: Call) -> Answer:
        """Sends a request and waits for its answer.

        Raises:
            TubeletError: as `tubelet.clients.wire.translated_errors`.
        """
        with self._translated_errors():
            answer: Answer = self._triton.infer(
                call.model,
                [_input(tensor) for tensor in call.tensors],
                outputs=[InferRequestedOutput(name, class_count=count) for name, count in call.outputs.items()],
                priority=call.priority,
                parameters=call.parameters,
                timeout=call.timeout_us,
                client_timeout=call.deadline_s + GRACE_S,
                headers=fresh_headers(self._headers),
            )
        return answer

    def served_names(self, *, timeout_s: float) -> list[str]:
        """Triton's names of all that is ready, inner steps included.

        Raises:
            TubeletError: as `infer`.
        """
        with self._translated_errors():
            statistics = self._triton.get_inference_statistics(**self._question(timeout_s))
        return [model.name for model in statistics.model_stats]

    def config(self, model: str, *, timeout_s: float) -> ServedConfig:
        """A model's configuration.

        Raises:
            TubeletError: as `infer`.
        """
        with self._translated_errors():
            found = (self._triton.get_model_config(model, **self._question(timeout_s))).config
        parameters = {name: value.string_value for name, value in found.parameters.items()}
        return ServedConfig(name=found.name, platform=found.platform, parameters=parameters)

    def register_region(self, name: str, size: int) -> None:
        """Lets the server map a region of shared memory of ``size`` bytes.

        Raises:
            TubeletError: it does not allow that, or sees no such region.
        """
        with self._translated_errors():
            self._triton.register_system_shared_memory(name, f"/{name}", size, **self._question(self._question_s))

    def unregister_region(self, name: str) -> None:
        """Lets the server give a region back.

        Raises:
            TubeletError: as `register_region`.
        """
        with self._translated_errors():
            self._triton.unregister_system_shared_memory(name, **self._question(self._question_s))

    def close(self) -> None:
        """Ends the calls that are under way with `UnavailableError`, and the connection."""
        self._is_closed = True
        self._triton.close()

    def _question(self, timeout_s: float) -> dict[str, Any]:
        return {"client_timeout": timeout_s, "headers": fresh_headers(self._headers)}

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            with translated_errors():
                yield
        except (CancelledError, ValueError) as exc:
            # A channel that is closed cancels what waits for its calls, and refuses others with ValueError.
            if self._is_closed and not sync_is_cancelled():
                raise closed_error() from exc
            raise


def _input(tensor: Tensor) -> InferInput:
    sent = InferInput(tensor.name, list(tensor.array.shape), tensor.datatype)
    if tensor.region is not None:
        return sent.set_shared_memory(tensor.region, tensor.num_bytes)
    return sent.set_data_from_numpy(tensor.array)
