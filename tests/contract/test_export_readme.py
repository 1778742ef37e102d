"""export/README.md: its recipes can be loaded, name every key, and its snippet runs."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from tubelet.export.bundle import contract_of, export_bundle, load_plan
from tubelet.spec.network import I3dNetwork, VidtrNetwork, VivitNetwork, VtnNetwork
from tubelet.spec.recipe import Recipe
from tubelet.spec.strict import decode

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT.parent / "shared" / "golden"
PAGE = (ROOT / "export" / "README.md").read_text(encoding="utf-8")
EXAMPLES = {
    block.split('"')[1]: block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "# part" not in block
}
GOLDENS = {
    "m3": ("scenic_m3_time_space", "checkpoint", 7),
    "small_vtn": ("vtn_tiny", "checkpoint.pyth", 7),
    "small_cvidtr": ("vidtr_compact", "checkpoint.pth", 7),
    "small_hf": ("hf_vivit_tiny", "model.safetensors", 7),
    "small_i3d": ("i3d_slow_r50_tiny", "checkpoint.pth", 7),
}


def plan_of(name: str) -> Recipe:
    return decode(Recipe, tomllib.loads(EXAMPLES[name]), where="recipe")


def keys(kind: Any) -> Iterator[str]:
    """Every key that a recipe may have."""
    for name, hint in get_type_hints(kind).items():
        yield name
        for part in (hint, *get_args(hint)):
            if is_dataclass(part) and isinstance(part, type):
                yield from keys(part)


def test_every_key_and_every_value_is_explained() -> None:
    known = set(keys(Recipe)) | {field.name for kind in NETWORKS for field in fields(kind)}
    explained = set(re.findall(r"`[^`]*`", PAGE))
    words = {word for text in explained for word in re.findall(r"\w+", text)}
    assert known - words == set()
    values = {value for kind in NETWORKS for hint in get_type_hints(kind).values() for value in literals(hint)}
    assert values - words == set()


NETWORKS = (VivitNetwork, VtnNetwork, VidtrNetwork, I3dNetwork)


def literals(hint: Any) -> Iterator[str]:
    for part in get_args(hint):
        if isinstance(part, str):
            yield part
        else:
            yield from literals(part)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_recipes(name: str) -> None:
    plan = plan_of(name)
    assert plan.name == name
    assert plan.default_protocol in plan.protocols


def test_there_is_an_example_for_every_format_but_our_own() -> None:
    formats = {plan_of(name).checkpoint.format for name in EXAMPLES}
    assert formats == {"scenic", "huggingface", "slowfast", "gluonmm", "gluoncv"}
    assert EXAMPLES.keys() == GOLDENS.keys()


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="'shared/golden' does not lie beside the repository")
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_fit_the_checkpoints_that_they_speak_of(name: str) -> None:
    folder, file, num_classes = GOLDENS[name]
    plan = plan_of(name)
    labels = {plan.heads[0].name: tuple(f"class {i}" for i in range(num_classes))}
    contract = contract_of(plan, load_plan(plan, GOLDEN / folder / file), labels)
    assert contract.num_classes == num_classes


def test_the_part_for_two_heads_replaces_lines_of_a_whole_recipe() -> None:
    (part,) = (block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "# part" in block)
    plan = decode(Recipe, tomllib.loads(EXAMPLES["m3"]) | tomllib.loads(part), where="recipe")
    assert [head.name for head in plan.heads] == ["noun", "verb"]
    assert plan.product == "action"


def snippet(bundle: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return code.replace('Path("bundles/motion")', f"Path({str(bundle)!r})")


def test_the_snippet_runs_on_a_two_stage_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    try:
        from tiny import LABELS, write_recipe
    finally:
        sys.path.pop(0)
    export_bundle(write_recipe(tmp_path), checkpoint=None, out=tmp_path / "bundle")
    names: dict[str, Any] = {}
    exec(snippet(tmp_path / "bundle"), names)
    assert names["logits"].shape == (2, len(LABELS))
    assert capsys.readouterr().out.startswith(f"(2, {len(LABELS)})")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="'shared/golden' does not lie beside the repository")
@pytest.mark.parametrize("name", ["small_vtn", "m3"])
def test_the_snippet_gives_the_reference_logits(tmp_path: Path, name: str) -> None:
    folder, file, num_classes = GOLDENS[name]
    (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(num_classes)))
    (tmp_path / "recipe.toml").write_text(EXAMPLES[name])
    export_bundle(tmp_path / "recipe.toml", checkpoint=GOLDEN / folder / file, out=tmp_path / "bundle")
    code = snippet(tmp_path / "bundle")
    inputs, expected = (np.load(GOLDEN / folder / f"{kind}.npz") for kind in ("input", "expected"))
    code = re.sub(r"clips = .*", "clips = frames", code)
    if "frame_indices" in inputs:
        code = re.sub(r'views\["CLIP_POSITIONS"\] = .*', 'views["CLIP_POSITIONS"] = positions', code)
    names: dict[str, Any] = {"frames": inputs["frames"]}
    if "frame_indices" in inputs:
        names["positions"] = inputs["frame_indices"].astype(np.int32)
    exec(code, names)
    assert np.abs(names["logits"] - expected["logits"]).max() < 1e-5
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["contract"]["name"] == name
