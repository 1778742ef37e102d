"""`tubelet models`: what it says of each model, of one that answers alone and of some that answer together."""

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from scripted_triton import ScriptedTriton, contract, ensemble, running

from tubelet.cli import main
from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.limits import Limits
from tubelet.spec.strict import canonical_json

TOGETHER = EnsembleContract(
    schema_version=1, name="both", members=(contract("one"), contract("two")), aggregation="mean_probabilities"
)


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    both = ensemble("both", contract=canonical_json(TOGETHER), contract_digest=TOGETHER.digest)
    with running(ScriptedTriton(models=[ensemble("demo", limits=Limits(max_views=12)), both])) as scripted:
        yield scripted


def models(url: str, *options: str) -> str:
    done = CliRunner(env={"TUBELET_URL": url}).invoke(main, ["models", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_model_is_an_object_a_line(triton: ScriptedTriton) -> None:
    both, demo = (json.loads(line) for line in models(triton.url, "--json").splitlines())
    assert (demo["model"], demo["contract_digest"]) == ("demo", contract("demo").digest)
    assert demo["members"] == [{"name": "demo", "family": "vivit", "variant": "factorised_encoder"}]
    assert (demo["classes"], demo["protocols"], demo["default_protocol"]) == ({"motion": 4}, ["1x1", "4x3"], "1x1")
    assert demo["limits"]["max_views"] == 12
    assert (both["model"], both["contract_digest"]) == ("both", TOGETHER.digest)
    assert [member["name"] for member in both["members"]] == ["one", "two"]


def test_people_read_family_protocols_and_digest(triton: ScriptedTriton) -> None:
    assert models(triton.url).splitlines() == [
        "both  vivit factorised_encoder + vivit factorised_encoder",
        "  classes    4 of motion",
        "  protocols  1x1, 4x3; without one 1x1",
        f"  contract   {TOGETHER.digest}",
        "demo  vivit factorised_encoder",
        "  classes    4 of motion",
        "  protocols  1x1, 4x3; without one 1x1",
        f"  contract   {contract('demo').digest}",
    ]


def test_those_that_are_named_are_described(triton: ScriptedTriton) -> None:
    (demo,) = (json.loads(line) for line in models(triton.url, "demo", "--json").splitlines())
    assert demo["model"] == "demo"


def test_nobody_there_is_one_line() -> None:
    done = CliRunner().invoke(main, ["models", "--url", "127.0.0.1:1"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: backend_lost: ")
    assert len(done.stderr.splitlines()) == 1
