"""Which loader reads which file, and what is no file."""

from pathlib import Path

import pytest

from tubelet.checkpoints.load import load_model, sha256_file
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import I3dNetwork


def test_a_format_that_has_no_such_network_is_named() -> None:
    network = I3dNetwork(family="i3d", variant="slow_resnet")
    with pytest.raises(RecipeError, match="no loader for scenic i3d; there are: scenic vivit") as caught:
        load_model(Path("nothing"), format="scenic", network=network, num_frames=8, crop_px=224)
    assert caught.value.code == "bad_recipe"


@pytest.mark.parametrize("path", ["/dev/zero", "/proc", "nothing", "no\0thing"])
def test_what_is_no_file_is_not_read(path: str) -> None:
    with pytest.raises(RecipeError, match=r"must be a file|cannot read") as caught:
        sha256_file(Path(path))
    assert caught.value.code == "bad_checkpoint"
