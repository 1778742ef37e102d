"""The command line, `tubelet`: reads arguments, calls one function, prints. Heavy imports stand inside the commands."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from tubelet import __version__
from tubelet.spec.engine import (
    DEFAULT_RUNNING,
    PLAIN,
    SERVED_BY,
    Arithmetic,
    EngineName,
    Mode,
    Precision,
    Running,
    Target,
    check_arithmetic,
    target_of,
)
from tubelet.spec.errors import InvalidRequestError, TubeletError
from tubelet.spec.limits import Limits
from tubelet.spec.plan import BuildOptions, CompatibleHardware
from tubelet.spec.repository import Decoder

if TYPE_CHECKING:
    from tubelet.clients import Classification, VideoClassifier
    from tubelet.clients.evaluate import RowResult

__all__ = ["main"]

_EXTRA_OF = {
    "export": "export",
    "verify": "export",
    "quantise": "quantise",
    "engine": "quantise",
    "repository": "clients",
    "serve": "server",
}
"""What to install where a command lacks a package; all others need ``clients``."""
_CLASSIFY_CONCURRENCY = 4

_Folder = partial(click.Path, file_okay=False, path_type=Path)
_PORT = click.IntRange(0, 65535)
_ENGINE, _PRECISION = click.Choice(get_args(EngineName)), click.Choice(get_args(Precision))
_File = partial(click.Path, dir_okay=False, path_type=Path)


class _Commands(click.Group):
    """Turns our errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TubeletError as exc:
            click.echo(f"error: {exc}", err=True)
        except ModuleNotFoundError as exc:
            package = (exc.name or "tubelet").partition(".")[0]
            if package == "tubelet":
                raise
            extra = _EXTRA_OF.get(ctx.invoked_subcommand or "", "clients")
            click.echo(f"error: missing: no package {package}; pip install 'tubelet[{extra}]'", err=True)
        raise click.exceptions.Exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tubelet")
def main() -> None:
    """Serves trained video transformers with NVIDIA Triton Inference Server.

    Exit codes: 0 done, 1 the work failed or fell short, 2 wrong usage.
    """


_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")
_checkpoint_option = click.option(
    "--checkpoint", type=_File(exists=True), help="The official checkpoint file. [default: the one the recipe names]"
)


def _server_options(command: Any) -> Any:
    """Options of the commands that talk to a server."""
    options = (
        click.option(
            "--url",
            envvar="TUBELET_URL",
            default="127.0.0.1:8001",
            show_default=True,
            show_envvar=True,
            metavar="HOST:PORT",
            help="The server's gRPC address.",
        ),
        click.option("--model", help="Public name of the model. [default: the only one that is served]"),
        click.option(
            "--protocol",
            help="How the video becomes views: clips x crops such as 4x3 (any number of clips, 1 or 3 crops), tsn, "
            "full, or full64 for 64 frames of the whole video; a model may have fewer. [default: the model's]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("recipe", type=_File(exists=True))
@_checkpoint_option
@click.option("--out", type=_Folder(), required=True, help="The bundle's folder.")
def export(recipe: Path, checkpoint: Path | None, out: Path) -> None:
    """Build a verified bundle from a checkpoint, as RECIPE says."""
    from tubelet.export.bundle import export_bundle

    manifest = export_bundle(recipe, checkpoint=checkpoint, out=out, progress=partial(click.echo, err=True))
    click.echo(f"{out}: {manifest.contract.name}, contract {manifest.contract_digest}")


@main.command()
@click.argument("bundle", type=_Folder(exists=True))
@_checkpoint_option
@click.option("--engine", type=_ENGINE, help="What multiplies. [default: both of target cpu, at fp32]")
@click.option("--precision", type=_PRECISION, help="Of the encoder. [default: fp32]")
@click.option("--videos", type=_Folder(exists=True), help="Compare on the videos of this folder too.")
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
        _check_usage(chosen[0])
    progress = partial(click.echo, err=True)
    for found in verify_bundle(bundle, checkpoint=checkpoint, videos=videos, arithmetics=chosen, progress=progress):
        for m in found.measured:
            click.echo(
                f"{found.engine} {found.precision}, {m.stage} against {m.against}: {m.num_views} views, "
                f"max abs logit {m.max_abs_logit:.3g}, cosine {m.cosine:.9f}, "
                f"top-1 agreement {100 * m.top1_agreement:.2f} %"
            )


@main.command()
@click.argument("bundle", type=_Folder(exists=True))
@click.option("--videos", type=_Folder(exists=True), required=True, help="Clips such as the model will see.")
@click.option("--clips", type=click.IntRange(min=1), default=64, show_default=True, help="How many of them to use.")
def quantise(bundle: Path, videos: Path, clips: int) -> None:
    """Add an int8 encoder to BUNDLE, calibrated on videos.

    It is served after tubelet verify has passed it, on other videos than these.
    """
    from tubelet.export.quantise import quantise_bundle

    manifest = quantise_bundle(bundle, videos=videos, num_clips=clips, progress=partial(click.echo, err=True))
    name = manifest.contract.name
    click.echo(f"{bundle}: {name}, int8; next: tubelet verify {bundle} --precision int8 --videos OTHER_VIDEOS")


@main.command()
@click.argument("bundle", type=_Folder(exists=True))
@click.option("--precision", type=_PRECISION, required=True, help="Of the encoder.")
@click.option("--videos", type=_Folder(exists=True), help="To calibrate int8 and fp8 on: such as the model will see.")
@click.option("--workspace-gib", type=click.IntRange(1, 1024), default=16, show_default=True, help="Most for a kernel.")
@click.option("--timing-cache", type=_File(), help="What earlier builds measured on this GPU; read, and written again.")
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


@main.command()
@click.argument("bundles", metavar="BUNDLE...", type=_Folder(exists=True), nargs=-1, required=True)
@click.option("--target", type=click.Choice(get_args(Target)), required=True, help="Where the models will run.")
@click.option("--out", type=_Folder(), required=True, help="The repository's folder.")
@click.option(
    "--engine",
    type=click.Choice([engine for engines in SERVED_BY.values() for engine in engines]),
    help="What multiplies: on processors the faster one or the portable one; on GPUs a plan, or ONNX Runtime's "
    "providers. [default: openvino or tensorrt, as the target]",
)
@click.option(
    "--precision",
    type=_PRECISION,
    default=DEFAULT_RUNNING.precision,
    show_default=True,
    help="Of the encoder: bf16 where the processor has it, int8 after tubelet quantise; on GPUs after tubelet engine.",
)
@click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    default=DEFAULT_RUNNING.mode,
    show_default=True,
    help="All cores on one batch, for a few callers; or a batch on each core, for many.",
)
@click.option(
    "--decoder",
    type=click.Choice(get_args(Decoder)),
    default="pyav",
    show_default=True,
    help="Who decodes videos: the processor, or on GPUs the card's own decoder for what that can.",
)
@click.option("--limit", "limits", metavar="NAME=VALUE", multiple=True, help="Set a limit; may be given often.")
@click.option(
    "--ensemble",
    "ensembles",
    metavar="NAME=MODEL+MODEL",
    multiple=True,
    help="Let models answer together under a name: the mean of their probabilities; may be given often.",
)
def repository(
    *,
    bundles: tuple[Path, ...],
    target: Target,
    out: Path,
    engine: EngineName | None,
    precision: Precision,
    mode: Mode,
    decoder: Decoder,
    limits: tuple[str, ...],
    ensembles: tuple[str, ...],
) -> None:
    """Write the Triton model repository that serves BUNDLE..."""
    from tubelet.export.repository import write_repository

    engine = engine or SERVED_BY[target][0]
    if target_of(engine) != target:
        expected = ", ".join(SERVED_BY[target])
        raise click.BadParameter(f"target {target} is served by {expected}, not {engine}", param_hint="--engine")
    if target == "cpu" and decoder != "pyav":
        raise click.BadParameter(f"on target cpu the processor decodes, by pyav, not {decoder}", param_hint="--decoder")
    _check_usage((engine, precision))
    running = Running(engine=engine, precision=precision, mode=mode)

    together = {}
    for text in ensembles:
        name, equals, models = text.partition("=")
        if not (name and equals and models) or name in together:
            raise click.BadParameter(f"NAME=MODEL+MODEL, each NAME once, got {text!r}", param_hint="--ensemble")
        together[name] = models.split("+")

    try:
        chosen = Limits().override(limits)
    except InvalidRequestError as exc:
        raise click.BadParameter(exc.message, param_hint="--limit") from exc
    written = write_repository(
        bundles, target=target, out=out, limits=chosen, running=running, decoder=decoder, ensembles=together
    )
    for model in written.models:
        if not model.verified:
            click.echo(f"{model.name}: {engine} {precision} is not verified; tubelet serve will refuse it", err=True)
    count = len(written.models)
    click.echo(f"{out}: {count} model{'s' * (count != 1)} for target {target}, {engine} {precision}, {mode}")


@main.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--repository", type=_Folder(exists=True), default="model_repository", show_default=True, help="What to serve."
)
@click.option("--http-port", type=_PORT, default=8000, show_default=True, help="0, here and below: any free port.")
@click.option("--grpc-port", type=_PORT, default=8001, show_default=True)
@click.option("--metrics-port", type=_PORT, default=8002, show_default=True)
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--expose-unpatched-triton",
    is_flag=True,
    help="Let the wheel's Triton 2.51, which has known holes, listen on an address that others reach.",
)
@click.option(
    "--allow-unverified",
    is_flag=True,
    help="Serve models whose engine and precision did not pass tubelet verify.",
)
@_json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def serve(*, as_json: bool, command: tuple[str, ...], **options: Any) -> None:
    """Run Triton until it is told to stop, or while COMMAND runs.

    Waits until every model is ready, prints the addresses, and brings the server back when it is lost. With COMMAND
    (after --), the server's gRPC address is in COMMAND's environment as TUBELET_URL, and its exit code is ours.
    """
    from tubelet.server.options import ServeOptions
    from tubelet.server.supervisor import serve as run

    sys.exit(run(ServeOptions(json_events=as_json, command=command, **options)))


@main.command()
@click.argument("videos", metavar="VIDEO...", type=click.Path(path_type=Path), nargs=-1, required=True)
@_server_options
@click.option("--start-s", type=float, help="Start of the part that counts, in seconds. [default: the start]")
@click.option("--end-s", type=float, help="End of that part, in seconds. [default: the end]")
@click.option("--deadline-s", type=float, help="Give up on a video after this many seconds.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many labels.")
@click.option("--chunked", is_flag=True, help="For long videos in many frames: keep but a batch of them in memory.")
@_json_option
def classify(videos: tuple[Path, ...], url: str, model: str | None, as_json: bool, **wishes: Any) -> None:
    """Classify video files through a running server.

    A file that fails is reported, the others are classified all the same, and the exit code is 1.
    """
    from tubelet.clients import VideoClassifier
    from tubelet.clients.display import show_classification
    from tubelet.clients.ordered import map_ordered

    failed = 0
    with VideoClassifier(url, model=model) as classifier:
        attempt = partial(_attempt, classifier, wishes)
        for video, found in map_ordered(attempt, videos, concurrency=_CLASSIFY_CONCURRENCY):
            if isinstance(found, TubeletError):
                failed += 1
                _report_error(video, found, as_json=as_json)
            elif as_json:
                _print_json({"video": str(video), **found.to_json()})
            else:
                show_classification(str(video), found)
    sys.exit(1 if failed else 0)


@main.command()
@click.argument("csv", type=_File(exists=True))
@_server_options
@click.option("--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests in flight.")
@_json_option
def evaluate(csv: Path, url: str, model: str | None, protocol: str | None, concurrency: int, as_json: bool) -> None:
    """Score a model on CSV, through the server: top-1 and top-5.

    CSV has the header video,label; paths are relative to it, a label is a class's name or index. Rows that fail are
    listed, count as wrong, and make the exit code 1.
    """
    from tubelet.clients import VideoClassifier
    from tubelet.clients import evaluate as scoring
    from tubelet.clients.display import progress_over, show_evaluation, show_failed_row

    with VideoClassifier(url, model=model) as classifier:
        num_rows = len(scoring.read_rows(csv))
        with progress_over("classified", num_rows) as advance:

            def on_result(result: RowResult) -> None:
                advance()
                if as_json:
                    _print_json(result.to_json())
                if result.error is not None:
                    show_failed_row(result, file=sys.stderr)

            found = scoring.evaluate(classifier, csv, protocol=protocol, concurrency=concurrency, on_result=on_result)
    if as_json:
        _print_json(found.to_json())
    else:
        show_evaluation(found)
    sys.exit(1 if found.failures else 0)


@main.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can do and what is missing.

    Each missing thing comes with its remedy; the exit code is 1 when this machine cannot serve.
    """
    from tubelet.server.doctor import examine, is_able_to_serve

    findings = examine()
    for finding in findings:
        if as_json:
            _print_json(finding.to_json())
            continue
        mark, colour = ("ok", "green") if finding.ok else ("MISSING", "red") if finding.is_needed else ("-", "yellow")
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        click.echo(f"{click.style(f'{mark:8}', fg=colour)}{finding.name:24}{finding.detail}{remedy}")
    sys.exit(0 if is_able_to_serve(findings) else 1)


def _check_usage(chosen: Arithmetic) -> None:
    try:
        check_arithmetic(*chosen)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--precision") from exc


def _attempt(
    classifier: VideoClassifier, wishes: dict[str, Any], video: Path
) -> tuple[Path, Classification | TubeletError]:
    try:
        return video, classifier.classify(video, **wishes)
    except TubeletError as exc:
        return video, exc


def _report_error(video: Path, error: TubeletError, *, as_json: bool) -> None:
    from tubelet.clients.display import printable

    click.echo(f"error: {printable(f'{video}: {error}')}", err=True)
    if as_json:
        _print_json({"video": str(video), "error": {"code": error.code, "message": error.message}})


def _print_json(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data, allow_nan=False))
