"""The manifest: what it promises survives a round trip, and what does not fit is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import contracts, finite, networks, sizes
from tiny import NETWORK

from tubelet.spec.errors import ContractError, RecipeError
from tubelet.spec.manifest import (
    MANIFEST_FILE,
    Budget,
    Build,
    Calibration,
    Checkpoint,
    Contract,
    Geometry,
    Head,
    Manifest,
    Measurement,
    Verification,
)
from tubelet.spec.network import I3dNetwork, Network, VidtrNetwork, VivitNetwork, VtnNetwork
from tubelet.spec.pipeline import Crop, FullVideo, Normalisation, Resize, Sampler
from tubelet.spec.strict import decode, digest, encode

measurements = st.builds(
    Measurement,
    stage=st.text(), against=st.text(), num_views=sizes, max_abs_logit=st.none() | finite, cosine=st.none() | finite,
    top1_agreement=finite,
)  # fmt: skip
verifications = st.builds(
    Verification,
    engine=st.sampled_from(["openvino", "onnxruntime"]),
    precision=st.sampled_from(["fp32", "bf16", "int8"]),
    version=st.text(), processor=st.text(), graphs_sha256=st.text(), num_clips=sizes, passed=st.booleans(),
    budget=st.builds(Budget, max_abs_logit=st.none() | finite, min_cosine=finite, min_top1_agreement=finite),
    units_equal=st.booleans(),
    measured=st.lists(measurements, max_size=2).map(tuple),
)  # fmt: skip
builds = st.builds(
    Build,
    checkpoint=st.builds(
        Checkpoint,
        format=st.sampled_from(["scenic", "huggingface", "slowfast", "gluonmm", "gluoncv", "tubelet"]),
        file=st.text(), sha256=st.text(), source=st.text(), licence=st.text(),
    ),
    num_parameters=sizes,
    opset=sizes,
    largest_batch=sizes,
    tools=st.dictionaries(st.text(), st.text(), max_size=3),
    int8=st.none() | st.builds(Calibration, tool=st.text(), num_clips=sizes, num_units=sizes),
    verified=st.lists(verifications, max_size=2).map(tuple),
)  # fmt: skip

VTN = VtnNetwork(
    family="vtn", variant="vit", backbone_heads=12, temporal_heads=12, attention_window=(18, 18, 18),
    positions="learned", max_positions=None,
)  # fmt: skip
VIDTR = VidtrNetwork(
    family="vidtr", variant="compact", num_heads=12, activation="relu", pool_layers=(1, 3), dropped_frames=(2, 2)
)


def manifest_of(contract: Contract, build: Build) -> Manifest:
    return Manifest(contract=contract, contract_digest=contract.digest, build=build)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    contract = Contract(
        schema_version=1,
        name="motion",
        network=NETWORK,
        geometry=Geometry(unit_frames=2, feature_dim=8, positions=False, attention=False, any_length=True),
        sampler=Sampler(kind="scenic", num_frames=32, stride=2, target_fps=None, short_video="wrap"),
        full_video=FullVideo(num_frames=250, span_s=10.0),
        resize=Resize(
            kind="scenic", short_side_px=256, short_side_three_crops_px=240, kernel="bilinear", antialias=False,
            on="uint8_truncated",
        ),
        crop=Crop(kind="scenic", size_px=224),
        normalisation=Normalisation(scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0)),
        protocols=("1x1", "4x3", "full"),
        default_protocol="4x3",
        aggregation="mean_logits",
        heads=(
            Head(name="noun", num_classes=300, activation="softmax", labels_sha256="a"),
            Head(name="verb", num_classes=97, activation="softmax", labels_sha256="b"),
        ),
        product="action",
    )  # fmt: skip
    build = Build(
        checkpoint=Checkpoint(format="scenic", file="checkpoint", sha256="c", source="s", licence="Apache-2.0"),
        num_parameters=1,
        opset=20,
        largest_batch=8,
        tools={"torch": "2"},
        int8=None,
        verified=(),
    )
    return manifest_of(contract, build)


@settings(deadline=None)
@given(contracts(), builds)
def test_round_trip_through_the_file_is_exact(
    tmp_path_factory: pytest.TempPathFactory, contract: Contract, build: Build
) -> None:
    folder = tmp_path_factory.mktemp("bundle", numbered=True)
    manifest = manifest_of(contract, build)
    manifest.save(folder)
    again = Manifest.load(folder)
    assert again == manifest
    assert again.contract.digest == contract.digest


@settings(deadline=None)
@given(contracts(), st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_the_order_of_keys(contract: Contract, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    data = shuffled(encode(contract))
    assert decode(Contract, data, where="contract").digest == contract.digest


@settings(deadline=None)
@given(contracts(), builds, builds)
def test_digest_depends_on_the_contract_alone(contract: Contract, one: Build, other: Build) -> None:
    assert manifest_of(contract, one).contract_digest == manifest_of(contract, other).contract_digest


@pytest.mark.parametrize(
    "place", ["", "contract", "contract.network", "contract.resize", "contract.heads.0", "build", "build.checkpoint"]
)
def test_unknown_and_missing_keys_are_refused_at_every_depth(manifest: Manifest, place: str) -> None:
    def at(data: Any) -> Any:
        for key in filter(None, place.split(".")):
            data = data[int(key) if key.isdigit() else key]
        return data

    extra, short = encode(manifest), encode(manifest)
    at(extra)["surprise"] = 1
    with pytest.raises(RecipeError, match="unknown keys surprise"):
        decode(Manifest, extra, where="manifest")
    at(short).popitem()
    with pytest.raises(RecipeError, match="lacks"):
        decode(Manifest, short, where="manifest")


def flattened(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [leaf for key, value in items for leaf in flattened(value, (*path, key))] or [path]


def test_every_number_of_a_contract_changes_its_digest(manifest: Manifest) -> None:
    """No value of the contract is left out of the digest."""
    original = encode(manifest.contract)
    digests = {digest(original)}
    paths = flattened(original)
    for path in paths:
        data = json.loads(json.dumps(original))
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = "other"
        digests.add(digest(data))
    assert len(digests) == len(paths) + 1
    assert len(paths) > 30


def test_a_manifest_with_a_wrong_digest_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    manifest.save(tmp_path)
    file = tmp_path / MANIFEST_FILE
    file.write_text(file.read_text().replace('"stride": 2', '"stride": 3'))
    with pytest.raises(ContractError, match="manifest of motion says sha256:") as caught:
        Manifest.load(tmp_path)
    assert caught.value.code == "contract_mismatch"


def test_folders_without_a_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="is no bundle"):
        Manifest.load(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text("{")
    with pytest.raises(ContractError, match="is not JSON"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a-b"}, "a model's name"),
        ({"heads": ()}, "at least one head"),
        ({"protocols": ("1x1", "2x2")}, "a protocol is"),
        ({"default_protocol": "tsn"}, "is not among"),
        ({"full_video": None}, "full_video is given when"),
        ({"protocols": ("1x1", "4x3")}, "full_video is given when"),
        ({"sampler": Sampler(kind="scenic", num_frames=33, stride=2, target_fps=None, short_video="wrap")}, "multiple"),
        ({"crop": Crop(kind="scenic", size_px=241)}, "exceeds"),
        ({"heads": (Head(name="a", num_classes=1, activation="softmax", labels_sha256=""),)}, "two or more heads"),
        (
            {"heads": (Head(name="a", num_classes=1, activation="sigmoid", labels_sha256=""),) * 2},
            "product needs two or more heads, all of them softmax",
        ),
        (
            {"geometry": Geometry(unit_frames=2, feature_dim=8, positions=True, attention=True, any_length=False)},
            "has no protocol 'full'",
        ),
        (
            {
                "geometry": Geometry(
                    unit_frames=2, feature_dim=None, positions=False, attention=False, any_length=False
                ),
                "full_video": None,
                "protocols": ("4x3",),
            },
            "the unit of a joint model is its whole clip",
        ),
    ],
)
def test_contracts_that_contradict_themselves_are_refused(
    manifest: Manifest, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(manifest.contract, **change)


@pytest.mark.parametrize(
    ("network", "change", "message"),
    [
        (NETWORK, {"num_heads": 0}, "num_heads must be positive"),
        (NETWORK, {"sampled_frames": 16}, "sampled_frames: a factorised encoder is served by units"),
        (NETWORK, {"variant": "spatio_temporal", "sampled_frames": 0}, "sampled_frames must be positive"),
        (NETWORK, {"attention_order": "time_space"}, "attention_order belongs to factorised_self_attention"),
        (NETWORK, {"variant": "factorised_self_attention", "classifier": "gap"}, "attention_order belongs to"),
        (NETWORK, {"variant": "factorised_dot_product"}, "has no class token: classifier must be gap, gmp or gsp"),
        (
            NETWORK,
            {"variant": "factorised_self_attention", "attention_order": "space_time"},
            "has no class token: classifier must be gap, gmp or gsp",
        ),
        (VTN, {"temporal_heads": 0}, "temporal_heads must be positive"),
        (VTN, {"backbone_heads": None}, "backbone_heads is none for resnet, and a number for all others"),
        (VTN, {"variant": "resnet"}, "backbone_heads is none for resnet"),
        (VTN, {"attention_window": ()}, "an even number up to 1024 for each layer"),
        (VTN, {"attention_window": (18, 17)}, "an even number up to 1024 for each layer"),
        (VTN, {"attention_window": (0,)}, "an even number up to 1024 for each layer"),
        (VTN, {"positions": "sinusoidal"}, "max_positions is a number for sinusoidal positions"),
        (VTN, {"max_positions": 288}, "max_positions is a number for sinusoidal positions"),
        (VTN, {"positions": "sinusoidal", "max_positions": 2}, "max_positions must be at least 3"),
        (VIDTR, {"num_heads": -1}, "num_heads must be positive"),
        (VIDTR, {"variant": "separable"}, "pool_layers belong to compact"),
        (VIDTR, {"pool_layers": (), "dropped_frames": ()}, "pool_layers belong to compact"),
        (VIDTR, {"pool_layers": (3, 1)}, "pool_layers must rise"),
        (VIDTR, {"pool_layers": (1, 1)}, "pool_layers must rise"),
        (VIDTR, {"pool_layers": (-1, 1)}, "pool_layers must rise"),
        (VIDTR, {"dropped_frames": (2,)}, "at least one frame for each of pool_layers"),
        (VIDTR, {"dropped_frames": (2, 0)}, "at least one frame for each of pool_layers"),
    ],
)
def test_networks_that_contradict_themselves_are_refused(
    network: VivitNetwork | VtnNetwork | VidtrNetwork, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(network, **change)


@given(networks)
def test_the_family_tells_which_network_it_is(network: Network) -> None:
    @dataclasses.dataclass(frozen=True)
    class Holder:
        network: Network

    data = json.loads(json.dumps(encode(Holder(network))))
    assert decode(Holder, data, where="holder") == Holder(network)
    assert type(decode(Holder, data, where="holder").network) is type(network)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "scenic"},
        {"kind": "gluonmm", "short_video": "wrap"},
        {"kind": "pyslowfast", "target_fps": None},
        {"kind": "gluonmm", "target_fps": 0.0},
    ],
)
def test_samplers_that_contradict_themselves_are_refused(change: dict[str, Any]) -> None:
    sampler = Sampler(kind="gluonmm", num_frames=8, stride=8, target_fps=25.0, short_video="repeat_last")
    with pytest.raises(ValueError, match=r"short_video is|needs target_fps|must be positive"):
        dataclasses.replace(sampler, **change)


@pytest.mark.parametrize("change", [{"kind": "gluonmm"}, {"on": "uint8_rounded"}, {"antialias": True}])
def test_resizes_that_no_pipeline_has_are_refused(manifest: Manifest, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"on is uint8_truncated|antialias must be false"):
        dataclasses.replace(manifest.contract.resize, **change)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("sampler", "num_frames"),
        ("sampler", "stride"),
        ("sampler", "target_fps"),
        ("full_video", "num_frames"),
        ("full_video", "span_s"),
        ("resize", "short_side_px"),
        ("resize", "short_side_three_crops_px"),
        ("crop", "size_px"),
        ("geometry", "unit_frames"),
        ("geometry", "feature_dim"),
    ],
)
@pytest.mark.parametrize(("value", "bound"), [(0, "positive"), (10**7, "at most")])
def test_sizes_are_positive_and_have_an_end(manifest: Manifest, part: str, name: str, value: int, bound: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be {bound}"):
        dataclasses.replace(getattr(manifest.contract, part), **{name: value})


def test_a_batch_has_an_end(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="largest_batch must be at most 1024"):
        dataclasses.replace(manifest.build, largest_batch=1025)


def test_normalisation_must_not_divide_by_zero() -> None:
    with pytest.raises(ValueError, match="positive"):
        Normalisation(scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 0.0, 1.0))


def test_a_joint_model_has_no_temporal_stage() -> None:
    with pytest.raises(ValueError, match="no temporal stage"):
        Geometry(unit_frames=8, feature_dim=None, positions=False, attention=False, any_length=True)


def test_derived_sizes(manifest: Manifest) -> None:
    contract = manifest.contract
    assert contract.num_classes == 397
    assert contract.num_products == 29100
    assert contract.units_per_clip == 16
    assert contract.most_units_per_clip == 125
    assert contract.unit_shape == (2, 224, 224, 3)
    assert not contract.is_joint
    assert (contract.resize.short_side(1), contract.resize.short_side(3)) == (256, 240)


def test_a_joint_model_has_one_unit_for_each_clip(manifest: Manifest) -> None:
    joint = dataclasses.replace(
        manifest.contract,
        network=I3dNetwork(family="i3d", variant="slow_resnet"),
        geometry=Geometry(unit_frames=32, feature_dim=None, positions=False, attention=False, any_length=False),
        full_video=None,
        protocols=("4x3",),
    )
    assert joint.is_joint
    assert joint.units_per_clip == 1
