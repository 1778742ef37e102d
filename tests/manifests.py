"""What `kubectl kustomize` makes of `server/kubernetes`, for tests that look at it."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
OVERLAYS = ROOT / "server" / "kubernetes" / "overlays"
TARGETS, SOURCES = ("cpu", "gpu"), ("volume", "s3")

Object = dict[str, Any]


@cache
def _render(overlay: Path) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine: apt-get install kubernetes-client")
    done = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(overlay: Path) -> list[Object]:
    """The objects of an overlay, in the order in which they would be applied."""
    return list(yaml.safe_load_all(_render(overlay)))


def named(objects: list[Object], kind: str, name: str = "tubelet") -> Object:
    """The one object of a kind with a name."""
    (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def pod(objects: list[Object]) -> Object:
    """The specification of the pods."""
    spec: Object = named(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def server(objects: list[Object]) -> Object:
    """The container that runs `tubelet serve`."""
    (found,) = [container for container in pod(objects)["containers"] if container["name"] == "tubelet"]
    return found


def option(command: list[str], name: str) -> str:
    """The value of an option in a command line that writes ``--name=value``."""
    (value,) = [word.partition("=")[2] for word in command if word.startswith(f"{name}=")]
    return value


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number: ``2Gi``, ``250m``."""
    units = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "m": 1e-3}
    for unit, factor in units.items():
        if str(text).endswith(unit):
            return float(str(text).removesuffix(unit)) * factor
    return float(text)
