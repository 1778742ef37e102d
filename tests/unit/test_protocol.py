"""Names of protocols, and which of them a model has."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import contracts

from tubelet.spec.bounds import MOST_CLIP_FRAMES
from tubelet.spec.ensemble import EnsembleContract, cheapest_protocol
from tubelet.spec.manifest import Contract
from tubelet.spec.pipeline import FullVideo
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol, is_allowed, listed

NAMES = st.one_of(
    st.builds("{}x{}".format, st.integers(0, 99_999), st.integers(0, 4)),
    st.integers(0, 99_999).map("full{}".format),
    st.sampled_from(["tsn", "full", ANY_CLIPS, ANY_FULL]),
    st.text(max_size=8),
)


def parsed(name: str) -> Protocol | None:
    try:
        return Protocol.parse(name)
    except ValueError:
        return None


@given(NAMES)
def test_a_name_is_read_or_refused(name: str) -> None:
    if protocol := parsed(name):
        assert protocol.name == name
        assert protocol.num_views >= 1
        assert protocol.is_full == name.startswith("full")


@pytest.mark.parametrize(
    ("name", "clips", "crops"), [("1x1", 1, 1), ("4x3", 4, 3), ("10x3", 10, 3), ("tsn", 1, 1), ("full", 1, 1)]
)
def test_protocols_of_the_papers(name: str, clips: int, crops: int) -> None:
    assert Protocol.parse(name) == Protocol(name, clips, crops)


@pytest.mark.parametrize("num_frames", [1, 64, 250, 10_000, MOST_CLIP_FRAMES])
def test_the_whole_video_in_any_number_of_frames(num_frames: int) -> None:
    assert Protocol.parse(f"full{num_frames}") == Protocol(f"full{num_frames}", 1, 1, num_frames)


@pytest.mark.parametrize(
    "name",
    [
        "0x1", "1x2", "1x0", "01x1", "1x1 ", "-1x3", "99999x1", "fully", "", "1X1", "\u0661x1", "1x1\n", "1x3x1",
        "full0", "full064", "full-1", "full 64", "full64.0", "full\u0661", f"full{MOST_CLIP_FRAMES + 1}", "Full",
        "tsn8", ANY_CLIPS, ANY_FULL,
    ],
)  # fmt: skip
def test_other_names_are_no_protocols(name: str) -> None:
    with pytest.raises(ValueError, match=r"a protocol is 'tsn', 'full', 'full64' \(any number of frames\) or clips x"):
        Protocol.parse(name)


@given(NAMES)
def test_any_number_stands_for_the_names_of_its_kind_alone(name: str) -> None:
    """What a wildcard allows can be read; the name of the wildcard itself is the only exception."""
    protocol = parsed(name)
    is_clips = protocol is not None and name != "tsn" and not protocol.is_full
    is_numbered = protocol is not None and protocol.num_frames is not None
    assert is_allowed(name, [ANY_CLIPS]) == (is_clips or name == ANY_CLIPS)
    assert is_allowed(name, [ANY_FULL]) == (is_numbered or name == ANY_FULL)
    assert is_allowed(name, ["1x1", "full"]) == (name in ("1x1", "full"))


def test_a_list_says_what_its_wildcards_mean() -> None:
    assert listed(["1x1", "tsn"]) == "1x1, tsn"
    assert listed(["10x3", ANY_CLIPS, ANY_FULL]) == (
        "10x3, CxR (any number of clips, 1 or 3 crops), fullN (the whole video in any number N of frames)"
    )


@given(contracts())
def test_a_contract_has_its_own_default(contract: Contract) -> None:
    assert contract.allows(contract.default_protocol)
    assert Protocol.parse(contract.default_protocol).num_views >= 1
    assert contract.most_units_per_clip >= contract.units_per_clip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocols": ("1x1", "1x1", ANY_CLIPS)}, "name one twice: 1x1, 1x1, CxR"),
        ({"default_protocol": ANY_CLIPS}, "a protocol is .*, got 'CxR'"),
        ({"default_protocol": "tsn"}, r"'tsn' is not among the protocols: 1x1, CxR \(any number"),
        ({"default_protocol": "full64"}, "'full64' is not among"),
        ({"protocols": ("1x1", ANY_CLIPS, ANY_FULL)}, "full_video is given when"),
        ({"protocols": (ANY_CLIPS, "full64")}, "full_video is given when"),
        ({"full_video": FullVideo(num_frames=64, span_s=None)}, "full_video is given when"),
    ],
)
def test_wildcards_that_fit_nothing_are_refused(make_contract, change, message: str) -> None:
    contract = replace(make_contract(), protocols=("1x1", ANY_CLIPS), default_protocol="7x3")
    with pytest.raises(ValueError, match=message):
        replace(contract, **change)


def test_a_whole_video_is_a_whole_number_of_units(make_vtn_contract) -> None:
    contract = make_vtn_contract()
    by_pairs = replace(contract, geometry=replace(contract.geometry, unit_frames=2))
    assert replace(by_pairs, protocols=("full", "full64", ANY_FULL)).most_units_per_clip == 125
    with pytest.raises(ValueError, match="'full64' must be a multiple of unit_frames"):
        replace(by_pairs, protocols=("full", "full63"))
    with pytest.raises(ValueError, match=r"full_video\.num_frames must be a multiple of unit_frames"):
        replace(by_pairs, full_video=FullVideo(num_frames=249, span_s=None))


def test_the_longest_clip_is_that_of_any_protocol_with_a_name(make_vtn_contract) -> None:
    contract = make_vtn_contract()
    assert contract.most_units_per_clip == 250
    assert replace(contract, protocols=("full", "full500"), default_protocol="full").most_units_per_clip == 500
    assert replace(contract, protocols=("full", ANY_FULL), default_protocol="full300").most_units_per_clip == 300


@pytest.mark.parametrize(
    ("mine", "yours", "shared", "not_shared"),
    [
        (("1x1", ANY_CLIPS), ("4x3", ANY_CLIPS), ("1x1", ANY_CLIPS, "4x3"), ("tsn",)),
        (("1x1", ANY_CLIPS), ("4x3", "tsn"), ("4x3",), ("1x1", "7x1", "tsn", ANY_CLIPS)),
        (("tsn", "1x1"), ("tsn", "4x3"), ("tsn",), ("1x1", "4x3")),
    ],
)
def test_models_that_answer_together_have_what_all_have(make_contract, mine, yours, shared, not_shared) -> None:
    one = replace(make_contract(), protocols=mine, default_protocol=mine[0])
    other = replace(one, name="other", protocols=yours, default_protocol=yours[0])
    both = EnsembleContract(schema_version=1, name="both", members=(one, other), aggregation="mean_probabilities")
    assert both.protocols == shared
    assert not any(both.allows(name) for name in not_shared)
    assert both.allows("7x1") == (ANY_CLIPS in shared)


def test_models_with_nothing_in_common_cannot_answer_together(make_contract) -> None:
    one = replace(make_contract(), protocols=("tsn",), default_protocol="tsn")
    other = replace(one, name="other", protocols=(ANY_CLIPS,), default_protocol="1x1")
    with pytest.raises(ValueError, match="must have a protocol in common"):
        EnsembleContract(schema_version=1, name="both", members=(one, other), aggregation="mean_probabilities")


@pytest.mark.parametrize(
    ("protocols", "cheapest"),
    [
        (("10x3", "10x1", "full"), "10x1"),  # 160 frames, of the whole video 250
        (("10x3", "full"), "full"),
        (("10x3", ANY_FULL), "full8"),
        ((ANY_CLIPS, "full32"), "1x1"),
        (("full", "full12", ANY_CLIPS), "full12"),
    ],
)
def test_the_cheapest_protocol_asks_the_fewest_units(
    make_vtn_contract: Callable[..., Contract], protocols: tuple[str, ...], cheapest: str
) -> None:
    contract = replace(make_vtn_contract(), protocols=(*protocols, "30x3"), default_protocol="30x3")
    if not any(name.startswith("full") for name in protocols):
        contract = replace(contract, full_video=None)
    assert cheapest_protocol(contract) == cheapest


def test_the_cheapest_protocol_is_of_whole_units(make_vtn_contract: Callable[..., Contract]) -> None:
    basis = make_vtn_contract(num_full=256)
    geometry = replace(basis.geometry, unit_frames=16)
    contract = replace(basis, geometry=geometry, protocols=(ANY_FULL,), default_protocol="full64")
    assert cheapest_protocol(contract) == "full16"


def test_the_cheapest_protocol_of_an_ensemble_is_one_that_all_members_have(
    make_contract: Callable[..., Contract], make_vtn_contract: Callable[..., Contract]
) -> None:
    vivit = replace(make_contract(), protocols=(ANY_CLIPS,), default_protocol="1x1")
    vtn = replace(make_vtn_contract(), heads=vivit.heads)
    together = EnsembleContract(
        schema_version=1, name="together", members=(vivit, vtn), aggregation="mean_probabilities"
    )
    assert cheapest_protocol(vivit) == "1x1"
    assert cheapest_protocol(together) == "10x1"
    assert together.allows(cheapest_protocol(together))
