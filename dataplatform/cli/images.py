"""`dp images`: the images of the profile `cluster`, built and pushed to the private registry."""

import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, ParamSpec, TypeVar

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, add_row, grid, user_errors

if TYPE_CHECKING:
    from dataplatform.images.builders import Builder
    from dataplatform.images.inputs import Image

app: Final = typer.Typer(
    name="images",
    help="The container images of the profile cluster: code location and Spark.",
    no_args_is_help=True,
)
_P = ParamSpec("_P")
_R = TypeVar("_R")

Names = Annotated[
    list[str] | None, typer.Argument(help="dagster, spark; both where none is named.")
]
BuilderName = Annotated[
    str | None,
    typer.Option(
        "--builder",
        envvar="DATAPLATFORM_IMAGE_BUILDER",
        help="docker, podman or buildah; else the first of them that works.",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        envvar="DATAPLATFORM_IMAGE_BASE",
        help="Another base, such as a mirror's; else that of infra/images/bases.yaml.",
    ),
]
Registry = Annotated[
    str,
    typer.Option(
        envvar="DATAPLATFORM_REGISTRY",
        help="The registry, such as NODE:30500, and a path in it if wanted.",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Build anew, without cached layers.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show all that the builder says.")]


def _image_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let what went wrong with an image end as one message."""

    @functools.wraps(command)
    def _guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from dataplatform.images.errors import ImageError
        from dataplatform.lake.maven import JarError

        try:
            return command(*args, **kwargs)
        except (ImageError, JarError) as error:
            raise UserError(str(error)) from error

    return user_errors(_guarded)


@app.command("build")
@_image_errors
def build(
    names: Names = None,
    base: Base = None,
    builder: BuilderName = None,
    fresh: Fresh = False,
    verbose: Verbose = False,
) -> None:
    """Build the images of this checkout; one that has its tag already is left as it is."""
    from dataplatform.images.builders import find_builder

    program = find_builder(builder)
    for image in _build(program, names, _base(program, base), fresh=fresh, verbose=verbose):
        console.out().print(image.local, soft_wrap=True)


@app.command("push")
@_image_errors
def push(
    names: Names = None,
    registry: Registry = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="The registry speaks HTTP, or an unknown TLS.")
    ] = False,
    base: Base = None,
    floating_base: Annotated[
        bool, typer.Option("--floating-base", help="Push even on a base whose digest is not known.")
    ] = False,
    builder: BuilderName = None,
    verbose: Verbose = False,
) -> None:
    """Build the images if they are not, push them, and print their names with digests."""
    from dataplatform.images import builders

    if not registry:
        raise UserError(
            "No registry is named. Remedy: --registry NODE:30500, or set DATAPLATFORM_REGISTRY."
        )
    program = builders.find_builder(builder)
    base = _base(program, base)
    if not (floating_base or builders.is_pinned(base)):
        raise UserError(
            f"{base} has no digest, and its registry told none ({program.digest_command(base)[0]}), so"
            " the tag pushed could be another image tomorrow. Remedy: name it with its digest"
            " (docs/images.md#the-base), or push by --floating-base."
        )
    for image in _build(program, names, base, fresh=False, verbose=verbose):
        with _told(f"pushing {image.name}", verbose=verbose) as tell:
            digest = builders.push(program, image, registry, tell, insecure=insecure)
        console.out().print(f"{image.at(registry)}@{digest}", soft_wrap=True)


@app.command("list")
@_image_errors
def list_images(registry: Registry = "", base: Base = None, builder: BuilderName = None) -> None:
    """Show the names that this checkout's images have, and which of them are built."""
    from dataplatform.images.builders import built_size, find_builder
    from dataplatform.images.errors import ImageError

    try:
        program = find_builder(builder)
    except ImageError as error:
        console.err().print(str(error), style="yellow", markup=False)
        program = None
    base = _base(program, base)
    table = grid(["image", "name", "built"], named=True)
    for image in _images(None, base):
        size = built_size(program, image) if program else None
        add_row(table, [image.name, image.at(registry) if registry else image.local, size or "no"])
    console.out().print(table)


def _base(program: "Builder | None", named: str | None) -> str:
    """Return the base that is meant, with its digest where that can be learnt."""
    from dataplatform.images import builders, inputs

    base = named or inputs.named_base(inputs.checkout())
    return builders.pinned(program, base) if program else base


def _images(names: list[str] | None, base: str) -> "list[Image]":
    from dataplatform.images import inputs

    return inputs.images(inputs.checkout(), base, names or inputs.IMAGES)


def _build(
    program: "Builder", names: list[str] | None, base: str, *, fresh: bool, verbose: bool
) -> "list[Image]":
    """Build what is not built yet, or all of it where `fresh`."""
    from dataplatform.images import builders, inputs
    from dataplatform.images.host_configuration import build_secrets

    root = inputs.checkout()
    wanted = _images(names, base)
    missing = [i for i in wanted if fresh or builders.built_size(program, i) is None]
    if missing and not builders.is_pinned(base):
        text = f"{base} is not pinned by its digest, so the same tag may become another image."
        console.err().print(f"{text} See docs/images.md#the-base.", style="yellow", markup=False)
    with tempfile.TemporaryDirectory(prefix="dp-images-") as scratch:
        secrets = build_secrets(Path(scratch))
        jars = _jars(Path(scratch) / "jars") if missing else Path(scratch)
        for image in missing:
            what = builders.Build(image, root, base, jars, secrets, fresh)
            with _told(f"building {image.name} by {program.program}", verbose=verbose) as tell:
                builders.build(program, what, tell)
    return wanted


def _jars(folder: Path) -> Path:
    """Return a folder of the pinned jars alone, linked where the file system allows it."""
    from dataplatform.lake.jvm import spark_jars
    from dataplatform.versions import S3_JARS, SPARK_JARS

    folder.mkdir()
    for jar in spark_jars(SPARK_JARS | S3_JARS):
        try:
            os.link(jar, folder / jar.name)
        except OSError:  # Another file system.
            shutil.copyfile(jar, folder / jar.name)
    return folder


@contextmanager
def _told(what: str, *, verbose: bool) -> Generator[Callable[[str], None]]:
    """Show what goes on, and how long it took: the builder's steps, or all that it says."""
    screen, started = console.err(), time.monotonic()
    with screen.status(what) as status:

        def tell(line: str) -> None:
            if verbose:
                screen.print(line, style="dim", markup=False)
            elif "STEP" in line or line.startswith("#"):
                status.update(f"{what}: {line[:80]}".replace("[", "\\["))

        yield tell
    screen.print(f"{what}: {time.monotonic() - started:.0f} s", style="dim", markup=False)
