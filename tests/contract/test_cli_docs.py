"""docs/cli.md is what the commands say of themselves."""

import subprocess
import sys
from pathlib import Path

from tubelet.cli import main

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_generated_from_the_help_of_every_command() -> None:
    made = subprocess.run(
        [sys.executable, DOCS / "make_cli.py"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert made == page, "run: python docs/make_cli.py > docs/cli.md"
    for command in main.commands:
        assert f"\n## tubelet {command}\n" in page
