"""tubelet/clients/_sync is what docs/make_sync.py makes of tubelet/clients/_async."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "src" / "tubelet" / "clients"


def test_the_twin_is_generated(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "make_sync.py", tmp_path], check=True, timeout=60)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.py")}
    there = {path.name: path.read_text(encoding="utf-8") for path in (CLIENTS / "_sync").glob("*.py")}
    assert made == there, "run: python docs/make_sync.py"
    assert set(there) == {path.name for path in (CLIENTS / "_async").glob("*.py")}
    for name, text in there.items():
        assert text.startswith(f"# Made of _async/{name} by docs/make_sync.py")
        assert "await " not in text
        assert "async " not in text
