"""The recipes of the repository: each holds together, and builds the network that its paper counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tubelet.export.bundle import contract_of, read_labels
from tubelet.export.count import count_parameters, on_meta
from tubelet.export.figures import FIGURES
from tubelet.export.papers import FULL_SIZE
from tubelet.models.network import VideoNetwork
from tubelet.models.registry import build, network_class
from tubelet.spec.network import VidtrNetwork, VivitNetwork, VtnNetwork
from tubelet.spec.protocol import Protocol
from tubelet.spec.recipe import Recipe
from tubelet.spec.strict import encode

EXPORT = Path(__file__).parents[2] / "export"
PATHS = sorted((EXPORT / "recipes").glob("*.toml"))
RECIPES = {path.stem: Recipe.load(path) for path in PATHS}
PAPERS = sorted(name for name, recipe in RECIPES.items() if recipe.published.weights != "ours")

RELEASED = {
    "vivit_b_16x2_k400", "vivit_b_16x2_k400_hf", "vivit_b_16x2_fe_k400", "vivit_l_16x2_fe_k400", "vivit_l_16x2_fe_k600",
    "vivit_l_16x2_fe_ek100", "vtn_vit_b_k400", "vtn_vit_b_k400_as_coded", "vidtr_s_k400", "vidtr_m_k400",
    "vidtr_l_k400", "cvidtr_s_k400", "cvidtr_m_k400", "i3d_r50_8x8_k400",
}  # fmt: skip
"""Every file that an author has released."""

CHECK_VALUES = {
    "kinetics400": (400, {
        0: "abseiling", 5: "archery", 22: "biking through snow", 116: "eating spaghetti", 290: "sharpening knives",
        329: "springboard diving", 346: "tai chi", 358: "throwing discus", 399: "zumba",
    }),
    "kinetics600": (600, {0: "abseiling", 599: "zumba"}),
    "something_something_v2": (174, {
        0: "Approaching something with your camera", 1: "Attaching something to something",
        173: "Wiping something off of something",
    }),
    "epic_kitchens_100_verbs": (97, {0: "take", 1: "put", 2: "wash", 3: "open", 4: "close", 96: "unfreeze"}),
    "epic_kitchens_100_nouns": (300, {0: "tap", 1: "spoon", 2: "plate", 3: "cupboard", 4: "knife"}),
}  # fmt: skip


def full_size(recipe: Recipe) -> VideoNetwork:
    """The recipe's network at the paper's sizes, for the recipe's crop."""
    network = on_meta(FULL_SIZE[recipe.name])
    sizes: Any = network.sizes
    return on_meta(lambda: build(recipe.network, replace(sizes, crop_px=recipe.crop.size_px)))


def test_there_is_a_recipe_for_every_released_file() -> None:
    assert {name for name, recipe in RECIPES.items() if recipe.published.weights == "released"} == RELEASED


def test_names_are_unique_and_those_of_the_files() -> None:
    assert {name: recipe.name for name, recipe in RECIPES.items()} == {name: name for name in RECIPES}


def test_every_network_of_the_papers_has_a_recipe() -> None:
    assert {name for name in FULL_SIZE if "@" not in name} == set(PAPERS)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_labels_are_there(name: str) -> None:
    assert all(read_labels(RECIPES[name], EXPORT / "recipes").values())


@pytest.mark.parametrize("name", PAPERS)
def test_recipe_network_and_labels_make_a_contract(name: str) -> None:
    recipe, labels = RECIPES[name], read_labels(RECIPES[name], EXPORT / "recipes")
    contract = contract_of(recipe, full_size(recipe), labels)
    assert contract.num_classes == sum(map(len, labels.values()))
    assert Protocol.parse(contract.default_protocol).num_views in (1, 4, 12, 30)


@pytest.mark.parametrize("name", PAPERS)
def test_parameters_are_those_of_the_released_code(name: str) -> None:
    expected = {figure.code_parameters for figure in FIGURES if figure.network == name} - {None}
    counted = count_parameters(full_size(RECIPES[name]))
    assert expected <= {counted}
    assert type(on_meta(FULL_SIZE[name])) is network_class(RECIPES[name].network)


@pytest.mark.parametrize("name", PAPERS)
def test_heads_windows_and_pools_are_those_of_the_network(name: str) -> None:
    network = RECIPES[name].network
    sizes: Any = on_meta(FULL_SIZE[name]).sizes
    match network:
        case VivitNetwork():
            assert network.classifier == sizes.classifier
            assert network.num_heads in (None, getattr(sizes, "encoder", None) and sizes.encoder.num_heads)
        case VtnNetwork():
            assert network.attention_window == sizes.temporal.attention_window
            assert network.temporal_heads == sizes.temporal.num_heads
            assert network.backbone_heads == getattr(sizes.backbone, "num_heads", None)
        case VidtrNetwork():
            assert (network.num_heads, network.activation) == (sizes.num_heads, sizes.activation)
            assert network.pool_layers == getattr(sizes, "pool_layers", ())
            assert network.dropped_frames == getattr(sizes, "dropped_times", ())


def test_each_family_is_prepared_as_its_authors_do() -> None:
    """Reference values that a copied line would get wrong in silence."""
    kinds = {
        "vivit": ("scenic", "scenic", 2 / 255, (1.0, 1.0, 1.0), "mean_logits"),
        "vtn": ("pyslowfast", "pyslowfast", 1 / 255, (0.45, 0.45, 0.45), "mean_probabilities"),
        "vidtr": ("gluonmm", "gluonmm", 1 / 255, (0.485, 0.456, 0.406), "mean_probabilities"),
        "i3d": ("gluoncv_i3d", "gluonmm", 1 / 255, (0.485, 0.456, 0.406), "mean_probabilities"),
    }
    found = {
        name: (r.sampler.kind, r.resize.kind, r.normalisation.scale, r.normalisation.mean, r.aggregation)
        for name, r in RECIPES.items()
        if name in PAPERS and name != "vtn_vit_b_k400_as_coded"
    }
    assert found == {name: kinds[RECIPES[name].network.family] for name in found}


def test_the_two_readings_of_vtn_differ_where_paper_and_code_do() -> None:
    paper, code = RECIPES["vtn_vit_b_k400"], RECIPES["vtn_vit_b_k400_as_coded"]
    assert paper.full_video is not None
    assert code.full_video is not None
    assert (paper.aggregation, code.aggregation) == ("mean_probabilities", "sum_logits")
    assert (paper.resize.short_side(3), code.resize.short_side(3)) == (256, 224)
    assert (paper.full_video.span_s, code.full_video.span_s) == (None, 10.0)
    texts = [encode(recipe) for recipe in (paper, code)]
    differ = {key for key in texts[0] if texts[0][key] != texts[1][key]}
    assert differ == {"name", "full_video", "resize", "aggregation", "published"}


def test_nouns_come_first() -> None:
    recipe = RECIPES["vivit_l_16x2_fe_ek100"]
    labels = read_labels(recipe, EXPORT / "recipes")
    assert [(head.name, len(labels[head.name])) for head in recipe.heads] == [("noun", 300), ("verb", 97)]
    assert (recipe.product, recipe.default_protocol) == ("action", "4x1")


@pytest.mark.parametrize("name", CHECK_VALUES)
def test_label_files_have_the_published_order(name: str) -> None:
    labels = (EXPORT / "labels" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    count, values = CHECK_VALUES[name]
    assert len(labels) == len(set(labels)) == count
    assert {index: labels[index] for index in values} == values
    if not name.startswith("epic"):
        assert labels == sorted(labels)


def test_every_label_file_is_explained() -> None:
    page = (EXPORT / "labels" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (EXPORT / "labels").glob("*.txt") if f"`{path.name}`" not in page] == []


@pytest.mark.parametrize("name", PAPERS)
def test_a_released_file_is_said_where_to_get(name: str) -> None:
    checkpoint, published = RECIPES[name].checkpoint, RECIPES[name].published
    assert checkpoint.source.startswith("https://") == (published.weights == "released")
    assert published.notes
    assert all(note.endswith((".", "!")) for note in published.notes)
