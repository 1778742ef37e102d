"""The manifests of `server/kubernetes`: rendered, held against Kubernetes' own schemas, and against our own numbers."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from manifests import OVERLAYS, ROOT, SOURCES, TARGETS, Object, named, option, pod, quantity, render, server
from tubelet.server.options import GPU_START_TIMEOUT_S, START_TIMEOUT_S
from tubelet.server.shm import MIN_FREE_BYTES
from tubelet.server.supervisor import MAX_PAUSE_S, PROCESSES_PER_MODEL, STOP_GRACE_S
from tubelet.server.triton import MAX_CONNECTION_AGE_S
from tubelet.spec.limits import Limits
from tubelet.spec.repository import ENGINE_FOLDER, RepositoryIndex

OLDEST, NEWEST = "1.30", "1.37"
"""Versions of Kubernetes whose schemas the objects are held against."""


@pytest.fixture(scope="session", params=[(target, source) for target in TARGETS for source in SOURCES], ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, list[Object]]:
    """A target, where its models come from, and its objects; edited as the overlay says that it may be."""
    target, source = request.param
    folder = tmp_path_factory.mktemp("server")
    for name in ("kubernetes", "proxy"):
        shutil.copytree(ROOT / "server" / name, folder / name)
    file = folder / "kubernetes" / "overlays" / target / "kustomization.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.count("\n  - ../../repository/volume ") == 1
    file.write_text(
        text.replace("\n  - ../../repository/volume ", f"\n  - ../../repository/{source} "), encoding="utf-8"
    )
    return target, source, render(file.parent)


@pytest.fixture(scope="session")
def target(case: tuple[str, str, list[Object]]) -> str:
    return case[0]


@pytest.fixture(scope="session")
def source(case: tuple[str, str, list[Object]]) -> str:
    return case[1]


@pytest.fixture(scope="session")
def objects(case: tuple[str, str, list[Object]]) -> list[Object]:
    return case[2]


@pytest.fixture(scope="session")
def containers(objects: list[Object]) -> list[Object]:
    """Every container of a pod, those that run before the others too."""
    spec = pod(objects)
    return [*spec.get("initContainers", []), *spec["containers"]]


def volume(objects: list[Object], name: str) -> Object:
    (found,) = [volume for volume in pod(objects)["volumes"] if volume["name"] == name]
    return found


def drain(objects: list[Object]) -> list[str]:
    command: list[str] = server(objects)["lifecycle"]["preStop"]["exec"]["command"]
    return command


def patience_s(probe: Object) -> float:
    """How long a probe may fail before something happens."""
    return float(probe["periodSeconds"] * probe["failureThreshold"])


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_objects_are_what_kubernetes_takes(objects: list[Object], version: str) -> None:
    for item in objects:
        kubernetes_validate.validate(item, version, strict=True)


def test_everything_stays_in_its_namespace(objects: list[Object]) -> None:
    spaces = {item["metadata"].get("namespace") for item in objects if item["kind"] != "Namespace"}
    assert spaces == {named(objects, "Namespace")["metadata"]["name"]}


def test_pods_are_as_the_restricted_standard_wants_them(objects: list[Object], containers: list[Object]) -> None:
    labels = named(objects, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = pod(objects)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(spec)
    for container in containers:
        context = container["securityContext"]
        assert context == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, container["name"]


def test_containers_have_limits_that_are_their_requests(containers: list[Object]) -> None:
    """Only then the kubelet gives a pod processors of its own: whole ones."""
    for container in containers:
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["limits"]), container["name"]
        assert resources["limits"] == resources["requests"], container["name"]
        assert quantity(resources["limits"]["cpu"]).is_integer(), container["name"]


def test_images_are_named_by_a_version(containers: list[Object]) -> None:
    for container in containers:
        _, _, tag = container["image"].rpartition(":")
        assert re.fullmatch(r"cpu|gpu|\d+\.\d+\.\d+(-alpine)?", tag), container["image"]


def test_the_proxy_is_the_one_of_compose(containers: list[Object]) -> None:
    services = yaml.safe_load((ROOT / "server" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    images = {service["image"] for service in services.values()}
    assert all(container["image"] in images for container in containers if container["name"] == "proxy")


def test_mounts_have_volumes_and_the_models_are_not_written_by_the_server(
    objects: list[Object], containers: list[Object], target: str
) -> None:
    names = {volume["name"] for volume in pod(objects)["volumes"]}
    mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
    assert mounted == names
    mounts = {mount["mountPath"]: mount for mount in server(objects)["volumeMounts"]}
    assert option(server(objects)["args"], "--repository") in mounts
    assert mounts["/models"]["readOnly"] is True
    written = {"/dev/shm", "/tmp"} | ({ENGINE_FOLDER} if target == "gpu" else set())
    assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == written


def test_models_come_from_where_the_overlay_says(objects: list[Object], source: str) -> None:
    models = volume(objects, "models")
    if source == "volume":
        claim = models["persistentVolumeClaim"]
        assert claim["readOnly"] is True
        assert named(objects, "PersistentVolumeClaim", claim["claimName"])
        assert "initContainers" not in pod(objects)
    else:
        (fetcher,) = pod(objects)["initContainers"]
        assert models["emptyDir"]["sizeLimit"]
        assert fetcher["args"][-1] == "/models"
        variables = named(objects, "ConfigMap", fetcher["envFrom"][0]["configMapRef"]["name"])["data"]
        assert re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], fetcher["args"][-2]).startswith("s3://")


def test_shared_memory_holds_what_the_demo_models_need(objects: list[Object]) -> None:
    """And the container's memory holds it, and the temporary files, which are memory as well."""
    index = RepositoryIndex.load(ROOT / "model_repository")
    needed = sum(model.shm_bytes for model in index.models) * PROCESSES_PER_MODEL
    sizes = {}
    for name in ("shm", "tmp"):
        assert volume(objects, name)["emptyDir"]["medium"] == "Memory"
        sizes[name] = quantity(volume(objects, name)["emptyDir"]["sizeLimit"])
    assert sizes["shm"] >= max(needed, MIN_FREE_BYTES)
    assert quantity(server(objects)["resources"]["limits"]["memory"]) >= 2 * sum(sizes.values())


def test_who_listens_where(objects: list[Object], target: str) -> None:
    """The wheel's Triton on this machine only, behind a proxy on the ports that its configuration opens."""
    args = server(objects)["args"]
    faces = [container for container in pod(objects)["containers"] if "ports" in container]
    ports = {port["name"]: port["containerPort"] for container in faces for port in container["ports"]}
    assert set(ports) == {"http", "grpc", "metrics"}
    if target == "cpu":
        assert option(args, "--address") == "127.0.0.1"
        assert [container["name"] for container in faces] == ["proxy"]
        (mount,) = [mount for mount in faces[0]["volumeMounts"] if mount["name"] == "proxy"]
        config = named(objects, "ConfigMap", volume(objects, "proxy")["configMap"]["name"])["data"][mount["subPath"]]
        assert set(map(int, re.findall(r"^\s*listen (\d+)", config, re.MULTILINE))) == set(ports.values())
        upstream = set(re.findall(r"127\.0\.0\.1:(\d+)", config))
        assert upstream == {option(args, f"--{name}-port") for name in ports}
    else:
        assert option(args, "--address") == "0.0.0.0"
        assert {name: option(args, f"--{name}-port") for name in ports} == {k: str(v) for k, v in ports.items()}


def test_services_and_scrapers_find_the_ports(objects: list[Object]) -> None:
    template = named(objects, "Deployment")["spec"]["template"]
    ports = {p["name"]: p["containerPort"] for c in template["spec"]["containers"] for p in c.get("ports", [])}
    services = [item for item in objects if item["kind"] == "Service"]
    assert sorted(service["spec"].get("clusterIP", "one") for service in services) == ["None", "one"]
    for service in services:
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])


def test_selectors_mean_the_pods(objects: list[Object]) -> None:
    labels = named(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        named(objects, "Deployment")["spec"]["selector"],
        named(objects, "PodDisruptionBudget")["spec"]["selector"],
        named(objects, "NetworkPolicy")["spec"]["podSelector"],
        *(spread["labelSelector"] for spread in pod(objects)["topologySpreadConstraints"]),
    ]
    assert all(selector["matchLabels"].items() <= labels.items() for selector in selectors)


def test_only_clients_and_monitoring_come_in_and_nothing_goes_out(objects: list[Object], source: str) -> None:
    policy = named(objects, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    reached = [({port["port"] for port in rule["ports"]}, rule["from"]) for rule in policy["ingress"]]
    assert [ports for ports, _ in reached] == [{"http", "grpc"}, {"metrics"}]
    assert all(peer for _, peers in reached for peer in peers), "an empty peer is everybody"
    out = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert out == (set() if source == "volume" else {53, 443})


def test_probes_wait_longer_than_what_they_ask(objects: list[Object]) -> None:
    for container in pod(objects)["containers"]:
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[kind]["timeoutSeconds"] <= container[kind]["periodSeconds"], (container["name"], kind)
    container = server(objects)
    for kind in ("startupProbe", "readinessProbe"):
        probe = container[kind]
        # Two seconds for Triton's own word, and some for a Python that starts on busy processors.
        assert probe["timeoutSeconds"] >= float(option(probe["exec"]["command"], "--timeout-s")) + 2 + 5


def test_probes_are_the_same_everywhere(objects: list[Object]) -> None:
    """So that those which are run against a live server (tests/integration/test_probes.py) stand for all."""
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        one, other = (dict(server(each)[kind], failureThreshold=0) for each in (objects, render(OVERLAYS / "cpu")))
        assert one == other


def test_probes_leave_the_supervisor_its_time(objects: list[Object], target: str) -> None:
    container, deployment = server(objects), named(objects, "Deployment")["spec"]
    start_s = GPU_START_TIMEOUT_S if target == "gpu" else START_TIMEOUT_S
    assert patience_s(container["startupProbe"]) > start_s
    assert patience_s(container["livenessProbe"]) > start_s + MAX_PAUSE_S
    assert deployment["progressDeadlineSeconds"] > patience_s(container["startupProbe"])


def test_a_stop_leaves_time_for_all_that_is_in_flight(objects: list[Object], target: str) -> None:
    pause_s, most_s = (float(option(drain(objects), name)) for name in ("--pause-s", "--most-s"))
    assert most_s >= pause_s + Limits().default_deadline_s
    assert pod(objects)["terminationGracePeriodSeconds"] >= most_s + STOP_GRACE_S + 10
    if target == "cpu":
        (proxy,) = [container for container in pod(objects)["containers"] if container["name"] == "proxy"]
        assert proxy["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", f"{pause_s:g}"]
    else:
        assert pause_s > MAX_CONNECTION_AGE_S * 1.1  # gRPC spreads it by a tenth


def test_the_autoscaler_scales_what_is_there_by_metrics_that_are_there(objects: list[Object]) -> None:
    scaler = named(objects, "HorizontalPodAutoscaler")["spec"]
    aim = scaler["scaleTargetRef"]
    assert named(objects, aim["kind"], aim["name"])["apiVersion"] == aim["apiVersion"]
    assert "replicas" not in named(objects, "Deployment")["spec"]
    assert scaler["minReplicas"] > named(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"]
    rules = adapter_rules()
    assert {metric["pods"]["metric"]["name"] for metric in scaler["metrics"]} == set(rules)
    window_s = scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert window_s > patience_s(server(objects)["startupProbe"])


def adapter_rules() -> dict[str, Any]:
    values = yaml.safe_load((OVERLAYS.parent / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    return {rule["name"]["as"]: rule for rule in values["rules"]["custom"]}


@pytest.mark.parametrize("step", ["encoder", "sample"])
def test_a_rule_of_the_adapter_means_steps_that_exist(step: str) -> None:
    rule = adapter_rules()[f"tubelet_{step}_queue_seconds"]
    patterns = set(re.findall(r'model=~"([^"]+)"', rule["metricsQuery"] + rule["seriesQuery"]))
    (pattern,) = patterns
    folders = [folder.name for folder in Path(ROOT / "model_repository").iterdir() if folder.is_dir()]
    meant = {name for name in folders if re.fullmatch(pattern, name)}
    assert meant == {name for name in folders if name.endswith(f"_{step}")} != set()


@pytest.mark.parametrize("step", ["encoder", "sample"])
def test_a_rule_of_the_adapter_gives_the_longest_average_wait_in_seconds(step: str, tmp_path: Path) -> None:
    """By Prometheus itself: of the models of a pod the most burdened counts, and an idle pod is 0."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not on this machine: apt-get install prometheus")
    query = adapter_rules()[f"tubelet_{step}_queue_seconds"]["metricsQuery"]
    query = query.replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="tubelet"')
    other = "sample" if step == "encoder" else "encoder"
    per_minute = {  # microseconds waited, requests answered
        ("busy", f"a_{step}"): (30_000_000, 10),
        ("busy", f"b_{step}"): (10_000_000, 10),
        ("busy", f"a_{other}"): (900_000_000, 10),
        ("idle", f"a_{step}"): (0, 0),
    }
    series = [
        {"series": f'{name}{{namespace="tubelet",pod="{pod}",model="{model}",version="1"}}', "values": f"5+{growth}x10"}
        for (pod, model), growths in per_minute.items()
        for name, growth in zip(
            ("nv_inference_queue_duration_us", "nv_inference_request_success"), growths, strict=True
        )
    ]
    expected = [{"labels": f'{{pod="{pod}"}}', "value": value} for pod, value in (("busy", 3), ("idle", 0))]
    test = {"expr": query, "eval_time": "8m", "exp_samples": expected}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [test]}]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_gpu_is_asked_for_where_there_is_one(objects: list[Object], target: str) -> None:
    asked = "nvidia.com/gpu" in server(objects)["resources"]["limits"]
    assert asked == ("nodeSelector" in pod(objects)) == ("tolerations" in pod(objects)) == (target == "gpu")
