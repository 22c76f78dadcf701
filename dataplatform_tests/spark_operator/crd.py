"""The CRD of spark-operator 2.5.2 as a JSON schema that knows no field but those it names."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

CRD = (
    Path(__file__).parents[1]
    / "kubernetes/data/spark-operator/sparkoperator.k8s.io_sparkapplications.yaml"
)


@cache
def validator() -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    version = yaml.load(CRD.read_text(), loader)["spec"]["versions"][0]  # noqa: S506
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(_strict(schema))


def problems(manifest: dict[str, Any]) -> list[str]:
    """Return what a strict API server would say against a manifest."""
    return [
        f"{error.json_path}: {error.message[:300]}" for error in validator().iter_errors(manifest)
    ]


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if strict.pop("x-kubernetes-int-or-string", False) is True:
        strict.pop("anyOf", None)
        strict["type"] = ["integer", "string"]
    keeps = strict.get("x-kubernetes-preserve-unknown-fields") is True
    if strict.get("type") == "object" and "properties" in strict and not keeps:
        strict.setdefault("additionalProperties", False)
    return strict
