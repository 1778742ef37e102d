"""Recipes: those in the repository are right, and one that is not says what is wrong with it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import networks
from tiny import RECIPE, recipe_data

from tubelet.spec.errors import RecipeError
from tubelet.spec.network import Network
from tubelet.spec.pipeline import FullVideo
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol
from tubelet.spec.recipe import Recipe
from tubelet.spec.strict import decode, encode

RECIPES = Path(__file__).parents[2] / "export" / "recipes"


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return Recipe.load(path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_of_the_repository_are_right(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    *named, last = [name for name in recipe.protocols if name != ANY_FULL]
    assert recipe.default_protocol in named
    assert all(Protocol.parse(name).num_views for name in named)
    # Whatever else a paper's own protocols leave out is there for the asking.
    assert last == ANY_CLIPS
    assert ("full" in named) == (ANY_FULL in recipe.protocols) == (recipe.full_video is not None)
    assert recipe.crop.size_px <= min(recipe.resize.short_side_px, recipe.resize.short_side_three_crops_px)
    assert recipe.checkpoint.licence


def test_a_recipe_is_read_as_it_is_written(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)
    assert recipe == decode(Recipe, encode(recipe), where="recipe")
    assert recipe.sampler.target_fps is None
    assert recipe.normalisation.scale == 2 / 255
    assert [head.labels for head in recipe.heads] == ["labels.txt"]


def test_none_and_a_value_are_told_apart(tmp_path: Path) -> None:
    plain = load(tmp_path, RECIPE)
    assert (plain.sampler.target_fps, plain.full_video, plain.product, plain.checkpoint.sha256) == (None,) * 4
    text = RECIPE.replace('target_fps = "none"', "target_fps = 12.5").replace('product = "none"', 'product = "action"')
    text = text.replace('full_video = "none"', "full_video = { num_frames = 250, span_s = 10 }")
    given_values = load(tmp_path, text.replace('sha256 = "none"', 'sha256 = "ab"'))
    assert given_values.sampler.target_fps == 12.5
    assert given_values.full_video == FullVideo(num_frames=250, span_s=10.0)
    assert (given_values.product, given_values.checkpoint.sha256) == ("action", "ab")


@given(networks)
def test_every_network_can_be_written(network: Network) -> None:
    data = recipe_data() | {"network": encode(network)}
    assert decode(Recipe, data, where="recipe").network == network


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', 'name = "tiny', "is not TOML"),
        ('name = "tiny"', "", "recipe lacks name"),
        ('name = "tiny"', 'name = "tiny"\nnmae = "x"', "recipe has unknown keys nmae; it has name, network"),
        ('target_fps = "none"', "", "recipe.sampler lacks target_fps"),
        ('target_fps = "none"', 'target_fps = "own"', "recipe.sampler.target_fps must be"),
        ('family = "vivit"', 'family = "vgg"', "recipe.network.family must be one of 'vivit', 'vtn', .*, got 'vgg'"),
        ('family = "vivit"\n', "", "recipe.network.family must be one of .*, got None"),
        (
            'family = "vivit"',
            'family = "vtn"',
            "recipe.network has unknown keys attention_order, classifier, num_heads, sampled_frames",
        ),
        ('classifier = "token"', 'classifier = "cls"', "recipe.network.classifier must be one of 'token', 'gap'"),
        ('num_heads = "none"', 'num_heads = "four"', "recipe.network.num_heads must be a value of type int"),
        ('num_heads = "none"', "num_heads = 0", "recipe.network: num_heads must be positive, got 0"),
        ("largest_batch = 8", "largest_batch = 0", "recipe: largest_batch must be positive, got 0"),
        ('full_video = "none"', "full_video = 250", "recipe.full_video must be a table, got 250"),
        ('format = "scenic"', 'format = "pickle"', "recipe.checkpoint.format must be one of 'scenic'"),
        ('aggregation = "mean_logits"', 'aggregation = "max"', "recipe.aggregation must be one of 'mean_logits'"),
        ('short_video = "wrap"', 'short_video = "repeat_last"', "recipe.sampler: short_video is wrap for the scenic"),
        ("short_side_three_crops_px = 20", "", "recipe.resize lacks short_side_three_crops_px"),
        ('weights = "ours"', 'weights = "mine"', "recipe.published.weights must be one of"),
        ("stride = 2", "stride = 2.0", "recipe.sampler.stride must be a value of type int"),
        ("stride = 2", "stride = 0", "recipe.sampler: stride must be positive, got 0"),
        ("antialias = false", "antialias = 0", "recipe.resize.antialias must be a value of type bool"),
        ("std = [1.0, 1.0, 1.0]", "std = [1.0]", "recipe.normalisation.std must be a list of 3"),
        ("std = [1.0, 1.0, 1.0]", "std = [1.0, 0, 1.0]", "recipe.normalisation: scale and std must be positive"),
        ("scale = 0.0078", "scale = nan # ", "recipe.normalisation.scale must be a finite number"),
        ('activation = "softmax"', 'activation = "relu"', r"recipe.heads\[0\].activation must be one of"),
        ("size_px = 16", 'size_px = "16"', "recipe.crop.size_px must be a value of type int"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(RecipeError, match=message) as caught:
        load(tmp_path, RECIPE.replace(old, new, 1))
    assert caught.value.code == "bad_recipe"


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        Recipe.load(tmp_path / "nothing.toml")


def test_a_recipe_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is not TOML"):
        Recipe.load(tmp_path / "recipe.toml")


@given(st.sampled_from(sorted(recipe_data())))
def test_no_key_of_a_recipe_may_be_left_out(key: str) -> None:
    data = recipe_data()
    del data[key]
    with pytest.raises(RecipeError, match=f"recipe lacks {key}"):
        decode(Recipe, data, where="recipe")
