"""The commands that builders get, and what is said where one fails; the builders are scripts."""

import time
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.images import builders
from dataplatform.images.builders import BUILDERS, Build, find_builder
from dataplatform.images.errors import ImageError
from dataplatform.images.host_configuration import build_secrets, index_variables
from dataplatform.images.inputs import EPOCH, Image

IMAGE = Image("spark", "0.1.0-abc")
BUILD = Build(
    IMAGE,
    root=Path("/checkout"),
    base="docker.io/library/python@sha256:00",
    jars=Path("/jars"),
    secrets={"index": Path("/scratch/index")},
)
DIGEST = "sha256:" + "5" * 64


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}")
    monkeypatch.delenv("DATAPLATFORM_IMAGE_BUILDER", raising=False)
    monkeypatch.delenv("DATAPLATFORM_REGISTRY", raising=False)
    return folder


def script(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_build_names_base_jars_and_secrets(name: str) -> None:
    command = BUILDERS[name].build_command(BUILD)
    assert command[0] == name
    assert command[-1] == "/checkout"
    pairs = set(pairwise(command))
    assert {
        ("--file", "/checkout/infra/images/spark/Dockerfile"),
        ("--tag", "localhost/dataplatform-spark:0.1.0-abc"),
        ("--build-arg", "BASE_IMAGE=docker.io/library/python@sha256:00"),
        ("--build-context", "jars=/jars"),
        ("--secret", "id=index,src=/scratch/index"),
    } <= pairs
    assert "--no-cache" not in command
    epoch = {("--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"), ("--timestamp", str(EPOCH))}
    assert epoch & pairs


@pytest.mark.parametrize(
    ("driver", "output"),
    [("docker", "type=docker"), ("docker-container", "type=docker,rewrite-timestamp=true")],
)
def test_dockers_own_builder_is_not_asked_to_rewrite_time_stamps(
    programs: Path, driver: str, output: str
) -> None:
    script(programs, "docker", f"printf 'Name:   one\\nDriver: {driver}\\n'")
    command = BUILDERS["docker"].build_command(BUILD)
    assert ("--output", output) in set(pairwise(command))


def test_the_first_that_works_builds(programs: Path) -> None:
    script(programs, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    script(programs, "buildah", "exit 0")
    assert find_builder().program == "buildah"
    script(programs, "docker", "exit 0")
    assert find_builder().program == "docker"
    assert find_builder("buildah").program == "buildah"


def test_where_none_works_it_is_said_why(programs: Path) -> None:
    script(programs, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    script(programs, "podman", "exit 3")
    with pytest.raises(ImageError) as raised:
        find_builder()
    said = str(raised.value)
    assert (
        "docker: Cannot connect to the Docker daemon; podman: fails; buildah: not installed" in said
    )
    assert "Remedy: start Docker, or install podman or buildah." in said
    with pytest.raises(ImageError, match="No builder kaniko"):
        find_builder("kaniko")


def test_a_docker_without_buildx_is_passed_over(programs: Path) -> None:
    script(programs, "docker", '[ "$1" = info ]')
    with pytest.raises(ImageError, match="docker: has no buildx"):
        find_builder("docker")


def test_a_failed_build_shows_its_last_lines(programs: Path) -> None:
    script(
        programs, "buildah", "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; done; exit 1"
    )
    told: list[str] = []
    with pytest.raises(ImageError) as raised:
        builders.build(BUILDERS["buildah"], BUILD, told.append)
    assert len(told) == 40
    assert "spark could not be built:\nline 26\n" in str(raised.value)
    assert "line 40\nRemedy: see docs/images.md#when-it-fails" in str(raised.value)


def test_buildah_writes_the_digest_into_a_file(programs: Path) -> None:
    script(programs, "buildah", f'echo {DIGEST} > "$3"; echo "$@"')
    told: list[str] = []
    pushed = builders.push(BUILDERS["buildah"], IMAGE, "node:30500", told.append, insecure=True)
    assert pushed == DIGEST
    assert told[0].endswith(f"--tls-verify=false {IMAGE.local} docker://{IMAGE.at('node:30500')}")


def test_docker_prints_the_digest(programs: Path) -> None:
    script(programs, "docker", f'[ "$1" = tag ] || echo "0.1.0-abc: digest: {DIGEST} size: 1"')
    told: list[str] = []
    pushed = builders.push(BUILDERS["docker"], IMAGE, "node:30500", told.append, insecure=False)
    assert pushed == DIGEST


def test_a_registry_has_to_be_named(programs: Path) -> None:
    result = CliRunner().invoke(app, ["images", "push"])
    assert result.exit_code == 1
    assert "DATAPLATFORM_REGISTRY" in result.stderr


def test_the_names_can_be_listed_without_a_builder(programs: Path) -> None:
    result = CliRunner().invoke(app, ["images", "list", "--registry", "node:30500"])
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines() if "node:30500" in line]
    assert [(row[0], row[-1]) for row in rows] == [("dagster", "no"), ("spark", "no")]


def test_what_is_built_is_not_built_again(programs: Path) -> None:
    script(programs, "buildah", '[ "$1" != build ] || exit 1; echo "1 GB"')
    result = CliRunner().invoke(app, ["images", "build", "dagster"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("localhost/dataplatform-dagster:0.1.0-")
    assert "pinned" not in result.stderr


def test_a_base_without_a_digest_is_warned_of(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(programs, "buildah", '[ "$1" != images ]')
    monkeypatch.setattr("dataplatform.cli.images._jars", lambda folder: folder)
    floating = CliRunner().invoke(app, ["images", "build", "spark", "--base", "python:3.11"])
    assert floating.exit_code == 0, floating.output
    assert "python:3.11 is not pinned by its digest" in floating.stderr
    pinned = CliRunner().invoke(app, ["images", "build", "spark", "--base", f"python@{DIGEST}"])
    assert "not pinned" not in pinned.stderr


@pytest.mark.parametrize(
    ("builder", "program"), [("docker", "docker"), ("podman", "skopeo"), ("buildah", "skopeo")]
)
def test_the_digest_of_the_base_is_asked_for(programs: Path, builder: str, program: str) -> None:
    script(
        programs,
        program,
        f'case "$*" in *registry:5000/python:3.11) echo {DIGEST};; *) exit 1; esac',
    )
    assert builders.pinned(BUILDERS[builder], "registry:5000/python:3.11") == (
        f"registry:5000/python@{DIGEST}"
    )
    for unknown in ("python:3.12", "localhost/python:3.11", f"python@{DIGEST}"):
        assert builders.pinned(BUILDERS[builder], unknown) == unknown


def test_a_registry_that_does_not_answer_is_not_waited_for(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "_REGISTRY_SECONDS", 0.5)
    script(programs, "skopeo", "exec /bin/sleep 60")
    script(programs, "buildah", "echo '1 GB'")
    began = time.monotonic()
    listed = CliRunner().invoke(app, ["images", "list", "--registry", "node:30500"])
    assert listed.exit_code == 0, listed.output
    assert "node:30500" in listed.stdout
    assert time.monotonic() - began < 30


def test_a_base_that_has_moved_gives_images_of_another_name(programs: Path) -> None:
    script(programs, "buildah", "echo '1 GB'")
    names = []
    for digit in "12":
        script(programs, "skopeo", f"echo sha256:{digit * 64}")
        built = CliRunner().invoke(app, ["images", "build", "dagster"])
        names.append(built.stdout)
        listed = CliRunner().invoke(app, ["images", "list"])
        assert built.stdout.strip() in listed.stdout
    assert names[0] != names[1]


def test_a_base_of_unknown_digest_is_pushed_only_where_that_is_asked_for(programs: Path) -> None:
    script(programs, "buildah", f'[ "$1" != push ] || echo {DIGEST} > "$3"; echo "1 GB"')
    push = ["images", "push", "dagster", "--registry", "node:30500"]
    refused = CliRunner().invoke(app, push)
    assert refused.exit_code == 1
    assert "has no digest" in refused.stderr
    assert "--floating-base" in refused.stderr
    assert CliRunner().invoke(app, [*push, "--floating-base"]).exit_code == 0
    script(programs, "skopeo", f"echo {DIGEST}")
    pushed = CliRunner().invoke(app, push)
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.strip().endswith(f"@{DIGEST}")


def test_uv_and_pip_ask_in_a_build_whom_they_ask_here() -> None:
    pip = {"index-url": "https://pip.example.org/simple", "extra-index-url": "https://a  https://b"}
    assert index_variables({}, pip) == {
        "PIP_INDEX_URL": "https://pip.example.org/simple",
        "UV_DEFAULT_INDEX": "https://pip.example.org/simple",
        "PIP_EXTRA_INDEX_URL": "https://a https://b",
        "UV_INDEX": "https://a https://b",
    }
    environ = {
        "UV_DEFAULT_INDEX": "https://uv.example.org",
        "UV_INDEX_TEAM_PASSWORD": "secret",
        "https_proxy": "http://proxy:3128",
        "UV_CACHE_DIR": "/home/somebody",
        "AWS_SECRET_ACCESS_KEY": "another",
    }
    assert index_variables(environ, {"find-links": "/opt/wheels"}) == {
        "UV_DEFAULT_INDEX": "https://uv.example.org",
        "UV_INDEX_TEAM_PASSWORD": "secret",
        "https_proxy": "http://proxy:3128",
    }


def test_secrets_are_files_that_only_their_owner_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = tmp_path / "ca.crt"
    authorities.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:it's@pip.example.org/simple")
    secrets = build_secrets(tmp_path)
    assert secrets["ca"] == authorities
    assert secrets["index"].stat().st_mode & 0o777 == 0o600
    quoted = "'https://user:it'\"'\"'s@pip.example.org/simple'"
    assert f"PIP_INDEX_URL={quoted}" in secrets["index"].read_text()
