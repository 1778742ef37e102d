"""Pickled checkpoints: what trainers save is read, and what attackers save runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tubelet.checkpoints.pickles import read_pickle, state_dict_of, without_prefix
from tubelet.spec.errors import RecipeError

WEIGHTS = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([1.0, 2.0])}


class Runs:
    """Pickles as a call that makes a folder."""

    def __init__(self, path: Path, call: Callable[[str], object] = os.mkdir) -> None:
        self.path, self.call = path, call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, (str(self.path),)


def save(path: Path, tree: object, *, zipped: bool = True) -> Path:
    torch.save(tree, path, _use_new_zipfile_serialization=zipped)
    return path


def refuse(path: Path, *, match: str) -> None:
    with pytest.raises(RecipeError, match=match) as caught:
        state_dict_of(read_pickle(path))
    assert caught.value.code == "bad_checkpoint"
    assert len(str(caught.value)) < 400


@pytest.fixture
def settings_class(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class that pickles as yacs's does: a dict with attributes of its own."""
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):
        def __init__(self, values: dict[str, Any]) -> None:
            super().__init__(values)
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return CfgNode


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
def test_both_formats_of_torch_are_read(tmp_path: Path, zipped: bool) -> None:
    found = state_dict_of(read_pickle(save(tmp_path / "a.pth", {"model": WEIGHTS, "epoch": 3}, zipped=zipped)), "model")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
def test_settings_and_numbers_beside_the_weights_are_tolerated(
    tmp_path: Path, settings_class: type, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    tree = {
        "model": WEIGHTS,
        "max_accuracy": np.float64(77.7),
        "config": settings_class({"DATA": settings_class({"NUM_CLASSES": 400})}),
        "epoch": np.int64(3),
    }
    path = save(tmp_path / "a.pth", tree, zipped=zipped)
    monkeypatch.delitem(sys.modules, "yacs.config")
    read = read_pickle(path)
    assert read["config"] == {"DATA": {"NUM_CLASSES": 400}}
    assert state_dict_of(read, "model").keys() == WEIGHTS.keys()


def test_names_of_the_other_numpy_are_known(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"model": WEIGHTS, "best": np.float32(1.0)}, zipped=False)
    renamed = path.read_bytes().replace(b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n")
    if renamed == path.read_bytes():
        renamed = path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert renamed != path.read_bytes()
    path.write_bytes(renamed)
    assert state_dict_of(read_pickle(path), "model").keys() == WEIGHTS.keys()


def test_the_file_may_go_once_the_tensors_are_copied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", WEIGHTS)
    found = state_dict_of(read_pickle(path))
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(found["fc.weight"], WEIGHTS["fc.weight"])


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "a.pth", {"model": WEIGHTS, "epoch": Runs(tmp_path / "ran")}, zipped=zipped)
    refuse(path, match=r"names \w+\.mkdir, which no weights need")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cposix\nsystem\n(S'mkdir %s'\ntR.",
        b"cbuiltins\neval\n(V__import__('os').mkdir('%s')\ntR.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncposix\nmkdir\nX\x03\x00\x00\x00%s\x86R.",
        b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93.",
        b"\x80\x02c__builtin__\ngetattr\ncyacs.config\nCfgNode\nX\x08\x00\x00\x00__init__\x86R.",
    ],
)
@pytest.mark.parametrize("packed", [True, False], ids=["archive", "bare"])
def test_programs_by_hand_do_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes, packed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    program = program.replace(b"%s", b"ran")
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", program)
            archive.writestr("a/version", "3\n")
    else:
        path.write_bytes(program)
    refuse(path, match=r"which no weights need|is no checkpoint")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


def test_the_allow_list_is_not_left_behind(tmp_path: Path) -> None:
    before = sorted(map(str, torch.serialization.get_safe_globals()))
    read_pickle(save(tmp_path / "a.pth", WEIGHTS))
    assert sorted(map(str, torch.serialization.get_safe_globals())) == before


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    refuse(save(tmp_path / "a.pth", torch.nn.Linear(2, 2)), match=r"names torch\.nn\.modules\.linear\.Linear")


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04",
        b"PK\x03\x04" + bytes(range(256)) * 8,
        bytes(range(256)) * 8,
        b"\x80\x02.",
        b"\x80\x02}q\x00.",
        b"<html>404 Not Found</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"0" * 512 + b"ustar",
    ],
)
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    refuse(path, match=r"a\.pth is no checkpoint|a\.pth is an archive that is cut off|must hold tensors")


def test_no_file_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, match="must be a file")
    refuse(tmp_path / "nothing.pth", match=r"cannot read nothing\.pth: No such file")
    (tmp_path / "empty.pth").touch()
    refuse(tmp_path / "empty.pth", match=r"empty\.pth is empty")
    os.mkfifo(tmp_path / "pipe.pth")
    refuse(tmp_path / "pipe.pth", match="a pipe or a device")


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, zipped: bool) -> None:
    whole = save(tmp_path / "a.pth", WEIGHTS, zipped=zipped).read_bytes()
    path = tmp_path / "b.pth"
    for length in range(1, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        refuse(path, match=r"is no checkpoint|is an archive that is cut off|names \w")


def test_flipped_bytes_of_the_program_never_let_another_error_through(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.pth", WEIGHTS, zipped=False).read_bytes()
    path = tmp_path / "b.pth"
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            state_dict_of(read_pickle(path))
        except RecipeError as exc:
            assert exc.code == "bad_checkpoint"  # noqa: PT017


def test_an_archive_in_an_archive_is_refused(tmp_path: Path) -> None:
    inner = save(tmp_path / "inner.pth", WEIGHTS)
    path = tmp_path / "outer.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "inner.pth")
    refuse(path, match="is no checkpoint")


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}." + bytes(10_000_000))
    refuse(path, match="compressed archive")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", pickle.dumps((), protocol=2))
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("a/version", "3\n")
    refuse(path, match="is no checkpoint")


def archive_with_claim(path: Path, *, claimed: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Path:
    """An archive as torch writes it, whose pickle claims a storage of another length than its record's 64 bytes."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, shape, stride, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", claimed) if isinstance(value, Storage) else None

    program = io.BytesIO()
    Pickler(program, protocol=2).dump({"fc.weight": Tensor()})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program.getvalue())
        archive.writestr("a/data/0", bytes(64))
        archive.writestr("a/version", "3\n")
    return path


def test_claims_beyond_the_file_are_refused(tmp_path: Path) -> None:
    honest = archive_with_claim(tmp_path / "a.pth", claimed=16, shape=(16,), stride=(1,))
    assert state_dict_of(read_pickle(honest))["fc.weight"].shape == (16,)
    for claimed in (10**5, 10**13, 2**62, -5):
        for shape in ((16,), (abs(claimed),)):
            path = archive_with_claim(tmp_path / "b.pth", claimed=claimed, shape=shape, stride=(1,))
            try:
                found = state_dict_of(read_pickle(path))
            except RecipeError as exc:
                assert exc.code == "bad_checkpoint"  # noqa: PT017
            else:
                assert found["fc.weight"].numel() * 4 <= path.stat().st_size
    path = archive_with_claim(tmp_path / "c.pth", claimed=16, shape=(10**6, 10**6), stride=(0, 0))
    refuse(path, match=r"claim 4000000000000 bytes, but 64 are stored")


def test_a_legacy_file_that_names_more_storages_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"fc.weight": torch.zeros(16)}, zipped=False)
    content = path.read_bytes()
    keys = content.rindex(b"\x80\x02]q\x00X")  # the list of the storages that follow
    grown = content[:keys].replace(b"K\x10N", b"J" + struct.pack("<i", 10**6) + b"N")
    assert grown != content[:keys]
    path.write_bytes(grown + b"\x80\x02]q\x00.")
    refuse(path, match="larger than the file")


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ([1, 2], "got a value of type list"),
        ({}, "got nothing"),
        (None, "got nothing"),
        ({"model": {}}, "at 'model', got nothing"),
        ({"fc.weight": 3}, "got a value of type int at 'fc.weight'"),
        ({3: torch.zeros(2)}, "got a value of type Tensor at '3'"),
        ({"fc.weight": {"deeper": torch.zeros(2)}}, "at 'fc.weight'; tensors are looked for at 'model' first"),
        ({"fc.weight": torch.zeros(2, dtype=torch.complex64)}, "fc.weight must be a dense tensor of real numbers"),
        ({"fc.weight": torch.zeros(2, dtype=torch.float8_e5m2)}, "fc.weight must be a dense tensor of real numbers"),
        ({"fc.weight": torch.eye(2).to_sparse()}, "fc.weight must be a dense tensor of real numbers"),
        ({"fc.weight": torch.zeros(2, device="meta")}, "fc.weight must be a dense tensor of real numbers"),
    ],
)
def test_what_is_no_table_of_tensors_is_named(tree: object, match: str) -> None:
    with pytest.raises(RecipeError, match=match) as caught:
        state_dict_of(tree, "model")
    assert caught.value.code == "bad_checkpoint"


def test_parameters_and_slices_are_copied() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    found = state_dict_of({"a": torch.nn.Parameter(torch.ones(2)), "b": whole[:, 1:3]})
    assert not found["a"].requires_grad
    assert type(found["a"]) is torch.Tensor
    assert found["b"].is_contiguous()
    assert torch.equal(found["b"], whole[:, 1:3])


def test_a_prefix_comes_off_all_names_or_none() -> None:
    one = torch.zeros(1)
    assert without_prefix({"module.a": one, "module.b": one}, "module.").keys() == {"a", "b"}
    assert without_prefix({"module.a": one, "b": one}, "module.").keys() == {"module.a", "b"}
