"""Compare a folder of jars with the pins of dataplatform/versions.py: these and no others.

Run inside the build, without the package:
    python3 verify_jars.py versions.py FOLDER
"""

import hashlib
import runpy
import sys
from pathlib import Path


def main(versions: str, folder: Path) -> None:
    """End with an error unless the folder holds just the pinned jars; make them readable to all."""
    pins = runpy.run_path(versions)
    pinned = {
        "-".join(coordinate.split(":")[1:]) + ".jar": digest
        for coordinate, digest in (pins["SPARK_JARS"] | pins["S3_JARS"]).items()
    }
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.iterdir()}
    if found != pinned:
        different = sorted({name for name, _ in found.items() ^ pinned.items()})
        sys.exit(f"Not the pinned jars: {', '.join(different)}")
    for jar in folder.iterdir():
        jar.chmod(0o644)
    lines = (f"{digest}  {name}\n" for name, digest in sorted(pinned.items()))
    (folder / "pinned.sha256").write_text("".join(lines))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
