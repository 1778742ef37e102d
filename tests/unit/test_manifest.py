"""The manifest: what it promises survives a round trip, and what does not fit is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.spec.errors import ContractError, RecipeError
from tubelet.spec.manifest import (
    MANIFEST_FILE,
    Budget,
    Build,
    Checkpoint,
    Contract,
    Crop,
    Geometry,
    Head,
    Manifest,
    Measurement,
    Normalisation,
    Resize,
    Sampler,
)
from tubelet.spec.strict import decode, digest, encode

sizes = st.integers(1, 64)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-6, 1e6)
channels = st.tuples(positive, positive, positive)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    unit_frames, patch_px, crop_patches = draw(sizes), draw(sizes), draw(sizes)
    crop_px = patch_px * crop_patches
    protocols = draw(st.lists(st.sampled_from(["1x1", "4x3", "10x3", "tsn"]), min_size=1, unique=True))
    geometry = {name: draw(sizes) for name in ("encoder_layers", "encoder_heads", "temporal_layers", "temporal_heads")}
    return Contract(
        schema_version=1,
        name=draw(st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True)),
        family="vivit",
        variant="factorised_encoder",
        geometry=Geometry(unit_frames=unit_frames, patch_px=patch_px, feature_dim=draw(sizes), **geometry),
        sampler=Sampler(
            kind="scenic",
            num_frames=unit_frames * draw(sizes),
            stride=draw(sizes),
            target_fps=draw(st.none() | positive),
            short_video="wrap",
        ),
        resize=Resize(
            kind="scenic",
            short_side_px=crop_px + draw(st.integers(0, 64)),
            kernel="bilinear",
            antialias=draw(st.booleans()),
            on="uint8_truncated",
        ),
        crop=Crop(kind="scenic", size_px=crop_px),
        normalisation=Normalisation(scale=draw(positive), mean=draw(channels), std=draw(channels)),
        protocols=tuple(protocols),
        default_protocol=draw(st.sampled_from(protocols)),
        aggregation="mean_logits",
        heads=tuple(draw(st.lists(heads, min_size=1, max_size=3))),
    )


heads = st.builds(
    Head, name=st.text(), num_classes=sizes, activation=st.sampled_from(["softmax", "sigmoid"]), labels_sha256=st.text()
)
measurements = st.builds(
    Measurement,
    stage=st.text(), against=st.text(), num_views=sizes, max_abs_logit=finite, cosine=finite, top1_agreement=finite,
)  # fmt: skip
builds = st.builds(
    Build,
    checkpoint=st.builds(
        Checkpoint,
        format=st.just("scenic"), file=st.text(), sha256=st.text(), source=st.text(), licence=st.text(),
    ),
    num_parameters=sizes,
    opset=sizes,
    precision=st.just("fp32"),
    tools=st.dictionaries(st.text(), st.text(), max_size=3),
    budget=st.builds(Budget, max_abs_logit=st.none() | finite, min_cosine=finite, min_top1_agreement=finite),
    measured=st.lists(measurements, max_size=2).map(tuple),
)  # fmt: skip


def manifest_of(contract: Contract, build: Build) -> Manifest:
    return Manifest(contract=contract, contract_digest=contract.digest, build=build)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    contract = Contract(
        schema_version=1,
        name="motion",
        family="vivit",
        variant="factorised_encoder",
        geometry=Geometry(
            unit_frames=2, patch_px=16, feature_dim=8, encoder_layers=2, encoder_heads=2, temporal_layers=1,
            temporal_heads=2,
        ),
        sampler=Sampler(kind="scenic", num_frames=32, stride=2, target_fps=None, short_video="wrap"),
        resize=Resize(kind="scenic", short_side_px=256, kernel="bilinear", antialias=False, on="uint8_truncated"),
        crop=Crop(kind="scenic", size_px=224),
        normalisation=Normalisation(scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0)),
        protocols=("1x1", "4x3"),
        default_protocol="4x3",
        aggregation="mean_logits",
        heads=(
            Head(name="noun", num_classes=300, activation="softmax", labels_sha256="a"),
            Head(name="verb", num_classes=97, activation="softmax", labels_sha256="b"),
        ),
    )  # fmt: skip
    build = Build(
        checkpoint=Checkpoint(format="scenic", file="checkpoint", sha256="c", source="s", licence="Apache-2.0"),
        num_parameters=1,
        opset=20,
        precision="fp32",
        tools={"torch": "2"},
        budget=Budget(max_abs_logit=2e-4, min_cosine=0.999999, min_top1_agreement=1.0),
        measured=(),
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


@pytest.mark.parametrize("place", ["", "contract", "contract.resize", "contract.heads.0", "build", "build.checkpoint"])
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
        ({"sampler": Sampler(kind="scenic", num_frames=33, stride=2, target_fps=None, short_video="wrap")}, "multiple"),
        ({"crop": Crop(kind="scenic", size_px=272)}, "exceeds"),
        ({"crop": Crop(kind="scenic", size_px=220)}, "multiple of patch_px"),
    ],
)
def test_contracts_that_contradict_themselves_are_refused(
    manifest: Manifest, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(manifest.contract, **change)


@pytest.mark.parametrize(
    ("part", "name"),
    [("sampler", "stride"), ("resize", "short_side_px"), ("crop", "size_px"), ("geometry", "encoder_heads")],
)
def test_sizes_must_be_positive(manifest: Manifest, part: str, name: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        dataclasses.replace(getattr(manifest.contract, part), **{name: 0})


def test_normalisation_must_not_divide_by_zero() -> None:
    with pytest.raises(ValueError, match="positive"):
        Normalisation(scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 0.0, 1.0))


def test_derived_sizes(manifest: Manifest) -> None:
    contract = manifest.contract
    assert contract.num_classes == 397
    assert contract.units_per_clip == 16
    assert contract.unit_shape == (2, 224, 224, 3)
