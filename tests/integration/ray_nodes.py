"""A Ray cluster of several nodes on this machine, in a process of its own; nodes come and go by words on stdin.

Run as a program it is the cluster: ``add`` and ``kill`` a node of one CPU, the end of stdin ends it. Its head has none.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

STORE_BYTES = 100 * 1024 * 1024
CLUSTER_S = 60


class Nodes:
    """Such a cluster, for tests."""

    def __init__(self, count: int) -> None:
        # Sockets lie in this folder, and their paths may not be long.
        self._folder = tempfile.TemporaryDirectory(prefix="ray_", dir="/tmp")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(count), self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )
        self.address = self._next()["address"]

    def kill(self) -> None:
        """Kills all processes of a node."""
        self._say("kill")

    def add(self) -> None:
        """Starts another node."""
        self._say("add")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate(timeout=CLUSTER_S)
        self._folder.cleanup()
        assert self._process.returncode == 0

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._next() == {"done": word}

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the cluster ended with exit code {self._process.wait(CLUSTER_S)}"
        found: dict[str, Any] = json.loads(line)
        return found


def main(count: int, folder: Path) -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "temp_dir": str(folder), "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)

    def add() -> Any:
        return cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    nodes = [add() for _ in range(count)]
    sys.stdout.write(json.dumps({"address": cluster.address}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() == "add":
            nodes.append(add())
        else:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        sys.stdout.write(json.dumps({"done": line.strip()}) + "\n")
        sys.stdout.flush()
    for node in (*nodes, cluster.head_node):
        cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
