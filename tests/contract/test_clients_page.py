"""clients/ says what the code says: tensors, parameters, error codes, and packages of exact versions."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tubelet.spec.errors import (
    DeadlineError,
    InternalError,
    InvalidRequestError,
    InvalidVideoError,
    LimitError,
    OverloadedError,
    UnavailableError,
)
from tubelet.spec.manifest import Contract
from tubelet.spec.request import PARAMETERS
from tubelet.spec.tensors import ways_in

CLIENTS = Path(__file__).parents[2] / "clients"
PAGE = (CLIENTS / "README.md").read_text(encoding="utf-8")
OF_THE_SERVER = (
    InvalidRequestError,
    InvalidVideoError,
    LimitError,
    OverloadedError,
    DeadlineError,
    UnavailableError,
    InternalError,
)
SERVED_CODES = {code for cls in OF_THE_SERVER for code in cls.codes}


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its two first lines."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_the_table_of_errors_has_every_code_once_and_by_its_class() -> None:
    named = [set(re.findall(r"`(\w+)`", row[0])) for row in rows("Errors")]
    assert [len(codes) for codes in named] == [len(cls.codes) for cls in OF_THE_SERVER]
    assert named == [set(cls.codes) for cls in OF_THE_SERVER]


def test_the_table_of_parameters_has_all() -> None:
    assert [name for row in rows("Parameters") for name in re.findall(r"`(\w+)`", row[0])] == list(PARAMETERS)


def test_the_table_of_tensors_has_all(
    make_contract: Callable[..., Contract], make_vtn_contract: Callable[..., Contract]
) -> None:
    table = {row[0].strip("`"): (row[1], len(row[2].split(","))) for row in rows("Tensors")}
    assert table.pop("PRODUCT") == ("FP32", 1)
    served = {
        spec.name: (spec.dtype, len(spec.shape))
        for contract in (make_contract(), make_vtn_contract())
        for _, sides in ways_in(contract).values()
        for side in sides
        for spec in side
    }
    served.pop("PRODUCT", None)
    assert table == served


def test_the_table_of_models_has_every_way_in(make_vtn_contract: Callable[..., Contract]) -> None:
    contract = make_vtn_contract()
    named = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in rows("Models")}
    served = {
        re.sub(rf"^{contract.name}", "m", name): [spec.name for spec in inputs]
        for name, (inputs, _) in ways_in(contract).values()
    }
    assert {name: inputs[: len(served[name])] for name, inputs in named.items()} == served


@pytest.mark.parametrize("example", ["node/classify.mjs", "go/classify.go"])
def test_the_examples_know_every_code(example: str) -> None:
    text = (CLIENTS / example).read_text(encoding="utf-8")
    (listed,) = re.findall(r"(?:CODES = \[|\[\]string\{)\n(.*?)\n[\]}]", text, re.DOTALL)
    assert set(re.findall(r"[\"'](\w+)[\"']", listed)) == SERVED_CODES


def test_the_packages_of_node_are_pinned_and_name_no_registry() -> None:
    package = json.loads((CLIENTS / "node" / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((CLIENTS / "node" / "package-lock.json").read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["dependencies"].values())
    assert lock["packages"][""]["dependencies"] == package["dependencies"]
    for name, locked in lock["packages"].items():
        assert not name or {"version", "integrity"} <= set(locked)
        assert "resolved" not in locked


@pytest.mark.parametrize("page", ["README.md", "curl/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (CLIENTS / page).read_text(encoding="utf-8")):
        assert ((CLIENTS / page).parent / target).exists(), target
