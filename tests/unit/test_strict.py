"""Plain data to dataclasses and back: nothing is guessed, nothing is dropped."""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.spec.errors import RecipeError
from tubelet.spec.strict import canonical_json, decode, digest, encode


@dataclass(frozen=True, kw_only=True)
class Leaf:
    side: int
    kind: Literal["square", "round"]
    version: Literal[1]

    def __post_init__(self) -> None:
        if self.side < 0:
            raise ValueError("side must not be negative")


@dataclass(frozen=True, kw_only=True)
class Bird:
    animal: Literal["bird"]
    wings_cm: float


@dataclass(frozen=True, kw_only=True)
class Squirrel:
    animal: Literal["squirrel", "chipmunk"]
    nuts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tree:
    name: str
    ratio: float
    deep: bool
    limit: float | None
    note: str | None
    leaves: tuple[Leaf, ...]
    point: tuple[int, int]
    tools: dict[str, str]
    guest: Bird | Squirrel
    visitor: Bird | Squirrel | None
    trunk: Leaf | None


GOOD: dict[str, Any] = {
    "name": "oak",
    "ratio": 0.5,
    "deep": True,
    "limit": None,
    "note": "old",
    "leaves": [{"side": 2, "kind": "square", "version": 1}],
    "point": [1, 2],
    "tools": {"saw": "1.0"},
    "guest": {"animal": "chipmunk", "nuts": [3, 1]},
    "visitor": None,
    "trunk": {"side": 3, "kind": "round", "version": 1},
}

leaves = st.builds(Leaf, side=st.integers(0, 2**53), kind=st.sampled_from(["square", "round"]), version=st.just(1))
finite = st.floats(allow_nan=False, allow_infinity=False)
guests = st.builds(Bird, animal=st.just("bird"), wings_cm=finite) | st.builds(
    Squirrel, animal=st.sampled_from(["squirrel", "chipmunk"]), nuts=st.lists(st.integers()).map(tuple)
)
texts = st.text().filter(lambda text: text != "none")
trees = st.builds(
    Tree,
    name=st.text(),
    ratio=finite,
    deep=st.booleans(),
    limit=st.none() | finite,
    note=st.none() | texts,
    leaves=st.lists(leaves, max_size=3).map(tuple),
    point=st.tuples(st.integers(), st.integers()),
    tools=st.dictionaries(st.text(), st.text(), max_size=3),
    guest=guests,
    visitor=st.none() | guests,
    trunk=st.none() | leaves,
)


@given(trees)
def test_round_trip_through_json_is_exact(tree: Tree) -> None:
    data = json.loads(json.dumps(encode(tree)))
    again = decode(Tree, data, where="tree")
    assert again == tree
    assert digest(again) == digest(tree)
    assert decode(Tree, json.loads(canonical_json(tree)), where="tree") == tree


@given(trees, st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_the_order_of_keys(tree: Tree, random: Any) -> None:
    data = encode(tree)
    keys = list(data)
    random.shuffle(keys)
    shuffled = decode(Tree, {key: data[key] for key in keys}, where="tree")
    tools = dict(reversed(list(tree.tools.items())))
    assert digest(shuffled) == digest(tree)
    assert digest(decode(Tree, data | {"tools": tools}, where="tree")) == digest(tree)


@given(trees, trees)
def test_digest_tells_values_apart(one: Tree, other: Tree) -> None:
    assert (digest(one) == digest(other)) == (canonical_json(one) == canonical_json(other))


@given(trees, st.text().filter(lambda key: key not in GOOD))
def test_unknown_keys_are_refused(tree: Tree, key: str) -> None:
    with pytest.raises(RecipeError, match="unknown keys"):
        decode(Tree, encode(tree) | {key: 1}, where="tree")


@given(trees, st.sampled_from(sorted(GOOD)))
def test_missing_keys_are_refused(tree: Tree, key: str) -> None:
    data = encode(tree)
    del data[key]
    with pytest.raises(RecipeError, match=f"tree lacks {key}"):
        decode(Tree, data, where="tree")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, r"tree\.name must be a value of type str, got 3"),
        ({"ratio": "0.5"}, r"tree\.ratio must be a value of type float"),
        ({"ratio": True}, r"tree\.ratio must be"),
        ({"ratio": math.nan}, r"tree\.ratio must be a finite number"),
        ({"ratio": math.inf}, r"tree\.ratio must be a finite number"),
        ({"ratio": 10**400}, r"tree\.ratio must be a finite number, got 10{76}\.\.\.$"),
        ({"deep": 1}, r"tree\.deep must be a value of type bool"),
        ({"limit": "much"}, r"tree\.limit must be"),
        ({"note": 1}, r"tree\.note must be a value of type str"),
        ({"leaves": {"side": 1}}, r"tree\.leaves must be a list"),
        (
            {"leaves": [{"side": 1.0, "kind": "square", "version": 1}]},
            r"tree\.leaves\[0\]\.side must be a value of type int",
        ),
        ({"leaves": [{"side": True, "kind": "square", "version": 1}]}, r"tree\.leaves\[0\]\.side must be"),
        ({"leaves": [{"side": 1, "kind": "oval", "version": 1}]}, r"kind must be one of 'square', 'round', got 'oval'"),
        ({"leaves": [{"side": -1, "kind": "round", "version": 1}]}, r"tree\.leaves\[0\]: side must not be negative"),
        ({"trunk": {"side": 1, "kind": "round", "version": True}}, r"tree\.trunk\.version must be one of 1, got True"),
        ({"trunk": {"side": 1, "kind": "round", "version": 1.0}}, r"tree\.trunk\.version must be one of 1, got 1.0"),
        ({"leaves": [3]}, r"tree\.leaves\[0\] must be a table"),
        ({"point": [1]}, r"tree\.point must be a list of 2"),
        ({"point": [1, 2, 3]}, r"tree\.point must be a list of 2"),
        ({"tools": ["saw"]}, r"tree\.tools must be a table"),
        ({"tools": {"saw": 1}}, r"tree\.tools\.saw must be"),
        ({"guest": 3}, r"tree\.guest must be a table, got 3"),
        ({"guest": None}, r"tree\.guest must be a table, got None"),
        ({"guest": {}}, r"tree\.guest\.animal must be one of 'bird', 'squirrel', 'chipmunk', got None"),
        ({"guest": {"animal": "cow"}}, r"tree\.guest\.animal must be one of 'bird', .*, got 'cow'"),
        ({"guest": {"animal": ["bird"]}}, r"tree\.guest\.animal must be one of"),
        ({"guest": {"animal": {}}}, r"tree\.guest\.animal must be one of"),
        ({"guest": {"animal": "bird", "nuts": []}}, r"tree\.guest has unknown keys nuts; it has animal, wings_cm"),
        ({"guest": {"animal": "bird"}}, r"tree\.guest lacks wings_cm"),
        ({"guest": {"animal": "bird", "wings_cm": "wide"}}, r"tree\.guest\.wings_cm must be"),
        ({"visitor": "some"}, r"tree\.visitor must be a table, got 'some'"),
        ({"trunk": {"side": 1}}, r"tree\.trunk lacks kind, version"),
        ({"leaves": [{"side": 1, "kind": [], "version": 1}]}, r"kind must be one of 'square', 'round', got \[\]"),
    ],
)
def test_values_of_another_type_are_refused_with_their_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        decode(Tree, GOOD | change, where="tree")
    assert caught.value.code == "bad_recipe"


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(RecipeError, match="tree must be a table, got \\[\\]"):
        decode(Tree, [], where="tree")


def test_whole_numbers_may_stand_for_floats() -> None:
    tree = decode(Tree, GOOD | {"ratio": 1, "limit": 2}, where="tree")
    assert (type(tree.ratio), type(tree.limit)) == (float, float)
    assert digest(tree) == digest(decode(Tree, GOOD | {"ratio": 1.0, "limit": 2.0}, where="tree"))


def test_none_can_be_said_in_toml() -> None:
    assert decode(Tree, GOOD | {"limit": "none"}, where="tree").limit is None
    assert decode(Tree, GOOD | {"visitor": "none"}, where="tree").visitor is None
    assert decode(Tree, GOOD | {"trunk": "none"}, where="tree").trunk is None
    assert decode(Tree, GOOD | {"note": "none"}, where="tree").note is None
    assert decode(Tree, GOOD | {"name": "none"}, where="tree").name == "none"
    with pytest.raises(RecipeError, match=r"tree\.guest must be a table, got 'none'"):
        decode(Tree, GOOD | {"guest": "none"}, where="tree")
    with pytest.raises(RecipeError, match=r"tree\.ratio"):
        decode(Tree, GOOD | {"ratio": "none"}, where="tree")


def test_canonical_json_is_one_line_of_sorted_keys() -> None:
    assert canonical_json(Leaf(side=1, kind="round", version=1)) == '{"kind":"round","side":1,"version":1}'
    assert canonical_json({"ä": 1, "b": (1, 2)}) == '{"b":[1,2],"ä":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": math.nan})


def test_digest_is_the_sha256_of_the_canonical_json() -> None:
    expected = "sha256:bc822ad080a7974db05d3c78cbdd8912d22f24e37fcc4ebb99a65c1a59f76cd3"
    assert digest(Leaf(side=1, kind="round", version=1)) == expected
