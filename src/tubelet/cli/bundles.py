"""Commands that make bundles, and say how exact they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from tubelet.cli.shared import PRECISION, File, Folder, check_usage
from tubelet.spec.engine import DEFAULT_RUNNING, PLAIN, EngineName, Precision
from tubelet.spec.plan import BuildOptions, CompatibleHardware

__all__ = ["engine", "export", "quantise", "verify"]

_checkpoint_option = click.option(
    "--checkpoint", type=File(exists=True), help="The official checkpoint file. [default: the one the recipe names]"
)


@click.command()
@click.argument("recipe", type=File(exists=True))
@_checkpoint_option
@click.option("--out", type=Folder(), required=True, help="The bundle's folder.")
def export(recipe: Path, checkpoint: Path | None, out: Path) -> None:
    """Build a verified bundle from a checkpoint, as RECIPE says."""
    from tubelet.export.bundle import export_bundle

    manifest = export_bundle(recipe, checkpoint=checkpoint, out=out, progress=partial(click.echo, err=True))
    click.echo(f"{out}: {manifest.contract.name}, contract {manifest.contract_digest}")


@click.command()
@click.argument("bundle", type=Folder(exists=True))
@_checkpoint_option
@click.option(
    "--engine", type=click.Choice(get_args(EngineName)), help="What multiplies. [default: both of target cpu, at fp32]"
)
@click.option("--precision", type=PRECISION, help="Of the encoder. [default: fp32]")
@click.option("--videos", type=Folder(exists=True), help="Compare on the videos of this folder too.")
def verify(
    bundle: Path,
    checkpoint: Path | None,
    engine: EngineName | None,
    precision: Precision | None,
    videos: Path | None,
) -> None:
    """Compare BUNDLE with the torch model; over budget is exit code 1.

    What was found is noted in BUNDLE, whatever it is; tubelet serve goes by that. All but fp32 is judged on real clips:
    it needs --videos, with 100 views at least. tensorrt and the providers of ONNX Runtime run on a GPU;
    onnxruntime_host computes their graphs on the processor, and says what a precision costs where no GPU is.
    """
    from tubelet.export.verify import verify_bundle

    chosen = PLAIN
    if engine is not None or precision is not None:
        chosen = ((engine or DEFAULT_RUNNING.engine, precision or DEFAULT_RUNNING.precision),)
        check_usage(chosen[0])
    progress = partial(click.echo, err=True)
    for found in verify_bundle(bundle, checkpoint=checkpoint, videos=videos, arithmetics=chosen, progress=progress):
        for m in found.measured:
            click.echo(
                f"{found.engine} {found.precision}, {m.stage} against {m.against}: {m.num_views} views, "
                f"max abs logit {m.max_abs_logit:.3g}, cosine {m.cosine:.9f}, "
                f"top-1 agreement {100 * m.top1_agreement:.2f} %"
            )


@click.command()
@click.argument("bundle", type=Folder(exists=True))
@click.option("--videos", type=Folder(exists=True), required=True, help="Clips such as the model will see.")
@click.option("--clips", type=click.IntRange(min=1), default=64, show_default=True, help="How many of them to use.")
def quantise(bundle: Path, videos: Path, clips: int) -> None:
    """Add an int8 encoder to BUNDLE, calibrated on videos.

    It is served after tubelet verify has passed it, on other videos than these.
    """
    from tubelet.export.quantise import quantise_bundle

    manifest = quantise_bundle(bundle, videos=videos, num_clips=clips, progress=partial(click.echo, err=True))
    name = manifest.contract.name
    click.echo(f"{bundle}: {name}, int8; next: tubelet verify {bundle} --precision int8 --videos OTHER_VIDEOS")


@click.command()
@click.argument("bundle", type=Folder(exists=True))
@click.option("--precision", type=PRECISION, required=True, help="Of the encoder.")
@click.option("--videos", type=Folder(exists=True), help="To calibrate int8 and fp8 on: such as the model will see.")
@click.option("--workspace-gib", type=click.IntRange(1, 1024), default=16, show_default=True, help="Most for a kernel.")
@click.option("--timing-cache", type=File(), help="What earlier builds measured on this GPU; read, and written again.")
@click.option(
    "--builder-level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="How long to look for faster kernels.",
)
@click.option("--compatible-versions", is_flag=True, help="Let later TensorRT versions run the plan.")
@click.option(
    "--compatible-hardware",
    type=click.Choice(get_args(CompatibleHardware)),
    default="none",
    show_default=True,
    help="Which other GPUs run the plan; it is slower on all of them.",
)
@click.option("--refit", is_flag=True, help="Let the plan's weights be exchanged.")
@click.option(
    "--most-views",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Views of one request, at most.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be built; needs no TensorRT and no GPU.")
@click.option("--graph-only", is_flag=True, help="Make the graph for GPUs and stop; needs no TensorRT and no GPU.")
def engine(
    *,
    bundle: Path,
    precision: Precision,
    videos: Path | None,
    timing_cache: Path | None,
    most_views: int,
    dry_run: bool,
    graph_only: bool,
    **options: Any,
) -> None:
    """Add TensorRT plans to BUNDLE, for the GPU of this machine.

    The graph is made for the precision on the processor, then built: minutes. Next, tubelet verify --engine tensorrt.
    """
    from tubelet.export.tensorrt import build_engines, describe_engines, make_graph
    from tubelet.export.tensorrt_jobs import Wishes

    if dry_run and graph_only:
        raise click.UsageError("--dry-run and --graph-only exclude each other")
    wishes = Wishes(
        precision=precision,
        videos=videos,
        options=BuildOptions(**options),
        timing_cache=timing_cache,
        most_views=most_views,
    )
    progress = partial(click.echo, err=True)
    if dry_run:
        for line in describe_engines(bundle, wishes, progress=progress):
            click.echo(line)
    elif graph_only:
        click.echo(f"{bundle}: {make_graph(bundle, wishes, progress=progress)}")
    else:
        for plan in build_engines(bundle, wishes, progress=progress):
            click.echo(f"{bundle}: {plan.step}, {plan.precision}, {plan.plan_bytes / 1e6:.1f} MB, for {plan.gpu.name}")
