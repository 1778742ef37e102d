"""Processor time and memory of a server's processes, seen on real ones that look like a server's."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tubelet.loadtest.measured import ProcessFigures
from tubelet.loadtest.processes import ProcessWatch, Usage, growth_per_hour, process_name

SERVER = '''
"""Listens, has a stub for each name it is given, and does what it is told."""
import os, socket, subprocess, sys, time

STUB = "/backends/python/triton_python_backend_stub"

def start(path):
    # Python would look for its packages beside the name that it is called by; a shell does not.
    return subprocess.Popen([STUB, path], executable="/bin/sh", stdin=subprocess.PIPE)

listening = socket.create_server(("127.0.0.1", 0))
os.set_inheritable(listening.fileno(), True)
stubs = {path: start(path) for path in sys.argv[1:]}
kept = []
print(listening.getsockname()[1], os.getpid(), flush=True)
for line in sys.stdin:
    word, _, argument = line.strip().partition(" ")
    if word == "burn":
        began = time.process_time()
        while time.process_time() - began < float(argument):
            pass
    elif word == "take":
        kept.append(b"x" * (int(argument) << 20))
    elif word == "kill":
        stubs[argument].kill()
        stubs[argument].wait()
    elif word == "leave":
        stubs[argument].kill()  # and nobody takes note of it: a zombie
        os.waitid(os.P_PID, stubs[argument].pid, os.WEXITED | os.WNOWAIT)
    elif word == "start":
        stubs[argument] = start(argument)
    print("done", flush=True)
'''
SUPERVISOR = """#!{python}
import subprocess, sys
_, serve, server, *stubs = sys.argv
assert serve == "serve"
command = subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE)  # whose command it runs
sys.exit(subprocess.call([sys.executable, server, *stubs]))
"""


class Tree:
    """``tubelet serve``, a server and stubs of models, and a command that the first one runs."""

    def __init__(self, folder: Path, *models: str) -> None:
        self.stubs = {}
        for name in {name.partition("#")[0] for name in models}:
            script = folder / "repository" / name / "1" / "model.py"
            script.parent.mkdir(parents=True)
            script.write_text("read line\n")
            self.stubs[name] = str(script)
        server, supervisor = folder / "server.py", folder / "tubelet"
        server.write_text(SERVER)
        supervisor.write_text(SUPERVISOR.format(python=sys.executable))
        supervisor.chmod(supervisor.stat().st_mode | stat.S_IXUSR)
        self.process = subprocess.Popen(
            [supervisor, "serve", server, *self.stubs.values()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        port, pid = self.process.stdout.readline().split()
        self.port, self.pid = int(port), int(pid)

    def tell(self, word: str, argument: str) -> None:
        """Has the server do something, and waits until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word} {argument}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def watch(self, host: str = "127.0.0.1") -> ProcessWatch:
        return ProcessWatch(host, self.port)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path, "motion_sample", "motion_units")
    yield made
    made.end()


def by_name(watch: ProcessWatch, tree: Tree) -> dict[str, ProcessFigures]:
    """Figures by name, with those of the server itself, which is a Python here, under its name at Triton's."""
    return {"tritonserver" if found.pid == tree.pid else found.name: found for found in watch.figures()}


def test_every_process_of_the_server_and_no_other(tree: Tree) -> None:
    watch = tree.watch()
    assert watch.sample().memory_bytes > 0
    found = by_name(watch, tree)
    assert list(found)[:2] == ["tubelet serve", "tritonserver"]
    assert set(found) == {"tubelet serve", "tritonserver", "motion_sample", "motion_units"}
    assert found["tubelet serve"].pid == tree.process.pid
    assert found["tritonserver"].pid == tree.pid


@pytest.mark.parametrize(("host", "number"), [("localhost", 4), ("127.0.0.2", 0), ("[::1]", 0)])
def test_who_listens_elsewhere_is_another(tree: Tree, host: str, number: int) -> None:
    watch = tree.watch(host)
    watch.sample()
    assert len(watch.figures()) == number


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    watch = ProcessWatch("127.0.0.1", port)
    assert [watch.sample(), watch.sample()] == [Usage(), Usage()]
    assert watch.figures() == ()


def test_the_load_test_itself_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        watch = ProcessWatch("127.0.0.1", ours.getsockname()[1])
        assert watch.sample() == Usage()


def test_processor_time_is_that_since_the_first_sample(tree: Tree) -> None:
    tree.tell("burn", "0.3")
    watch = tree.watch()
    assert watch.sample().cpu_s == 0
    tree.tell("burn", "0.2")
    assert watch.sample().cpu_s == pytest.approx(0.2, abs=0.1)  # the system counts in hundredths of a second
    found = by_name(watch, tree)
    assert found["tritonserver"].cpu_cores > 0 == found["motion_units"].cpu_cores


def test_memory_that_is_taken_shows(tree: Tree) -> None:
    watch = tree.watch()
    before = watch.sample()
    tree.tell("take", "64")
    after = watch.sample()
    found = by_name(watch, tree)
    assert after.memory_bytes - before.memory_bytes == pytest.approx(64 << 20, rel=0.1)
    server = found["tritonserver"]
    assert server.last_mib - server.first_mib == pytest.approx(64, rel=0.1)
    assert server.most_mib == server.last_mib
    assert found["motion_units"].last_mib == pytest.approx(found["motion_units"].first_mib, abs=1)


@pytest.mark.parametrize("how", ["kill", "leave"])
def test_who_dies_and_comes_back_appears_anew(tree: Tree, how: str) -> None:
    watch = tree.watch()
    watch.sample()
    first = by_name(watch, tree)["motion_units"]
    tree.tell(how, tree.stubs["motion_units"])
    used = watch.sample()
    tree.tell("burn", "0.1")
    tree.tell("start", tree.stubs["motion_units"])
    again = watch.sample()
    assert again.cpu_s >= used.cpu_s
    assert again.memory_bytes > used.memory_bytes
    found = by_name(watch, tree)
    assert found["motion_units"].pid == first.pid
    assert found["motion_units"].last_mib == first.last_mib > 0
    assert found["motion_units#2"].pid != first.pid
    assert set(found) == {"tubelet serve", "tritonserver", "motion_sample", "motion_units", "motion_units#2"}


def test_a_server_that_has_gone(tree: Tree) -> None:
    watch = tree.watch()
    watch.sample()
    tree.end()
    pause = threading.Event()
    while watch.sample().memory_bytes:  # the test's own timeout ends a wait that is in vain
        pause.wait(0.01)
    assert watch.sample().memory_bytes == 0
    assert len(by_name(watch, tree)) == 4


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        ("tritonserver", ["/opt/tritonserver/bin/tritonserver", "--model-repository=/models"], "tritonserver"),
        (
            "triton_python_b",
            ["/b/python/triton_python_backend_stub", "/tmp/r/motion_units/1/model.py", "prefix", "4194304"],
            "motion_units",
        ),
        ("python3", ["/usr/bin/python3", "/usr/local/bin/tubelet", "serve", "--json"], "tubelet serve"),
        ("tubelet", ["/usr/local/bin/tubelet", "serve"], "tubelet serve"),
        ("python3", ["/usr/bin/python3", "/usr/local/bin/tubelet", "loadtest", "a.toml"], "python3"),
        ("nginx", ["nginx: master process nginx"], "nginx"),
        ("tritonserver", [], "tritonserver"),
    ],
)
def test_names(name: str, command: list[str], expected: str) -> None:
    assert process_name(name, command) == expected


def line(number: int, slope: float = 2.0) -> list[Any]:
    return [(float(i), int(1000 + slope * i)) for i in range(number)]


def test_growth_is_a_slope() -> None:
    assert growth_per_hour(line(20)) == pytest.approx(2 * 3600)
    assert growth_per_hour(line(40, slope=0)) == 0


def test_growth_at_the_beginning_is_none() -> None:
    grows_then_stays = [(float(i), min(i, 15) * 1000) for i in range(40)]
    assert growth_per_hour(grows_then_stays) == pytest.approx(0, abs=1e-6)


def test_growth_of_few_samples_is_not_told() -> None:
    assert growth_per_hour(line(18)) == 0
    assert growth_per_hour([]) == 0
