"""Makes tubelet/clients/_sync of tubelet/clients/_async: python docs/make_sync.py [FOLDER]."""

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from unasync import Rule, unasync_files

CLIENTS = Path(__file__).parents[1] / "src" / "tubelet" / "clients"
NAMES = {
    "_async": "_sync",
    "AsyncVideoClassifier": "VideoClassifier",
    "AsyncRetrying": "Retrying",
    "AsyncClient": "Client",
    "aclose": "close",
    "async_in_thread": "sync_in_thread",
    "async_is_cancelled": "sync_is_cancelled",
    "async_owner": "sync_owner",
}
"""What unasync does not know by itself; Async... becomes Sync... anyway."""

WORDS = {
    "`AsyncVideoClassifier`": "`VideoClassifier`",
    "for asyncio": "for threads",
    "any number of coroutines": "any number of threads",
    "an ``async with``": "a ``with``",
    "the event loop that first": "the process that first",
    "Cancelling a task that waits for an answer cancels": "Ctrl-C while it waits for an answer cancels",
    "Awaitable[_T]": "_T",
    "import Awaitable, Callable": "import Callable",
}
"""In docstrings, where unasync changes nothing, and what is more than a name."""


def make(out: Path) -> None:
    """Writes the modules into the folder ``out``."""
    with TemporaryDirectory() as scratch:
        sources = sorted((CLIENTS / "_async").glob("*.py"))
        rule = Rule(fromdir=f"{CLIENTS}/_async/", todir=f"{scratch}/", additional_replacements=NAMES)
        unasync_files([str(source) for source in sources], [rule])
        for source in sources:
            text = (Path(scratch) / source.name).read_text(encoding="utf-8")
            for word, other in WORDS.items():
                # A docstring's lines end where they do; what belongs together may stand on two of them.
                text = re.sub(r"\s+".join(map(re.escape, word.split())), other, text)
            head = f"# Made of _async/{source.name} by docs/make_sync.py: change that file, and make this one again.\n"
            (out / source.name).write_text(head + text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "--quiet", "--select", "I", "--fix", out], check=True)
    subprocess.run([*ruff, "format", "--quiet", out], check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else CLIENTS / "_sync")
