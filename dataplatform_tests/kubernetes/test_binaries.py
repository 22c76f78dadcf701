"""The programs of the node: pinned, built once, and a failure says what to do."""

import os
import re
from pathlib import Path

import pytest

from dataplatform_tests.kubernetes import binaries, node

GO_MOD = Path(binaries.__file__).with_name("programs") / "kubernetes" / "go.mod"


def test_all_of_kubernetes_is_pinned_to_one_release() -> None:
    text = GO_MOD.read_text()
    assert f"require k8s.io/kubernetes v{binaries.KUBERNETES_VERSION}" in text
    staging = re.findall(r"(k8s\.io/\S+) => \1 v(\S+)", text)
    assert len(staging) > 25
    part = binaries.KUBERNETES_VERSION.replace("1.", "0.", 1)
    assert {version for _, version in staging} == {part}


def test_a_test_run_without_root_is_told_why_it_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in node.missing()


@pytest.mark.kubernetes
def test_what_is_built_is_not_built_again() -> None:
    binaries.node_programs()
    told: list[str] = []
    folder = binaries.node_programs(told.append)
    assert told == []
    assert (folder / "debian" / "usr/bin/containerd").exists()


@pytest.mark.kubernetes
def test_a_build_that_fails_says_why_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "folder", lambda: tmp_path / "key")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(binaries.BinariesError, match=r"(?s)etcd .*GOPROXY=off.*Remedy:"):
        binaries.build("etcd", lambda _: None)
    assert not list((tmp_path / "key").glob("*etcd"))
