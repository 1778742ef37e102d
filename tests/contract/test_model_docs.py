"""docs/models/ is what the recipes and the counter say."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tubelet.export.bundle import contract_of, read_labels
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.manifest import Build, Calibration, Checkpoint, Manifest, Measurement, Verification

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "models"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_models", ROOT / "docs" / "make_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_generated_and_none_is_left_over(maker: ModuleType) -> None:
    made = maker.pages()
    assert {path.name for path in PAGES.glob("*.md")} == set(made), "run: python docs/make_models.py"
    different = [name for name, text in made.items() if (PAGES / name).read_text(encoding="utf-8") != text]
    assert different == [], "run: python docs/make_models.py"


def test_every_recipe_has_a_card_that_the_table_links(maker: ModuleType) -> None:
    table = (PAGES / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "export" / "recipes").glob("*.toml"):
        assert f"]({path.stem}.md)" in table
        assert f"tubelet export export/recipes/{path.name} " in (PAGES / f"{path.stem}.md").read_text(encoding="utf-8")


def test_the_card_of_a_bundle_says_what_was_measured(maker: ModuleType) -> None:
    recipe = maker.Recipe.load(maker.RECIPES / "vidtr_s_k400.toml")
    contract = contract_of(recipe, maker.network_of(recipe), read_labels(recipe, maker.RECIPES))
    source = Checkpoint(format="gluonmm", file="vidtr.pth", sha256="ab12", source="here", licence="Apache-2.0")
    found = Measurement(
        stage="encoder", against="torch", num_views=20, max_abs_logit=1.5e-5, cosine=1.0, top1_agreement=1.0
    )
    verification = Verification(
        engine="openvino", precision="int8", version="2026.4.1", processor="Xeon", graphs_sha256="cd34", num_clips=9,
        budget=BUDGETS["engine-int8/torch-fp32"], passed=True, units_equal=True, measured=(found,),
    )  # fmt: skip
    build = Build(
        checkpoint=source, num_parameters=87_473_296, opset=20, largest_batch=4, tools={"torch": "2.13.0"},
        int8=Calibration(tool="nncf 3.4.0", num_clips=300, num_units=600), verified=(verification,),
    )  # fmt: skip
    text = maker.card(recipe, Manifest(contract=contract, contract_digest=contract.digest, build=build))
    assert text.startswith(maker.card(recipe))
    for part in (
        contract.digest,
        "vidtr.pth",
        "ab12",
        "1.5e-05",
        "of 20 views",
        "torch 2.13.0",
        "openvino int8",
        "300 clips",
    ):
        assert part in text.removeprefix(maker.card(recipe))


def test_cells_cannot_break_a_table(maker: ModuleType) -> None:
    assert maker.table(("a",), [("x | y",)]) == "| a |\n| --- |\n| x \\| y |\n"
    assert "make_models" not in sys.modules
