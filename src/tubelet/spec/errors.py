"""The errors of tubelet, one tree, cut by what the caller does next.

::

    TubeletError                 anything that tubelet raises on purpose
    ├── InvalidRequestError      change the request: parameter, protocol, tensor
    ├── InvalidVideoError        change the video: nothing usable comes out of these bytes
    ├── LimitError               send less, or raise the named limit
    ├── OverloadedError          try again later: the server has too much to do
    ├── DeadlineError            give it more time: the request's time is over
    ├── UnavailableError         try again soon: the model is not there right now
    ├── InternalError            report it: tubelet itself is wrong
    ├── ContractError            client and server (or two files of a bundle) do not belong together
    ├── RecipeError              mend the recipe or the checkpoint
    ├── ScenarioError            mend the scenario of a load test
    ├── ExportMismatchError      what was exported does not compute what the checkpoint computes, or nobody looked
    └── MachineError             mend the machine: something that tubelet needs is missing

Every error has a stable ``code``, and its text begins with it (``"too_long: ..."``), so that the same code reaches
the caller over gRPC, over HTTP and on the command line. A message says what was expected, what came and what to do.
It never shows a path of the server or a traceback.
"""

from __future__ import annotations

import re
from typing import ClassVar

__all__ = [
    "CODES",
    "ContractError",
    "DeadlineError",
    "ExportMismatchError",
    "InternalError",
    "InvalidRequestError",
    "InvalidVideoError",
    "LimitError",
    "MachineError",
    "OverloadedError",
    "RecipeError",
    "ScenarioError",
    "TubeletError",
    "UnavailableError",
    "error_from_text",
]


class TubeletError(Exception):
    """Base of all errors that tubelet raises on purpose.

    Args:
        code: one of the class's ``codes``.
        message: what was expected, what came, what to do.
    """

    codes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, code: str, message: str) -> None:
        if code not in self.codes:
            raise ValueError(f"{type(self).__name__} has no code {code!r}; it has {self.codes}")
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[TubeletError], tuple[str, str]]:
        return type(self), (self.code, self.message)


class InvalidRequestError(TubeletError):
    """The request asks for what does not exist: an unknown parameter or protocol, a wrong dtype or shape."""

    codes = ("bad_parameter", "bad_input")


class InvalidVideoError(TubeletError):
    """No classification can be given for these bytes, whoever sends them."""

    codes = (
        "empty_video",
        "not_a_video",
        "no_video_stream",
        "codec_not_allowed",
        "encrypted",
        "truncated",
        "no_frames",
        "bad_dimensions",
    )


class LimitError(TubeletError):
    """A limit of the server was exceeded; the message names the limit, what it allows and what was found."""

    codes = ("too_large", "too_long", "too_many_pixels", "too_many_views", "decode_timeout")


class OverloadedError(TubeletError):
    """The server has more to do than it can in the request's time; nothing was computed. Try again later."""

    codes = ("overloaded",)


class DeadlineError(TubeletError):
    """The request's time is over, or its caller has gone; the work on it has stopped."""

    codes = ("deadline_exceeded", "cancelled")


class UnavailableError(TubeletError):
    """The server or the model is not there: not loaded, being restarted, or lost while it worked."""

    codes = ("backend_lost",)


class InternalError(TubeletError):
    """A step of the server failed in a way that it does not know; the server's log has the reason."""

    codes = ("internal",)


class ContractError(TubeletError):
    """Two parts that must agree on a contract do not: client and server, or the files of one bundle."""

    codes = ("contract_mismatch",)


class RecipeError(TubeletError):
    """A recipe, or the checkpoint that it names, cannot be built."""

    codes = ("bad_recipe", "bad_checkpoint")


class ScenarioError(TubeletError):
    """A load test's scenario, or a file that it names, cannot be read."""

    codes = ("bad_scenario",)


class ExportMismatchError(TubeletError):
    """An exported graph differs from the torch model by more than the budget allows, or nobody has compared them."""

    codes = ("over_budget", "unverified")


class MachineError(TubeletError):
    """This machine lacks something that tubelet needs; the message names the remedy."""

    codes = ("missing", "port_in_use", "start_failed")


_CLASS_OF_CODE: dict[str, type[TubeletError]] = {
    code: cls for cls in TubeletError.__subclasses__() for code in cls.codes
}

CODES: tuple[str, ...] = tuple(_CLASS_OF_CODE)
"""Every stable code, in the order of the tree."""

# Triton puts words of its own in front: "in ensemble 'demo', too_long: ...", "[request id: 7] ...".
_CODE_IN_TEXT = re.compile(rf"(?:^|[\s,;\]]){'(?P<code>' + '|'.join(CODES) + ')'}: (?P<message>.*)", re.DOTALL)


def error_from_text(text: str) -> TubeletError | None:
    """Rebuilds the error whose text came over a wire; None where the text holds none of our codes."""
    found = _CODE_IN_TEXT.search(text)
    if found is None:
        return None
    return _CLASS_OF_CODE[found["code"]](found["code"], found["message"].strip())
