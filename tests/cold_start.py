"""A function's handler as Lambda loads it: anew, with nothing but an environment."""

import importlib.util
from collections.abc import Mapping
from types import ModuleType

import pytest

from local.child import ROOT


def cold_start(
    monkeypatch: pytest.MonkeyPatch, function: str, store_url: str, environment: Mapping[str, str]
) -> ModuleType:
    """With an environment, and a store at a URL."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    aws = {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_DYNAMODB": store_url,
    }
    for name, value in {**aws, **environment}.items():
        monkeypatch.setenv(name, value)
    return loaded(function)


def loaded(function: str) -> ModuleType:
    """functions/<function>/handler.py, with the environment as it is."""
    path = ROOT / "functions" / function / "handler.py"
    spec = importlib.util.spec_from_file_location(f"cold_start_of_{function}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
