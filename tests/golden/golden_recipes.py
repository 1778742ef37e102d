"""Recipes for the golden checkpoints, written from their reference configurations as export/README.md says."""

import json
from pathlib import Path
from typing import Any

SCENIC_VARIANTS = {
    "spacetime": "spatio_temporal",
    "factorized_encoder": "factorised_encoder",
    "factorized_self_attention_block": "factorised_self_attention",
    "factorized_dot_product_attention": "factorised_dot_product",
}
PIPELINES = {
    "scenic": ("scenic", "wrap", "scenic", "uint8_truncated", 2 / 255, [1.0] * 3, [1.0] * 3, "mean_logits"),
    "slowfast": ("pyslowfast", "repeat_last", "pyslowfast", "uint8_rounded", 1 / 255, [0.45] * 3, [0.225] * 3,
                 "mean_probabilities"),
    "gluonmm": ("gluonmm", "repeat_last", "gluonmm", "uint8_rounded", 1 / 255, [0.485, 0.456, 0.406],
                [0.229, 0.224, 0.225], "mean_probabilities"),
}  # fmt: skip


def golden_recipe(case: Path) -> tuple[dict[str, Any], Path, dict[str, int]]:
    """A recipe as plain data, the checkpoint's path, and the number of classes of each head."""
    config = json.loads((case / "config.json").read_text())
    heads = {"label": config.get("dataset_configs", {}).get("num_classes", 0)}
    if "model" in config:
        network, weights, kind, pipeline = _scenic(config), case / "checkpoint", "scenic", "scenic"
        frames, side = config["dataset_configs"]["num_frames"], config["dataset_configs"]["crop_size"]
        if "class_splits" in config["dataset_configs"]:
            heads = dict(
                zip(config["dataset_configs"]["split_names"], config["dataset_configs"]["class_splits"], strict=True)
            )
    elif "VTN" in config:
        network, weights, kind, pipeline = _vtn(config), case / "checkpoint.pyth", "slowfast", "slowfast"
        frames, side = config["DATA"]["NUM_FRAMES"], config["DATA"]["TEST_CROP_SIZE"]
        heads = {"label": config["MODEL"]["NUM_CLASSES"]}
    elif "CLASS" in config:
        data = config["CONFIG"]["DATA"]
        heads, frames, pipeline = {"label": data["NUM_CLASSES"]}, data["CLIP_LEN"], "gluonmm"
        weights = case / "checkpoint.pth"
        if config["CLASS"] == "ResNet_SlowFast":
            network, kind, side = {"family": "i3d", "variant": "slow_resnet"}, "gluoncv", 48
        else:
            network, kind, side = _vidtr(config), "gluonmm", data["IMG_SIZE"]
    else:
        network = {"family": "vivit", "variant": "spatio_temporal", "classifier": "token", "attention_order": "none"}
        network["sampled_frames"] = "none"
        network["num_heads"] = config["num_attention_heads"]
        weights, kind, pipeline = case / "model.safetensors", "huggingface", "scenic"
        heads, frames, side = {"label": len(config["id2label"])}, config["num_frames"], config["image_size"]
    return _recipe(case.name, network, kind, pipeline, frames, side, heads), weights, heads


def _scenic(config: dict[str, Any]) -> dict[str, Any]:
    model = config["model"]
    attention = model["attention_config"]
    return {
        "family": "vivit",
        "variant": SCENIC_VARIANTS[attention["type"]],
        "classifier": model["classifier"],
        "attention_order": attention.get("attention_order", "none"),
        "sampled_frames": model["temporal_encoding_config"].get("n_sampled_frames", "none"),
        "num_heads": model.get("num_heads", "none"),
    }


def _vtn(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "family": "vtn",
        "variant": "vit",
        "backbone_heads": config["BACKBONE"]["num_heads"],
        "temporal_heads": config["VTN"]["NUM_ATTENTION_HEADS"],
        "attention_window": config["VTN"]["ATTENTION_WINDOW"],
        "positions": "learned",
        "max_positions": "none",
    }


def _vidtr(config: dict[str, Any]) -> dict[str, Any]:
    model = config["CONFIG"]["MODEL"]
    return {
        "family": "vidtr",
        "variant": "compact" if config["CLASS"] == "CompactVidTr" else "separable",
        "num_heads": model["NHEAD"],
        "activation": "relu",
        "pool_layers": model.get("LAYER_POOL", []),
        "dropped_frames": model.get("NUMBER_OF_KEYS", []),
    }


def _recipe(
    name: str, network: dict[str, Any], kind: str, pipeline: str, frames: int, side: int, heads: dict[str, int]
) -> dict[str, Any]:
    sampler, short_video, resize, on, scale, mean, std, aggregation = PIPELINES[pipeline]
    nothing = "none"
    return {
        "name": name,
        "network": network,
        "checkpoint": {"format": kind, "file": "checkpoint", "sha256": nothing, "source": "golden", "licence": "none"},
        "sampler": {
            "kind": sampler,
            "num_frames": frames,
            "stride": 2,
            "target_fps": 25 if sampler == "pyslowfast" else nothing,
            "short_video": short_video,
        },
        "full_video": nothing,
        "resize": {
            "kind": resize,
            "short_side_px": side,
            "short_side_three_crops_px": side,
            "kernel": "bilinear",
            "antialias": False,
            "on": on,
        },
        "crop": {"kind": sampler, "size_px": side},
        "normalisation": {"scale": scale, "mean": mean, "std": std},
        "protocols": ["1x1", "4x3"],
        "default_protocol": "1x1",
        "aggregation": aggregation,
        "largest_batch": 4,
        "heads": [{"name": head, "activation": "softmax", "labels": f"{head}.txt"} for head in heads],
        "product": "joint" if len(heads) > 1 else nothing,
        "published": {
            "title": name,
            "paper": nothing,
            "code": nothing,
            "dataset": nothing,
            "accuracy": nothing,
            "aggregation_in_paper": nothing,
            "aggregation_in_code": nothing,
            "weights": "ours",
            "notes": [],
        },
    }
