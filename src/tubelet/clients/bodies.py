"""Bodies of KServe's protocol over HTTP, in their binary form: tritonclient writes and reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tubelet.clients.calls import Answer, Call, Tensor
from tubelet.clients.wire import translated_errors
from tubelet.spec.errors import ContractError

__all__ = ["HEAD_SIZE", "infer_path", "read_answer", "readable_answer", "refusal", "request_headers", "write_request"]

HEAD_SIZE = "inference-header-content-length"
"""Header that says where a body's JSON ends and its tensors begin."""


def infer_path(model: str) -> str:
    """Where requests to a model go, after the address."""
    return f"/v2/models/{quote(model, safe='')}/infer"


def write_request(call: Call) -> tuple[bytes, int]:
    """A request's body, and the size of its head.

    Raises:
        TubeletError: as `tubelet.clients.wire.translated_errors`.
    """
    with translated_errors():
        body, head_size = InferenceServerClient.generate_request_body(
            [_input(tensor) for tensor in call.tensors],
            outputs=[InferRequestedOutput(name, class_count=count) for name, count in call.outputs.items()],
            priority=call.priority,
            timeout=call.timeout_us,
            parameters=call.parameters,
        )
    return body, len(body) if head_size is None else head_size


def request_headers(head_size: int) -> dict[str, str]:
    """Headers of a request whose body has a head of this size."""
    # Without the type the Triton behind would take the body for a form.
    return {"content-type": "application/octet-stream", HEAD_SIZE: str(head_size)}


def read_answer(content: bytes, head_size: str | None) -> Answer:
    """Reads an answer's body.

    Args:
        content: the body.
        head_size: what the answer's header `HEAD_SIZE` says; None: it has none.

    Raises:
        ContractError: ``contract_mismatch``, it is none of Triton's.
    """
    with readable_answer():
        answer: Answer = InferenceServerClient.parse_response_body(
            content, header_length=None if head_size is None else int(head_size)
        )
        return answer


@contextmanager
def readable_answer() -> Iterator[None]:
    """Raises what reading an answer raises that is not as expected.

    Raises:
        ContractError: ``contract_mismatch``.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ContractError(
            "contract_mismatch", f"the server's answer is none of Triton's ({exc!r}); look at the URL"
        ) from exc


def refusal(content: bytes, *, status: int, reason: str) -> InferenceServerException:
    """What Triton, or the proxy before it, says in an answer that is none."""
    try:
        words = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        words = f"{status} {reason}"
    return InferenceServerException(words, status=str(status))


def _input(tensor: Tensor) -> InferInput:
    sent = InferInput(tensor.name, list(tensor.array.shape), tensor.datatype)
    if tensor.region is not None:
        return sent.set_shared_memory(tensor.region, tensor.num_bytes)
    return sent.set_data_from_numpy(tensor.array)
