"""ViViT against the outputs of the reference implementations, for checkpoints in their own files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tubelet.checkpoints import huggingface, scenic
from tubelet.models.vivit import FactorisedEncoder, JointVivit, Representation
from tubelet.models.vivit_embedding import UniformFrameEmbedding
from tubelet.preprocess.normalise import normalise
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VivitNetwork
from tubelet.spec.pipeline import Normalisation

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="'shared/golden' does not lie beside the repository")

INDEX: dict[str, Any] = json.loads((GOLDEN / "index.json").read_text()) if GOLDEN.is_dir() else {}
SCENIC = [case for case, entry in INDEX.items() if entry.get("family") == "scenic_vivit"]
HUGGING_FACE = [case for case, entry in INDEX.items() if entry.get("family") == "hf_vivit"]
VARIANTS: dict[str, Any] = {
    "spacetime": "spatio_temporal",
    "factorized_encoder": "factorised_encoder",
    "factorized_self_attention_block": "factorised_self_attention",
    "factorized_dot_product_attention": "factorised_dot_product",
}


def config(case: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((GOLDEN / case / "config.json").read_text())
    return read


def network(case: str) -> VivitNetwork:
    """What a recipe would say of a case."""
    if case in HUGGING_FACE:
        return VivitNetwork(
            family="vivit",
            variant="spatio_temporal",
            classifier="token",
            attention_order=None,
            sampled_frames=None,
            num_heads=config(case)["num_attention_heads"],
        )
    model = config(case)["model"]
    return VivitNetwork(
        family="vivit",
        variant=VARIANTS[model["attention_config"]["type"]],
        classifier=model["classifier"],
        attention_order=model["attention_config"].get("attention_order"),
        sampled_frames=model["temporal_encoding_config"].get("n_sampled_frames"),
        num_heads=None,
    )


def load(case: str) -> JointVivit | FactorisedEncoder:
    if case in HUGGING_FACE:
        sizes = config(case)
        return huggingface.load(
            GOLDEN / case / "model.safetensors",
            network(case),
            num_frames=sizes["num_frames"],
            crop_px=sizes["image_size"],
        ).eval()
    sizes = config(case)["dataset_configs"]
    return scenic.load(
        GOLDEN / case / "checkpoint", network(case), num_frames=sizes["num_frames"], crop_px=sizes["crop_size"]
    ).eval()


def clips(case: str) -> NDArray[np.float32]:
    inputs: NDArray[np.float32] = np.load(GOLDEN / case / "input.npz")["inputs"]
    return np.ascontiguousarray(inputs.transpose(0, 1, 3, 4, 2)) if case in HUGGING_FACE else inputs


@pytest.fixture(params=SCENIC + HUGGING_FACE)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_logits_are_those_of_the_reference(case: str) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = load(case)(torch.from_numpy(clips(case))).numpy()
    budget = BUDGETS["torch-fp32/golden"]
    assert budget.max_abs_logit is not None
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=budget.max_abs_logit)
    assert (logits.argmax(axis=1) == expected["logits"].argmax(axis=1)).all()


def test_float64_logits_are_those_of_the_reference(case: str) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = load(case).double()(torch.from_numpy(clips(case)).double()).numpy()
    np.testing.assert_allclose(logits, expected["logits_float64"], rtol=0, atol=1e-9)


def test_every_stage_is_that_of_the_reference(case: str) -> None:
    model, expected = load(case), np.load(GOLDEN / case / "expected.npz")
    found = (
        joint_stages(model, torch.from_numpy(clips(case)), hugging_face=case in HUGGING_FACE)
        if isinstance(model, JointVivit)
        else factorised_stages(model, torch.from_numpy(clips(case)))
    )
    if "class_splits" in config(case).get("dataset_configs", {}):
        found |= two_heads(case, found["logits"])
    for name in set(expected.files) - {"logits_float64"}:
        shaped = found[name].numpy().reshape(expected[name].shape)
        tolerance = INDEX[case]["expected"][name].get("atol_float32", 0)
        np.testing.assert_allclose(shaped, expected[name], rtol=0, atol=tolerance, err_msg=name)


def outputs_of(blocks: nn.ModuleList, run: Callable[[], object]) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _module, _inputs, output: found.append(output)) for block in blocks]
    run()
    for hook in hooks:
        hook.remove()
    return found


@torch.inference_mode()
def joint_stages(model: JointVivit, inputs: Tensor, *, hugging_face: bool) -> dict[str, Tensor]:
    encoder, embedded = model.encoder, model.embedding(inputs)
    entered: list[Tensor] = []
    hook = encoder.blocks[0].register_forward_pre_hook(lambda _module, tokens: entered.append(tokens[0]))
    blocks = outputs_of(encoder.blocks, lambda: encoder(embedded.flatten(1, 2)))
    hook.remove()
    stages = {"logits": model(inputs)}
    if hugging_face:
        stages |= {"embeddings": entered[0], "layernorm": encoder.norm(blocks[-1])}
        return stages | {f"layer_{i}": output for i, output in enumerate(blocks)}
    if isinstance(model.embedding, UniformFrameEmbedding):
        stages["sampled_frame_indices"] = torch.tensor(model.embedding.chosen)
    stages |= {f"Transformer.encoderblock_{i}": output for i, output in enumerate(blocks)}
    return stages | {
        "embedding": embedded,
        "Transformer.encoder_norm": encoder.norm(blocks[-1]),
        "pre_logits": before_tanh(model.representation, encoder(embedded.flatten(1, 2))),
    }


def before_tanh(representation: nn.Module, pooled: Tensor) -> Tensor:
    """The reference's module of that name ends before its tanh."""
    return nn.Linear.forward(representation, pooled) if isinstance(representation, Representation) else pooled


@torch.inference_mode()
def factorised_stages(model: FactorisedEncoder, inputs: Tensor) -> dict[str, Tensor]:
    units = inputs.reshape(-1, model.unit_frames, *inputs.shape[2:])
    features = model.encode(units).reshape(len(inputs), -1, model.feature_dim)
    stages = {
        "embedding": model.embedding(units),
        "spatial_features": features,
        "logits": model.classify(features),
    }
    if model.temporal is not None:
        blocks = outputs_of(model.temporal.blocks, lambda: model.classify(features))
        stages |= {f"TemporalTransformer.encoderblock_{i}": output for i, output in enumerate(blocks)}
        stages["TemporalTransformer.encoder_norm"] = model.temporal.norm(blocks[-1])
        stages["pre_logits"] = before_tanh(model.representation, model.temporal(features))
    return stages


def two_heads(case: str, logits: Tensor) -> dict[str, Tensor]:
    """Noun first, then verb; an action's score is the product of the heads' softmaxes."""
    noun, verb = logits.split(config(case)["dataset_configs"]["class_splits"], dim=1)
    joint = noun.softmax(dim=1)[:, :, None] * verb.softmax(dim=1)[:, None]
    return {"logits_noun": noun, "logits_verb": verb, "joint_probs": joint.flatten(1)}


def test_bytes_are_normalised_as_the_reference_does(case: str) -> None:
    inputs = np.load(GOLDEN / case / "input.npz")
    frames = inputs["frames" if case in SCENIC else "frames_resized_cropped"]
    zero_centred = Normalisation(scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))
    np.testing.assert_allclose(normalise(zero_centred, frames), clips(case), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("case", SCENIC)
def test_other_variants_are_refused_not_loaded_in_part(case: str) -> None:
    sizes = config(case)["dataset_configs"]
    right = network(case)
    variants: list[Any] = [*VARIANTS.values(), "average_pool"]
    for variant in variants:
        for classifier in ("token", "gap"):
            try:
                other = VivitNetwork(
                    family="vivit",
                    variant=variant,
                    classifier=classifier,
                    attention_order="time_space" if variant == "factorised_self_attention" else None,
                    sampled_frames=None,
                    num_heads=None,
                )
            except ValueError:  # Models 3 and 4 have no class token
                continue
            # The tensors of Model 4 are those of Model 1 without a class token: nothing in the file tells them apart.
            alike = {right.variant, variant} == {"spatio_temporal", "factorised_dot_product"}
            if (other.variant == right.variant or alike) and other.classifier == right.classifier:
                continue
            with pytest.raises(RecipeError) as caught:
                scenic.load(
                    GOLDEN / case / "checkpoint",
                    other,
                    num_frames=sizes["num_frames"],
                    crop_px=sizes["crop_size"],
                )
            assert caught.value.code == "bad_checkpoint"
