"""What papers and released code say of the cost of one view, and our count by the same rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from tubelet.export.count import Macs, count_macs, count_run, on_meta
from tubelet.export.papers import FULL_SIZE
from tubelet.models.vidtr import CompactVidtr, JointVidtr, SeparableVidtr
from tubelet.models.vtn import Vtn

__all__ = ["FIGURES", "Convention", "Figure"]

Convention = Literal["everything", "layers", "mlp_and_stem"]
"""What a published figure counts: all multiply-adds; linear and convolution layers without the products of attention;
or less still, the MLPs and the stem on the tokens that are patches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A network at one setting, and what is published of it; GMAC are 1e9 multiply-adds."""

    title: str
    network: str
    """In `FULL_SIZE`; the recipe of that name, unless it has a ``@``."""
    num_frames: int | None = None
    """T of the view; None: as built."""
    temporal_tokens: int | None = None
    """Of the temporal encoder where padding is counted, with class token and padding; None: without padding."""
    num_views: int = 1
    """Views that the figures are for."""
    code_parameters: int | None = None
    """Of the network of the released code."""
    paper_parameters_m: float | None = None
    """In millions, as rounded in the paper."""
    convention: Convention = "everything"
    """Of the two that follow."""
    paper_gmac: float | None = None
    code_gmac: float | None = None
    """Of the network of the released code."""
    code_gmac_everything: float | None = None
    """The same with all multiply-adds and no padding."""
    note: str = ""

    def gmac(self) -> float:
        """Our count by the rules of the figures."""
        network = on_meta(FULL_SIZE[self.network])
        if isinstance(network, Vtn) and self.temporal_tokens is not None:
            return _vtn_layers(network, self.num_frames or network.num_frames, self.temporal_tokens) * self._scale
        macs = count_macs(network, num_frames=self.num_frames)
        if self.convention == "mlp_and_stem" and isinstance(network, SeparableVidtr | CompactVidtr | JointVidtr):
            return _mlp_and_stem(network, macs) * self._scale
        return (macs.layers_only if self.convention == "layers" else macs.total) * self._scale

    def gmac_everything(self) -> float:
        """Our count of all multiply-adds that are done."""
        return count_macs(on_meta(FULL_SIZE[self.network]), num_frames=self.num_frames).total * self._scale

    @property
    def _scale(self) -> float:
        return self.num_views / 1e9


def _vtn_layers(network: Vtn, num_frames: int, temporal_tokens: int) -> int:
    """Linear and convolution layers of VTN as its paper counts them.

    Padding passes the temporal encoder like frames, and the last layer is computed for all tokens, although only the
    class token's is looked at.
    """
    frames = torch.empty(num_frames, 1, network.crop_px, network.crop_px, 3, device="meta")
    features = torch.empty(1, temporal_tokens - 1, network.feature_dim, device="meta")
    positions = torch.empty(1, temporal_tokens - 1, dtype=torch.int64, device="meta")
    backbone = count_run(network, lambda: network.encode(frames))
    rest = count_run(network, lambda: network.head(network.states(features, positions).hidden[:, -1, 0]))
    return backbone.layers_only + rest.layers_only


def _mlp_and_stem(network: SeparableVidtr | CompactVidtr | JointVidtr, macs: Macs) -> float:
    """The MLPs and the stem of VidTr on tokens that are patches."""
    sizes = network.sizes
    mlp: float = sum(count for name, count in macs.layers.items() if ".mlp." in name)
    if isinstance(network, SeparableVidtr):
        mlp *= sizes.num_times * sizes.num_places / ((sizes.num_times + 1) * (sizes.num_places + 1))
    else:
        mlp -= 2 * sizes.width * sizes.mlp_width * sizes.num_layers
    return mlp + macs.layers["embedding.weight"]


_LESS = "the paper counts less than is computed: its counter did not see its attention modules"

FIGURES = (
    Figure(
        title="ViViT-B/16x2, Model 1",
        network="vivit_b_16x2_k400",
        code_parameters=88_954_000, paper_parameters_m=88.9, code_gmac=451.5, paper_gmac=455.2,
    ),
    Figure(title="ViViT-B/16x4, Model 1", network="vivit_b_16x4_k400@", code_gmac=182.3),
    Figure(title="ViViT-B/16x8, Model 1", network="vivit_b_16x8_k400@", code_gmac=81.7),
    Figure(
        title="ViViT-B/16x2, Model 2, 4 temporal layers",
        network="vivit_b_16x2_fe_k400@4_layers",
        code_parameters=115_062_928, paper_parameters_m=115.1, code_gmac=283.3, paper_gmac=284.4,
    ),
    Figure(
        title="ViViT-B/16x2, Model 2, 12 temporal layers",
        network="vivit_b_16x2_fe_k400",
        code_parameters=171_765_904, code_gmac=284.3,
        note="what the released file is reported to hold",
    ),
    Figure(
        title="ViViT-B/16x2, Model 2, average pool",
        network="vivit_b_16x2_average_pool_k400",
        code_parameters=86_696_080, paper_parameters_m=86.7, code_gmac=282.9, paper_gmac=283.9,
    ),
    Figure(
        title="ViViT-B/16x2, Model 3",
        network="vivit_b_16x2_factorised_self_attention_k400",
        code_parameters=117_319_312, paper_parameters_m=117.3, code_gmac=371.1, paper_gmac=372.3,
    ),
    Figure(
        title="ViViT-B/16x2, Model 4",
        network="vivit_b_16x2_factorised_dot_product_k400",
        code_parameters=88_952_464, paper_parameters_m=88.9, code_gmac=276.2, paper_gmac=277.1,
    ),
    Figure(
        title="ViViT-L/16x2, Model 1, 224 px",
        network="vivit_l_16x2_k400",
        code_parameters=307_508_624, code_gmac=1436.0, paper_gmac=1446,
    ),
    Figure(
        title="ViViT-L/16x2, Model 1, 288 px",
        network="vivit_l_16x2_k400@288_px",
        code_parameters=309_605_776, code_gmac=2895.4, paper_gmac=2919,
    ),
    Figure(
        title="ViViT-L/16x2, Model 1, 320 px",
        network="vivit_l_16x2_k400@320_px",
        code_parameters=310_850_960, code_gmac=3957.0, paper_gmac=3992,
    ),
    Figure(
        title="ViViT-L/16x2 FE, 4 temporal layers",
        network="vivit_l_16x2_fe_k400@4_layers",
        code_parameters=354_903_440, code_gmac=988.2,
    ),
    Figure(
        title="ViViT-L/16x2 FE, 24 temporal layers",
        network="vivit_l_16x2_fe_k400",
        code_parameters=606_827_920, code_gmac=992.5,
    ),
    Figure(
        title="ViViT-L/16x2 FE, 128 frames, 4 temporal layers",
        network="vivit_l_16x2_fe_k400@128_frames",
        code_gmac=3952.6, paper_gmac=3890,
        note="3.89 TFLOPs of table 6, for a number of frames that is inferred",
    ),
    Figure(
        title="ViViT-L/16x2 FE, Kinetics-600",
        network="vivit_l_16x2_fe_k600",
        code_parameters=607_032_920,
    ),
    Figure(
        title="ViViT-L/16x2 FE, Epic-Kitchens, 4 temporal layers",
        network="vivit_l_16x2_fe_ek100",
        code_parameters=354_900_365,
    ),
    Figure(
        title="ViViT-L/16x2 FE, Epic-Kitchens, 24 temporal layers",
        network="vivit_l_16x2_fe_ek100@24_layers",
        code_parameters=606_824_845,
    ),
    Figure(
        title="ViViT-L/16x2 FE, Something-Something v2, 256 px",
        network="vivit_l_16x2_fe_ssv2",
        code_parameters=354_733_230, code_gmac=1301.0,
    ),
    Figure(
        title="ViViT-H/14x2, Model 1",
        network="vivit_h_14x2_k400",
        code_parameters=636_945_040, code_gmac=3958.8, paper_gmac=3981,
        note="47.77 TFLOPs of table 6, divided by 12 views",
    ),
    Figure(
        title="ViViT-H/14x2 FE, 4 temporal layers", network="vivit_h_14x2_fe_k400", code_parameters=710_765_200
    ),
    Figure(
        title="ViT-B-VTN, 3 layers, 250 frames",
        network="vtn_vit_b_k400",
        num_frames=250, temporal_tokens=252,
        code_parameters=113_502_352, paper_parameters_m=114, convention="layers",
        paper_gmac=4218, code_gmac=4218.2, code_gmac_everything=4397.0,
    ),
    Figure(
        title="ViT-B-VTN, 1 layer, 250 frames",
        network="vtn_vit_b_1_layer_k400",
        num_frames=250, temporal_tokens=252,
        code_parameters=95_783_056, paper_parameters_m=96, convention="layers",
        paper_gmac=4214, code_gmac=4214.0,
    ),
    Figure(
        title="ViT-B-VTN, 3 layers, 30 views of 16 frames",
        network="vtn_vit_b_k400",
        num_frames=16, temporal_tokens=36, num_views=30, convention="layers",
        paper_gmac=8113, code_gmac=8113.7,
    ),
    Figure(
        title="ViT-B-VTN, 1 layer, 30 views of 16 frames",
        network="vtn_vit_b_1_layer_k400",
        num_frames=16, temporal_tokens=36, num_views=30, convention="layers",
        paper_gmac=8095, code_gmac=8095.9,
    ),
    Figure(
        title="DeiT-Ti-VTN, 3 layers, 250 frames",
        network="vtn_deit_ti_k400",
        num_frames=250, temporal_tokens=252, paper_parameters_m=10, convention="layers",
    ),
    Figure(
        title="R50-VTN, 3 layers, 250 frames",
        network="vtn_r50_k400",
        num_frames=250, temporal_tokens=252, paper_parameters_m=168, convention="layers",
    ),
    Figure(
        title="R101-VTN, 3 layers, 250 frames",
        network="vtn_r101_k400",
        num_frames=250, temporal_tokens=252, paper_parameters_m=187, convention="layers",
    ),
    Figure(
        title="VidTr-S (8x8)",
        network="vidtr_s_k400",
        code_parameters=87_473_296, convention="mlp_and_stem",
        paper_gmac=89, code_gmac=89.7, code_gmac_everything=158.25, note=_LESS,
    ),
    Figure(
        title="VidTr-M (16x4)",
        network="vidtr_m_k400",
        code_parameters=88_689_808, convention="mlp_and_stem",
        paper_gmac=179, code_gmac=179.4, code_gmac_everything=299.51, note=_LESS,
    ),
    Figure(
        title="VidTr-L (32x2)",
        network="vidtr_l_k400",
        code_parameters=91_122_832, convention="mlp_and_stem",
        paper_gmac=351, code_gmac=358.8, code_gmac_everything=583.42, note=_LESS,
    ),
    Figure(
        title="Vanilla transformer (8x8)",
        network="vidtr_vanilla_k400",
        convention="mlp_and_stem",
        paper_gmac=89, code_gmac_everything=179.6, note=_LESS,
    ),
    Figure(
        title="C-VidTr-S (8x8), pool layers 1, 3, 5 as released",
        network="cvidtr_s_k400",
        code_parameters=87_159_952, convention="mlp_and_stem",
        paper_gmac=39, code_gmac=39.8, code_gmac_everything=64.60, note=_LESS,
    ),
    Figure(
        title="C-VidTr-S (8x8), pool layers 1, 2, 4 as in the paper",
        network="cvidtr_s_k400@pools_of_the_paper",
        convention="mlp_and_stem",
        paper_gmac=39, code_gmac=36.1, code_gmac_everything=58.93, note="does not fit the paper's figure",
    ),
    Figure(
        title="C-VidTr-M (16x4)",
        network="cvidtr_m_k400",
        code_parameters=88_364_176, convention="mlp_and_stem",
        paper_gmac=59, code_gmac=46.2, code_gmac_everything=77.19, note="the paper's figure is not reproduced",
    ),
    Figure(
        title="I3D-50 (8x8)",
        network="i3d_r50_8x8_k400",
        code_parameters=32_454_096, code_gmac=41.74, paper_gmac=41,
        note="the paper's figure is a difference, of what the ensembles cost more",
    ),
    Figure(
        title="I3D-50 (32x2)", network="i3d_r50_8x8_k400@32_frames", code_gmac=166.96, paper_gmac=167
    ),
)  # fmt: skip
"""In the order of the papers; a test compares each with our count."""
