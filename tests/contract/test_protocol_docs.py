"""docs/protocols.md and docs/evaluation.md: their recipes, protocols and commands exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tubelet.cli import main
from tubelet.evaluation.formats import FORMATS, detect_format, read_list
from tubelet.spec.protocol import is_allowed
from tubelet.spec.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "export" / "recipes"
PROTOCOLS = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[`(\w+)`\]\(models/(\w+)\.md\) \| (.*?) \| `(\w+)` \| (.*?) \|", PROTOCOLS, re.MULTILINE)
"""Recipe, its card, checkpoint, protocol, stated figure."""


def commands(page: str) -> Iterator[list[str]]:
    """Every `tubelet` of a page's shell blocks; what stands behind ``--`` too."""
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "--" in words:
                place = words.index("--")
                yield words[:place]
                words = words[place + 1 :]
            if words:
                yield words


COMMANDS = {
    name: [words for words in commands(page) if words[0] == "tubelet"]
    for name, page in (("protocols", PROTOCOLS), ("evaluation", EVALUATION))
}


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every file and folder that the pages speak of lies, though empty."""
    (tmp_path / "export").symlink_to(ROOT / "export")
    (tmp_path / "YOUR_FILE").touch()
    for words in COMMANDS["protocols"] + COMMANDS["evaluation"]:
        for word in words[2:]:
            path = tmp_path / word
            if word.startswith(("bundles/", "repositories/", "runs/")) and not path.suffix:
                path.mkdir(parents=True, exist_ok=True)
            elif path.suffix in (".csv", ".json", ".txt") and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", COMMANDS)
@pytest.mark.usefixtures("workplace")
def test_every_command_is_one_of_the_real_command_line(page: str) -> None:
    assert len(COMMANDS[page]) >= 5
    for words in COMMANDS[page]:
        command = main.commands[words[1]]
        try:
            with command.make_context(words[1], words[2:]):
                pass
        except click.ClickException as exc:
            pytest.fail(f"{shlex.join(words)}: {exc.format_message()}")


def test_a_wrong_command_would_be_found(workplace: Path) -> None:
    with pytest.raises(click.NoSuchOption):
        main.commands["evaluate"].make_context("evaluate", ["list.csv", "--protokoll", "4x3"])


def test_every_row_names_a_recipe_and_a_protocol_that_it_has() -> None:
    assert len(ROWS) > 25
    for name, card, checkpoint, protocol, _ in ROWS:
        recipe = Recipe.load(RECIPES / f"{name}.toml")
        assert card == recipe.name == name
        assert is_allowed(protocol, recipe.protocols), (name, protocol)
        released = recipe.published.weights == "released"
        assert checkpoint == (f"`{Path(recipe.checkpoint.file).name}`" if released else "bring one")


def test_every_row_has_its_commands() -> None:
    made = [words for words in COMMANDS["protocols"] if words[1] == "evaluate"]
    evaluated = {(option(words, "--model"), option(words, "--protocol")) for words in made}
    rows = {(name, protocol) for name, _, _, protocol, _ in ROWS}
    ensembles = {("en_vidtr_s", "10x3"), ("en_vidtr_m", "10x3"), ("en_vidtr_l", "10x3")}
    demo = {pair for pair in evaluated if pair[0].startswith("motion")}
    assert evaluated == rows | ensembles | demo
    exported = {Path(words[2]).stem for words in COMMANDS["protocols"] if words[1] == "export"}
    assert exported == {name for name, _ in rows | demo}
    outs = [option(words, "--out") for words in made]
    assert len(outs) == len(set(outs))


def test_the_recipes_own_statements_hold_the_figures() -> None:
    """A figure of a row stands on its recipe's card too, where that states one."""
    for name, _, _, _, stated in ROWS:
        accuracy = Recipe.load(RECIPES / f"{name}.toml").published.accuracy
        numbers = re.findall(r"\d+\.\d+", stated)
        if "with 10x3" in accuracy or name.startswith("vivit_b"):
            assert all(number in accuracy for number in numbers), (name, stated, accuracy)


def test_every_recipe_has_a_row_or_a_reason() -> None:
    rest = PROTOCOLS.partition("## Rows that are missing")[2]
    rows = {name for name, *_ in ROWS}
    for path in RECIPES.glob("*.toml"):
        assert path.stem in rows or f"`{path.stem}`" in rest, path.stem


def test_the_lists_that_are_shown_are_lists(tmp_path: Path) -> None:
    shown = re.findall(r"<!-- list: (\S+) -->\n```\w*\n(.*?)```", EVALUATION, re.DOTALL)
    videos = {
        "csv": ("a.mp4", "b.mp4"),
        "paths": ("a.mp4", "b.mp4"),
        "kinetics": ("abseiling/0wR5jVB-WPk_000417_000427.mp4",),
        "ssv2": ("78687.webm",),
        "ek100": ("P01/videos/P01_11.MP4",),
    }
    assert videos.keys() == set(FORMATS)
    found = set()
    for name, text in shown:
        path = tmp_path / Path(name).stem / name
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        format = detect_format(name, text)
        for video in videos[format]:
            (path.parent / video).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / video).touch()
        listed = read_list(path)
        assert [row.item.uri for row in listed.rows] == [str(path.parent / video) for video in videos[format]]
        found.add(listed.format)
    assert found == set(FORMATS)


def test_the_links_lead_somewhere() -> None:
    for page, text in (("protocols", PROTOCOLS), ("evaluation", EVALUATION)):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (ROOT / "docs" / target).exists(), (page, target)


def test_the_measured_table_counts_right() -> None:
    table = PROTOCOLS.partition("## The same commands on the demo model")[2]
    rows = re.findall(r"^\| `(motion\w*)` \| `(\w+)` \| ([\d.]+) % \| (\d+) of (\d+) \|", table, re.MULTILINE)
    assert len(rows) >= 8
    for name, protocol, share, right, number in rows:
        assert f"{int(right) / int(number):.2%}" == f"{share}%"
        assert is_allowed(protocol, Recipe.load(RECIPES / f"{name}.toml").protocols)
