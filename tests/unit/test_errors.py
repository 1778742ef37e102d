"""The tree of errors: each code has one class, and survives any wire."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.spec import errors
from tubelet.spec.errors import (
    CODES,
    InvalidVideoError,
    LimitError,
    OverloadedError,
    TubeletError,
    error_from_text,
)

DESIGN_CODES = {
    "empty_video",
    "not_a_video",
    "no_video_stream",
    "codec_not_allowed",
    "encrypted",
    "truncated",
    "no_frames",
    "bad_dimensions",
    "too_large",
    "too_long",
    "too_many_pixels",
    "too_many_views",
    "decode_timeout",
    "bad_parameter",
    "bad_input",
    "overloaded",
    "deadline_exceeded",
    "backend_lost",
}

class_of_code = {code: cls for cls in TubeletError.__subclasses__() for code in cls.codes}
messages = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


def test_codes_of_the_design_are_there() -> None:
    assert set(CODES) >= DESIGN_CODES


def test_each_code_belongs_to_one_class() -> None:
    assert len(set(CODES)) == len(CODES) == len(class_of_code)


def test_every_error_is_exported_and_explained() -> None:
    for cls in TubeletError.__subclasses__():
        assert cls.__name__ in errors.__all__
        assert cls.__doc__
        assert cls.__name__ in (errors.__doc__ or "")
        assert cls.codes


@pytest.mark.parametrize("code", CODES)
def test_text_begins_with_the_code(code: str) -> None:
    error = class_of_code[code](code, "what was expected")
    assert str(error) == f"{code}: what was expected"
    assert (error.code, error.message) == (code, "what was expected")


def test_a_code_of_another_class_is_refused() -> None:
    with pytest.raises(ValueError, match="has no code 'too_long'"):
        InvalidVideoError("too_long", "no")
    with pytest.raises(ValueError, match="has no code"):
        TubeletError("too_long", "the base has no codes")


@given(st.sampled_from(CODES), messages)
def test_text_gives_the_error_back(code: str, message: str) -> None:
    error = class_of_code[code](code, message)
    again = error_from_text(str(error))
    assert again is not None
    assert (type(again), again.code, again.message) == (type(error), code, message)


@given(st.sampled_from(CODES), messages)
def test_errors_cross_processes(code: str, message: str) -> None:
    error = class_of_code[code](code, message)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), again.code, again.message, str(again)) == (type(error), code, message, str(error))


@pytest.mark.parametrize(
    ("text", "cls"),
    [
        ("in ensemble 'motion', too_long: 20000 s, max_duration_s is 14400", LimitError),
        ("[request id: 7] overloaded: the queue holds 64 requests", OverloadedError),
        ("Failed to process the request(s), message: not_a_video: these bytes are no video", InvalidVideoError),
        ("StatusCode.INVALID_ARGUMENT,no_frames: nothing decodes\n", InvalidVideoError),
    ],
)
def test_words_that_a_server_puts_in_front_do_no_harm(text: str, cls: type[TubeletError]) -> None:
    error = error_from_text(text)
    assert type(error) is cls
    assert text.strip().endswith(str(error))


@pytest.mark.parametrize("text", ["", "too_long", "nottoo_long: x", "unknown_code: x", "Socket closed"])
def test_other_texts_are_none_of_ours(text: str) -> None:
    assert error_from_text(text) is None
