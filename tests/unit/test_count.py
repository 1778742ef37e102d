"""Parameters and multiply-adds, against the formulas, the released code's numbers and the papers'."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tubelet.export.count import count_macs, count_parameters, count_run, on_meta
from tubelet.export.figures import FIGURES, Figure
from tubelet.export.papers import FULL_SIZE
from tubelet.models import vivit
from tubelet.models.network import VideoNetwork
from tubelet.models.vidtr import SeparableVidtr, VidtrSizes
from tubelet.models.vivit_sizes import EncoderSizes, FactorisedEncoderSizes, JointSizes, TubeletSizes
from tubelet.models.vtn import Vtn


class Sampler(nn.Module):
    """One of everything that is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 7)
        self.convolution = nn.Conv3d(4, 6, kernel_size=(1, 3, 3), stride=(1, 2, 2), groups=2)
        self.unused = nn.Linear(100, 100)


@pytest.fixture
def sampler() -> Sampler:
    with torch.device("meta"):
        return Sampler()


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def test_a_linear_layer_takes_inputs_times_outputs_for_each_row(sampler: Sampler) -> None:
    macs = count_run(sampler, lambda: sampler.linear(meta(2, 3, 5)))
    assert macs.layers == {"linear.weight": 2 * 3 * 5 * 7}
    assert macs.total == macs.layers_only == 210


def test_a_convolution_takes_its_kernel_for_each_number_that_comes_out(sampler: Sampler) -> None:
    macs = count_run(sampler, lambda: sampler.convolution(meta(2, 4, 3, 9, 9)))
    # 4x4 places of 3 frames of 2 clips, 6 channels of kernels of 9 pixels of half the channels
    assert macs.layers == {"convolution.weight": 2 * 3 * 16 * 6 * 9 * 2}
    assert macs.products == 0


def test_a_part_of_a_weight_counts_for_the_weight(sampler: Sampler) -> None:
    def halves() -> Tensor:
        first, second = sampler.linear.weight.split([3, 4])
        functional.linear(meta(2, 5), first)
        return functional.linear(meta(2, 5), second)

    assert count_run(sampler, halves).layers == {"linear.weight": 2 * 5 * 7}


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_a_product(sampler: Sampler, fused: bool) -> None:
    query, key = meta(2, 4, 10, 8), meta(2, 4, 13, 8)

    def attend() -> Tensor:
        if fused:
            return functional.scaled_dot_product_attention(query, key, key)
        return (query @ key.transpose(2, 3)).softmax(dim=3) @ key

    macs = count_run(sampler, attend)
    assert macs.layers == {}
    assert macs.products == macs.total == 2 * 4 * 10 * 13 * 8 * 2


def test_parameters_are_what_is_trained(sampler: Sampler) -> None:
    sampler.register_buffer("table", meta(1000))
    assert count_parameters(sampler) == 5 * 7 + 7 + 6 * 2 * 9 + 6 + 100 * 100 + 100


def blocks(layers: int, tokens: int, d: int, m: int) -> int:
    """Of full attention."""
    return layers * ((4 * d * d + 2 * d * m) * tokens + 2 * tokens * tokens * d)


def test_model_1_follows_its_formula() -> None:
    d, m, classes = 24, 40, 7
    sizes = JointSizes(
        num_frames=6, crop_px=20, embedding=TubeletSizes(kind="tubelet", frames=2, patch_px=4), width=d,
        encoder=EncoderSizes(num_layers=3, num_heads=4, mlp_width=m), classifier="token", representation_width=None,
        num_classes=classes,
    )  # fmt: skip
    patches = 3 * 25
    expected = patches * 3 * 4 * 4 * 2 * d + blocks(3, patches + 1, d, m) + d * classes
    assert count_macs(on_meta(lambda: vivit.build(sizes))).total == expected


def test_model_2_follows_its_formula() -> None:
    d, m, classes = 24, 40, 7
    spatial, temporal = (EncoderSizes(num_layers=n, num_heads=4, mlp_width=m) for n in (3, 2))
    sizes = FactorisedEncoderSizes(
        num_frames=6, tubelet_frames=2, crop_px=20, patch_px=4, width=d, spatial=spatial, temporal=temporal,
        classifier="token", representation_width=None, num_classes=classes,
    )  # fmt: skip
    stem = 3 * 25 * 3 * 4 * 4 * 2 * d
    expected = stem + 3 * blocks(3, 26, d, m) + blocks(2, 4, d, m) + d * classes
    assert count_macs(on_meta(lambda: vivit.build(sizes))).total == expected


def test_vidtr_follows_its_formula() -> None:
    d, m, classes, times, places = 24, 40, 7, 5, 25
    sizes = VidtrSizes(
        num_frames=times, patch_frames=1, crop_px=20, patch_px=4, width=d, num_layers=3, num_heads=4, mlp_width=m,
        activation="relu", num_classes=classes,
    )  # fmt: skip
    tokens = (times + 1) * (places + 1)
    over_time, over_space = (places + 1) * 2 * (times + 1) ** 2 * d, (times + 1) * 2 * (places + 1) ** 2 * d
    layer = (4 * d * d + 2 * d * m) * tokens + over_time + over_space
    expected = times * places * 3 * 4 * 4 * d + 3 * layer + d * classes
    assert count_macs(on_meta(lambda: SeparableVidtr(sizes))).total == expected


def test_one_frame_through_the_backbone_of_vtn() -> None:
    network = vtn()
    macs = count_run(network, lambda: network.encode(meta(1, 1, 224, 224, 3)))
    assert macs.layers_only / 1e9 == pytest.approx(16.848, rel=1e-4)
    assert macs.total / 1e9 == pytest.approx(17.563, rel=1e-4)


def vtn() -> Vtn:
    network = on_meta(FULL_SIZE["vtn_vit_b_k400"])
    assert isinstance(network, Vtn)
    return network


def test_parameters_of_the_parts_of_vtn() -> None:
    network = vtn()
    assert count_parameters(network.backbone) == 85_798_656
    assert count_parameters(network.temporal.layers[0]) == 8_859_648
    assert count_parameters(network.head) == 899_728


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.title)
def test_our_count_is_that_of_the_released_code(figure: Figure) -> None:
    if figure.code_parameters is not None:
        assert count_parameters(on_meta(FULL_SIZE[figure.network])) == figure.code_parameters
    if figure.code_gmac is not None:
        assert figure.gmac() == pytest.approx(figure.code_gmac, rel=1e-3)
    if figure.code_gmac_everything is not None:
        assert figure.gmac_everything() == pytest.approx(figure.code_gmac_everything, rel=1e-3)


@pytest.mark.parametrize(
    "figure", [figure for figure in FIGURES if figure.paper_parameters_m is not None], ids=lambda figure: figure.title
)
def test_our_parameters_are_those_of_the_paper_as_it_rounds(figure: Figure) -> None:
    assert figure.paper_parameters_m is not None
    ours = count_parameters(on_meta(FULL_SIZE[figure.network])) / 1e6
    # ViViT gives 88.9 for 88.954 and for 88.952: the last digit is cut off there.
    assert abs(ours - figure.paper_parameters_m) < (0.1 if figure.paper_parameters_m % 1 else 1)


TOLERANCES = {"everything": 0.012, "layers": 0.001}
"""Of the papers' figures; VidTr's are not asserted, they do not count what is computed."""


@pytest.mark.parametrize(
    "figure",
    [f for f in FIGURES if f.paper_gmac is not None and f.convention in TOLERANCES and "128 frames" not in f.title],
    ids=lambda figure: figure.title,
)
def test_our_count_is_that_of_the_paper(figure: Figure) -> None:
    tolerance = TOLERANCES[figure.convention]
    if figure.network == "i3d_r50_8x8_k400":
        tolerance = 0.02  # 41 is the difference of two rounded figures
    assert figure.gmac() == pytest.approx(figure.paper_gmac, rel=tolerance)


def test_the_networks_of_the_papers_need_no_memory() -> None:
    def tensors(network: VideoNetwork) -> set[str]:
        return {parameter.device.type for parameter in network.parameters()}

    assert tensors(on_meta(FULL_SIZE["vivit_h_14x2_k400"])) == {"meta"}
