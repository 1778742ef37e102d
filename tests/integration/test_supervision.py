"""What is killed comes back, what ends leaves nothing behind: the supervisor, provoked from outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import tritonclient.grpc
from real_server import TUBELET, Serving

from tubelet.clients import Classification, VideoClassifier
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import TubeletError, UnavailableError

pytestmark = pytest.mark.needs_triton

PORTS = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
STUBS = ["motion_sample", "motion_units", "motion_encoder", "motion_temporal", "motion_average"]


@contextmanager
def load(classifier: VideoClassifier) -> Iterator[list[Classification | TubeletError]]:
    """Six callers that ask without a pause; gives the list of what they got, complete at the end."""
    answers: list[Classification | TubeletError] = []
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            try:
                answers.append(classifier.classify(canary_video(), protocol="4x3"))
            except TubeletError as exc:
                answers.append(exc)
                is_over.wait(0.05)  # the pace of a caller whose server is away

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    try:
        yield answers
    finally:
        is_over.set()
        for caller in callers:
            caller.join()


def wait_until(condition: Callable[[], bool]) -> None:
    """Blocks until ``condition`` holds; the test's own timeout ends a wait that is in vain."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


@pytest.mark.parametrize("victim", [*STUBS, "tritonserver"])
def test_killed_under_load_comes_back_by_itself(serve: Callable[..., Serving], victim: str) -> None:
    serving = serve()
    with serving.classifier() as classifier:
        before = classifier.classify(canary_video())
        with load(classifier) as answers:
            wait_until(lambda: len(answers) > 10)
            name = "bin/tritonserver" if victim == "tritonserver" else f"/{victim}/"
            os.kill(serving.processes(name)[0], signal.SIGKILL)
            serving.wait_for("lost")
            serving.wait_for("ready")
            wait_until(lambda: isinstance(answers[-1], Classification))
        failures = [answer for answer in answers if isinstance(answer, TubeletError)]
        assert failures
        assert {type(failure) for failure in failures} == {UnavailableError}, failures
        assert {failure.code for failure in failures} == {"backend_lost"}
        np.testing.assert_array_equal(classifier.classify(canary_video()).logits, before.logits)
    assert len(serving.processes("triton_python_backend_stub")) == len(STUBS) + 1  # two sample instances
    assert serving.stop() == 0
    assert serving.regions() == []


def test_it_comes_back_however_often(serve: Callable[..., Serving]) -> None:
    serving = serve()
    for _ in range(3):
        os.kill(serving.processes("bin/tritonserver")[0], signal.SIGKILL)
        serving.wait_for("lost")
        serving.wait_for("ready")
    with serving.classifier() as classifier:
        assert classifier.classify(canary_video()).labels


def test_a_request_that_crashes_triton_does_not_end_the_service(serve: Callable[..., Serving]) -> None:
    """Triton 2.51 dies of the classification extension on a BYTES output."""
    serving = serve()
    with serving.classifier() as classifier:
        tensor = tritonclient.grpc.InferInput("VIDEO", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([canary_video()], dtype=np.object_))
        wanted = tritonclient.grpc.InferRequestedOutput("REPORT", class_count=2)
        with (
            tritonclient.grpc.InferenceServerClient(serving.ready["grpc"]) as client,
            pytest.raises(tritonclient.utils.InferenceServerException),
        ):
            client.infer("motion", [tensor], outputs=[wanted])
        serving.wait_for("lost")
        serving.wait_for("ready")
        assert classifier.classify(canary_video()).labels


def test_a_stopped_tritonserver_is_found(serve: Callable[..., Serving]) -> None:
    serving = serve()
    os.kill(serving.processes("bin/tritonserver")[0], signal.SIGSTOP)
    serving.wait_for("lost")
    serving.wait_for("ready")


def test_a_repository_may_have_any_name(repository: Path, tmp_path: Path, serve: Callable[..., Serving]) -> None:
    """Triton hands paths to a shell, unquoted."""
    odd = tmp_path / "two words; $HOME ü"
    odd.symlink_to(repository)
    with serve(odd).classifier() as classifier:
        assert classifier.classify(canary_video()).labels


def test_a_command_that_does_not_exist_is_said_before_anything_starts(repository: Path) -> None:
    done = subprocess.run(
        [TUBELET, "serve", "--repository", repository, *PORTS, "--", "no-such-command"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "missing: cannot run 'no-such-command'" in done.stderr


def test_every_backend_has_worked_before_the_first_request(serve: Callable[..., Serving]) -> None:
    """Warm-up: one video in each of the two sample processes, and the canary through all steps."""
    with urlopen(serve().ready["metrics"]) as answer:
        lines = answer.read().decode().splitlines()
    counts = {name: float(line.rsplit(" ", 1)[1]) for line in lines for name in [line.split("{")[0]] if "{" in line}
    assert counts["tubelet_videos_total"] >= 3
    assert counts["tubelet_encoder_runs_total"] >= 2


def test_a_hanging_backend_is_found_by_the_canary(
    serve: Callable[..., Serving], make_repository: Callable[..., Path]
) -> None:
    serving = serve(make_repository(decode_timeout_s=1.0))
    os.kill(serving.processes("/motion_units/")[0], signal.SIGSTOP)
    assert "canary" in serving.wait_for("lost")["reason"]
    serving.wait_for("ready")
    with serving.classifier() as classifier:
        assert classifier.classify(canary_video()).labels


def test_a_stop_under_load_is_clean_and_leaves_nobody_waiting(serve: Callable[..., Serving]) -> None:
    serving = serve()
    with serving.classifier() as classifier:
        with load(classifier) as answers:  # joins its callers: none may hang
            wait_until(lambda: len(answers) > 10)
            assert serving.stop() == 0
        failures = [answer for answer in answers if not isinstance(answer, Classification)]
        assert failures
        assert {(type(failure), failure.code) for failure in failures} == {(UnavailableError, "backend_lost")}
    assert serving.regions() == []
    assert [event["event"] for event in serving.events] == ["ready", "stopping", "stopped"]


def test_a_signal_while_starting_ends_cleanly(repository: Path) -> None:
    arguments = [str(TUBELET), "serve", "--repository", str(repository), *PORTS]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        region = f"tubelet_{process.pid}_*"
        try:
            wait_until(lambda: any(Path("/dev/shm").glob(region)))
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
    assert process.returncode == 0
    assert list(Path("/dev/shm").glob(region)) == []


def test_a_server_that_crashes_while_it_starts_is_started_again(repository: Path) -> None:
    arguments = [str(TUBELET), "serve", "--json", "--repository", str(repository), *PORTS]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: any(Path("/dev/shm").glob(f"tubelet_{process.pid}_*")))
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
                if int(stat.rsplit(")", 1)[1].split()[1]) == process.pid and b"bin/tritonserver" in command:
                    os.kill(int(folder.name), signal.SIGABRT)
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline())["event"] for _ in range(2)]
        process.terminate()
        process.stdout.read()
    assert events == ["lost", "ready"]
    assert process.returncode == 0


def test_a_killed_supervisor_takes_the_server_with_it(serve: Callable[..., Serving]) -> None:
    serving = serve()
    pids = serving.processes("triton")
    serving.process.kill()
    serving.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))
    following = serve()  # clears what the killed one left in shared memory
    assert serving.regions() == []
    assert following.stop() == 0


def test_the_server_runs_while_a_command_runs(repository: Path) -> None:
    program = "import os, sys; print(os.environ['TUBELET_URL']); sys.exit(7)"
    done = subprocess.run(
        [TUBELET, "serve", "--repository", repository, *PORTS, "--", sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 7
    assert done.stdout.startswith("127.0.0.1:")


def test_the_wheels_triton_stays_on_this_machine(repository: Path) -> None:
    done = subprocess.run(
        [TUBELET, "serve", "--repository", repository, *PORTS, "--address", "0.0.0.0"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "must not listen on 0.0.0.0" in done.stderr


def test_the_containers_health_check(serve: Callable[..., Serving]) -> None:
    serving = serve()
    port = serving.ready["http"].rsplit(":", 1)[1]
    check = [sys.executable, "-m", "tubelet.server.health", "--repository", serving.repository, "--http-port", port]
    assert subprocess.run(check).returncode == 0
    assert serving.stop() == 0
    assert subprocess.run(check).returncode == 1


def test_serving_has_no_torch_in_any_process(serve: Callable[..., Serving]) -> None:
    serving = serve()
    for pid in (serving.process.pid, *serving.processes("triton")):
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()


def test_readers_that_go_away_do_not_stop_the_server(repository: Path) -> None:
    """As in `tubelet serve | head -1`."""
    with subprocess.Popen(
        [TUBELET, "serve", "--json", "--repository", repository, *PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = json.loads(process.stdout.readline())
        process.stdout.close()
        process.stderr.close()
        with VideoClassifier(ready["grpc"]) as classifier:
            with pytest.raises(TubeletError):
                classifier.classify(b"not a video")
            assert classifier.classify(canary_video()).labels
        process.terminate()
    assert process.returncode == 0


def test_a_port_in_use_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [TUBELET, "serve", "--repository", repository, f"--http-port={port}"], capture_output=True, text=True
        )
    assert done.returncode == 1
    assert f"port_in_use: cannot listen on 127.0.0.1:{port}" in done.stderr


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([TUBELET, "serve", "--repository", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "contract_mismatch" in done.stderr


def test_a_repository_with_another_graph_does_not_start(make_repository: Callable[..., Path]) -> None:
    import onnx

    repository = make_repository()
    graph = repository / "motion_temporal" / "1" / "temporal.onnx"
    model = onnx.load(graph)
    for entry in model.metadata_props:
        if entry.key == "contract_digest":
            entry.value = "sha256:of another"
    graph.unlink()  # it may be a link into the bundle
    onnx.save(model, graph)
    done = subprocess.run([TUBELET, "serve", "--repository", repository, *PORTS], capture_output=True, text=True)
    assert done.returncode == 1
    assert "contract_mismatch: temporal.onnx was exported for sha256:of another" in done.stderr
