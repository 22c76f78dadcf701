"""What an image is made of: the files that its build sees, and the base; both make the tag."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from dataplatform.images.errors import ImageError

IMAGES: Final = ("dagster", "spark")
EPOCH: Final = 315_532_800
"""Seconds to 1980-01-01, the age of every file and image: equal content has an equal digest."""
_ROOT: Final = Path(__file__).parents[2]


def checkout() -> Path:
    """Return the checkout whose images are meant.

    Raises:
        ImageError: the package is installed without its repository.
    """
    if not (_ROOT / "infra" / "images").is_dir():
        raise ImageError(
            "infra/images is not there: the package was installed without its repository."
            " Remedy: run dp from a checkout."
        )
    return _ROOT


def context_files(root: Path) -> Iterator[Path]:
    """Yield, in order, the files that `.dockerignore` lets a build see."""
    lines = (root / ".dockerignore").read_text().splitlines()
    shown = sorted({path for line in lines if line[:1] == "!" for path in root.glob(line[1:])})
    for path in shown:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def content_digest(root: Path, base: str) -> str:
    """Return the SHA-256 of all that goes into the images: names, modes and bytes, and the base."""
    digest = hashlib.sha256(base.encode())
    for file in context_files(root):
        executable = bool(file.stat().st_mode & 0o100)
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"\n{file.relative_to(root)} {executable} {content}".encode())
    return digest.hexdigest()


def named_base(root: Path) -> str:
    """Return the base that `infra/images/bases.yaml` names."""
    import yaml

    return str(yaml.safe_load((root / "infra" / "images" / "bases.yaml").read_text())["python"])


@dataclass(frozen=True)
class Image:
    """One image of this checkout.

    Attributes:
        name: `dagster` or `spark`.
        tag: the version, and twelve digits of what it is made of: the same tag is the same content.
    """

    name: str
    tag: str

    @property
    def repository(self) -> str:
        """Its name within a registry."""
        return f"dataplatform-{self.name}"

    @property
    def local(self) -> str:
        """Its name on this machine, which no registry is asked for."""
        return f"localhost/{self.repository}:{self.tag}"

    def at(self, registry: str) -> str:
        """Return its name in a registry, such as `node:30500` or `node:30500/team`."""
        return f"{registry.rstrip('/')}/{self.repository}:{self.tag}"


def images(root: Path, base: str, names: Iterable[str] = IMAGES) -> list[Image]:
    """Return the images of a checkout on a base.

    Raises:
        ImageError: there is no image of one of the names.
    """
    wanted = list(names)
    unknown = sorted(set(wanted) - set(IMAGES))
    if unknown:
        raise ImageError(f"No image {', '.join(unknown)}. Remedy: name {' or '.join(IMAGES)}.")
    tag = f"{version('dataplatform')}-{content_digest(root, base)[:12]}"
    return [Image(name, tag) for name in wanted]
