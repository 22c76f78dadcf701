"""The programs that build images: Docker, Podman or Buildah, whichever works on this machine."""

import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dataplatform.images.errors import ImageError
from dataplatform.images.inputs import EPOCH, Image

Tell = Callable[[str], None]
"""Told each line that a builder prints."""

_TAIL: Final = 15
_REGISTRY_SECONDS: Final = 20.0
"""For a digest; one that answers does so within two, one behind a firewall would be waited for."""
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_TAG: Final = re.compile(r":[^:/]+$")
_DRIVER: Final = re.compile(r"^Driver:\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Build:
    """What one image is built from.

    Attributes:
        image: its name and tag.
        root: the checkout, which is the build's context.
        base: the image that it is built on.
        jars: the folder of the pinned jars.
        secrets: id → file; mounted while packages are installed, in no layer.
        fresh: nothing is taken from the builder's cache of layers.
    """

    image: Image
    root: Path
    base: str
    jars: Path
    secrets: Mapping[str, Path] = field(default_factory=dict)
    fresh: bool = False

    def options(self) -> list[str]:
        """Return the options that all builders share."""
        arguments = {"BASE_IMAGE": self.base, "VERSION": self.image.tag}
        return [
            *("--file", str(self.root / "infra" / "images" / self.image.name / "Dockerfile")),
            *("--tag", self.image.local),
            *(part for pair in arguments.items() for part in ("--build-arg", "=".join(pair))),
            *("--build-context", f"jars={self.jars}"),
            *(p for i, file in self.secrets.items() for p in ("--secret", f"id={i},src={file}")),
            *(["--no-cache"] if self.fresh else []),
        ]


class Builder:
    """What Podman and Buildah have in common.

    Attributes:
        program: the command.
        probe: arguments that succeed where the command works.
    """

    program: str
    probe: tuple[str, ...] = ("info",)

    def build_command(self, build: Build) -> list[str]:
        """Return the command that builds an image and gives it its local name."""
        return [
            *(self.program, "build", "--layers", "--format", "oci", "--timestamp", str(EPOCH)),
            # Its own version as a label would be another digest with each release of it.
            *("--identity-label=false", *build.options(), str(build.root)),
        ]

    def push_commands(
        self, image: Image, target: str, note: Path, *, insecure: bool
    ) -> list[list[str]]:
        """Return the commands that push an image.

        Args:
            image: one that was built.
            target: its name in the registry.
            note: a file that the digest is written to, unless it is printed.
            insecure: the registry speaks plain HTTP, or has a certificate of its own making.
        """
        tls = ["--tls-verify=false"] if insecure else []
        options = ["--digestfile", str(note), *tls]
        return [[self.program, "push", *options, image.local, f"docker://{target}"]]

    def inspect_command(self, image: Image) -> list[str]:
        """Return a command that succeeds where the image is built, and prints its size in bytes."""
        return [self.program, "image", "inspect", "--format", "{{.Size}}", image.local]

    def digest_command(self, base: str) -> list[str]:
        """Return a command that asks a registry for the digest of an image, for all platforms."""
        return ["skopeo", "inspect", "--format", "{{.Digest}}", f"docker://{base}"]

    def working(self) -> str:
        """Return why the program can't be used; empty where it can."""
        if not shutil.which(self.program):
            return "not installed"
        run = _quietly([self.program, *self.probe])
        return "" if run.returncode == 0 else (run.stderr.strip().splitlines() or ["fails"])[-1]


class Buildah(Builder):
    """Needs neither a daemon nor, with BUILDAH_ISOLATION=chroot, namespaces."""

    program = "buildah"

    def inspect_command(self, image: Image) -> list[str]:
        """Return a command that succeeds where the image is built, and prints its size in words."""
        return [self.program, "images", "--noheading", "--format", "{{.Size}}", image.local]


class Podman(Builder):
    """Buildah's code in another command."""

    program = "podman"


class Docker(Builder):
    """BuildKit, by Docker's daemon."""

    program = "docker"

    def build_command(self, build: Build) -> list[str]:
        """Return the command that builds an image and gives it its local name.

        Docker's own builder unpacks what it built, which BuildKit refuses where time stamps are
        rewritten: moby/buildkit#4230.
        """
        rewrite = "" if self._driver() == "docker" else ",rewrite-timestamp=true"
        return [
            *(self.program, "buildx", "build", "--progress", "plain"),
            *("--output", f"type=docker{rewrite}"),
            *("--provenance=false", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"),
            *(*build.options(), str(build.root)),
        ]

    def push_commands(
        self, image: Image, target: str, note: Path, *, insecure: bool
    ) -> list[list[str]]:
        """Return the commands that push an image; whom to trust is the daemon's to know."""
        del note, insecure
        return [[self.program, "tag", image.local, target], [self.program, "push", target]]

    def digest_command(self, base: str) -> list[str]:
        """Return a command that asks a registry for the digest of an image, for all platforms."""
        inspect = ("buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}")
        return [self.program, *inspect, base]

    def working(self) -> str:
        """Return why the program can't be used; empty where it can."""
        reason = super().working()
        if not reason and _quietly([self.program, "buildx", "version"]).returncode:
            return "has no buildx"
        return reason

    def _driver(self) -> str:
        """Return the driver of the builder in use; of one that is not known, Docker's own."""
        if not shutil.which(self.program):
            return "docker"
        found = _DRIVER.search(_quietly([self.program, "buildx", "inspect"]).stdout)
        return found[1] if found else "docker"


BUILDERS: Final[dict[str, Builder]] = {
    builder.program: builder for builder in (Docker(), Podman(), Buildah())
}


def find_builder(name: str | None = None) -> Builder:
    """Return the first program that works, or the one that is named.

    Raises:
        ImageError: there is none.
    """
    if name and name not in BUILDERS:
        raise ImageError(f"No builder {name}. Remedy: name {', '.join(BUILDERS)}.")
    reasons = []
    for builder in [BUILDERS[name]] if name else BUILDERS.values():
        reason = builder.working()
        if not reason:
            return builder
        reasons.append(f"{builder.program}: {reason}")
    raise ImageError(
        f"No program here builds images ({'; '.join(reasons)})."
        " Remedy: start Docker, or install podman or buildah."
    )


def pinned(builder: Builder, base: str) -> str:
    """Return a base with the digest that its registry has for it now.

    As it is where it has one already, or where no registry answers in time: offline, or `localhost/…`.
    """
    command = builder.digest_command(base)
    if is_pinned(base) or base.startswith("localhost/") or not shutil.which(command[0]):
        return base
    try:
        run = _quietly(command, _REGISTRY_SECONDS)
    except subprocess.TimeoutExpired:
        return base
    found = _DIGEST.fullmatch(run.stdout.strip()) if run.returncode == 0 else None
    return f"{_TAG.sub('', base)}@{found[0]}" if found else base


def is_pinned(base: str) -> bool:
    """Return whether a base is named by its digest."""
    return "@sha256:" in base


def build(builder: Builder, wanted: Build, tell: Tell) -> None:
    """Build an image.

    Raises:
        ImageError: the builder failed.
    """
    _run(builder.build_command(wanted), f"{wanted.image.name} could not be built", tell)


def push(builder: Builder, image: Image, registry: str, tell: Tell, *, insecure: bool) -> str:
    """Push an image that was built, and return its digest in the registry.

    Raises:
        ImageError: the registry refused it, or can't be reached.
    """
    target = image.at(registry)
    with tempfile.TemporaryDirectory(prefix="dp-images-") as scratch:
        note = Path(scratch) / "digest"
        for command in builder.push_commands(image, target, note, insecure=insecure):
            said = _run(command, f"{target} could not be pushed", tell)
        found = _DIGEST.findall(note.read_text() if note.exists() else said)
    if not found:
        raise ImageError(f"{target}: {builder.program} named no digest. Remedy: raise its version.")
    return found[-1]


def built_size(builder: Builder, image: Image) -> str | None:
    """Return the size of an image as its builder says it; None where it is not built."""
    run = _quietly(builder.inspect_command(image))
    return run.stdout.strip() if run.returncode == 0 else None


def _run(command: list[str], failure: str, tell: Tell) -> str:
    """Run a command, tell each of its lines, and return the last ones."""
    last: deque[str] = deque(maxlen=_TAIL)
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            last.append(line.rstrip())
            tell(line.rstrip())
    said = "\n".join(last)
    if process.returncode:
        raise ImageError(f"{failure}:\n{said}\nRemedy: see docs/images.md#when-it-fails.")
    return said


def _quietly(command: list[str], seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, timeout=seconds
    )
