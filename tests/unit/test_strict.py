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

    def __post_init__(self) -> None:
        if self.side < 0:
            raise ValueError("side must not be negative")


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


GOOD: dict[str, Any] = {
    "name": "oak",
    "ratio": 0.5,
    "deep": True,
    "limit": None,
    "note": "old",
    "leaves": [{"side": 2, "kind": "square"}],
    "point": [1, 2],
    "tools": {"saw": "1.0"},
}

leaves = st.builds(Leaf, side=st.integers(0, 2**53), kind=st.sampled_from(["square", "round"]))
finite = st.floats(allow_nan=False, allow_infinity=False)
trees = st.builds(
    Tree,
    name=st.text(),
    ratio=finite,
    deep=st.booleans(),
    limit=st.none() | finite,
    note=st.none() | st.text(),
    leaves=st.lists(leaves, max_size=3).map(tuple),
    point=st.tuples(st.integers(), st.integers()),
    tools=st.dictionaries(st.text(), st.text(), max_size=3),
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
        ({"deep": 1}, r"tree\.deep must be a value of type bool"),
        ({"limit": "much"}, r"tree\.limit must be"),
        ({"note": 1}, r"tree\.note must be a value of type str"),
        ({"leaves": {"side": 1}}, r"tree\.leaves must be a list"),
        ({"leaves": [{"side": 1.0, "kind": "square"}]}, r"tree\.leaves\[0\]\.side must be a value of type int"),
        ({"leaves": [{"side": True, "kind": "square"}]}, r"tree\.leaves\[0\]\.side must be"),
        ({"leaves": [{"side": 1, "kind": "oval"}]}, r"kind must be one of 'square', 'round', got 'oval'"),
        ({"leaves": [{"side": -1, "kind": "round"}]}, r"tree\.leaves\[0\]: side must not be negative"),
        ({"leaves": [3]}, r"tree\.leaves\[0\] must be a table"),
        ({"point": [1]}, r"tree\.point must be a list of 2"),
        ({"point": [1, 2, 3]}, r"tree\.point must be a list of 2"),
        ({"tools": ["saw"]}, r"tree\.tools must be a table"),
        ({"tools": {"saw": 1}}, r"tree\.tools\.saw must be"),
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
    assert decode(Tree, GOOD | {"note": "none"}, where="tree").note == "none"
    with pytest.raises(RecipeError, match=r"tree\.ratio"):
        decode(Tree, GOOD | {"ratio": "none"}, where="tree")


def test_canonical_json_is_one_line_of_sorted_keys() -> None:
    assert canonical_json(Leaf(side=1, kind="round")) == '{"kind":"round","side":1}'
    assert canonical_json({"ä": 1, "b": (1, 2)}) == '{"b":[1,2],"ä":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": math.nan})


def test_digest_is_the_sha256_of_the_canonical_json() -> None:
    expected = "sha256:39073bc15b56cda3d3970e66711e0d2e9b22e443293944c79197df20c06c9e20"
    assert digest(Leaf(side=1, kind="round")) == expected
