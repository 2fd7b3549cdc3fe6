"""No log holds a key, a prompt or an answer, and no key is compared but in constant time."""

import ast
import json
import logging
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farebox.errors import Unauthenticated
from farebox.proxy import require_key
from farebox.rest import Request
from farebox.settings import SettingsError, settings_from
from local.child import ROOT
from tests.conftest import LISTENER
from tests.secrecy import Listener, json_lines, secrets_in

PACKAGE = ROOT / "layers" / "farebox" / "farebox"

# Logs.


def fail(cause: Exception, error: Exception) -> None:
    try:
        raise cause
    except type(cause):
        raise error from cause


@pytest.mark.parametrize(
    "leak",
    [
        "the key is local-gateway-key",
        "local-admin-key",
        "sk-or-v1-abc",
        "{'Authorization': 'Bearer x'}",
        "authorization: x",
        '{"content": "Say hello"}',
        "the fare is paid before you ride",
    ],
)
@pytest.mark.parametrize("where", ["message", "argument", "field", "exception", "cause"])
def test_a_log_record_with_a_secret_is_heard_wherever_it_stands(leak: str, where: str) -> None:
    logger = logging.getLogger(f"leaky-{uuid.uuid4().hex}")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    try:
        fail(KeyError(leak if where == "cause" else "x"), ValueError(leak if where == "exception" else "x"))
    except ValueError:
        logger.exception(
            leak if where == "message" else "harmless %s",
            *([] if where == "message" else [leak if where == "argument" else "x"]),
            extra={"fields": {"deep": [leak if where == "field" else "x"]}},
        )
    assert LISTENER.secrets(), "nothing was heard"


def test_what_the_gateway_says_of_keys_is_not_taken_for_one() -> None:
    said = ["Bearer <key>", "Bearer {api_key}", "the header Authorization is missing", "unauthenticated", "key", ""]
    assert secrets_in(said) == []


def test_the_code_in_a_stack_trace_is_no_secret_but_its_message_is() -> None:
    line = json.dumps({"exception": 'File "x"\n    raise Error("Bearer " + key)\nError: Bearer abc'})
    assert len(secrets_in(json_lines(line))) == 1
    assert secrets_in(json_lines(line.replace("Error: Bearer abc", "Error: x"))) == []


LEAKS = """
from aws_lambda_powertools import Logger

def test_one_whose_record_holds_its_key() -> None:
    Logger(service="leaky").info("x", extra={"given": "local-gateway-key"})

def test_one_that_writes_its_key() -> None:
    print('{"a": "local-gateway-key"}')

def test_one_that_does_not() -> None:
    Logger(service="quiet").info("harmless")
"""


def test_a_test_whose_logs_hold_a_secret_fails_and_no_other_one(tmp_path: Path) -> None:
    path = tmp_path / "test_leaks.py"
    path.write_text(LEAKS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    summary = ran.stdout.partition("short test summary")[2]
    assert "test_one_whose_record_holds_its_key" in summary, ran.stdout + ran.stderr
    assert "test_one_that_writes_its_key" in summary
    assert "test_one_that_does_not" not in summary


def test_records_are_looked_at_before_too_many_are_kept() -> None:
    listener = Listener()
    for number in range(3000):
        listener.hear(logging.LogRecord("x", 20, "x", 1, f"sk-or-{number}", (), None))
        assert len(listener._records) <= 1000
    assert len(listener.secrets()) == 3000


# Keys.

KEY_NAMES = {"farebox_gateway_key", "farebox_admin_key", "openrouter_api_key", "api_key", "secret", "digest"}
CODE = sorted([*PACKAGE.glob("*.py"), *(ROOT / "functions").glob("*/*.py")])


def plain_comparisons_of_keys(code: str) -> list[int]:
    """Lines where a key is compared by ==, !=, in, or by a method of texts."""
    found = []
    for node in ast.walk(ast.parse(code)):
        compared: list[ast.AST] = []
        if isinstance(node, ast.Compare) and not all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            compared = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("startswith", "endswith", "find", "index", "count", "fullmatch", "match", "search"):
                compared = [node.func.value, *node.args]
        elif isinstance(node, ast.Match):
            compared = [node.subject]
        names = {getattr(inner, "attr", getattr(inner, "id", None)) for each in compared for inner in ast.walk(each)}
        if names & KEY_NAMES:
            found.append(getattr(node, "lineno", 0))
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_key_is_compared_but_in_constant_time(path: Path) -> None:
    assert plain_comparisons_of_keys(path.read_text()) == []


@pytest.mark.parametrize(
    "code",
    ["key == settings.farebox_gateway_key", "given in (a, s.farebox_admin_key)", "api_key.startswith(given)",
     "given.encode() != secret.encode()", "self.digest == digest(given)"],
)  # fmt: skip
def test_a_plain_comparison_of_a_key_is_found(code: str) -> None:
    assert plain_comparisons_of_keys(code) == [1]


def test_the_two_places_that_decide_about_keys_compare_in_constant_time() -> None:
    calls = [path.name for path in CODE if "compare_digest(" in path.read_text()]
    assert calls == ["keys.py", "proxy.py"]


def asking(key: str) -> Request:
    return Request("r", "GET", "/", {"authorization": key}, "", "", is_base64=False)


@given(st.text(st.characters()) | st.sampled_from(["\ud800", "k" * 1_000_000, "ключ", "the-key\x00", "\u00a0"]))
@example("")
@example("bearer the-ke")
@example("Bearer the-key2")
@example("Basic the-key")
@settings(max_examples=200, deadline=None)
def test_whatever_else_is_given_is_refused_and_not_repeated(given_key: str) -> None:
    for header in (given_key, f"Bearer {given_key}"):
        if header.partition(" ")[2].strip() != "the-key":
            with pytest.raises(Unauthenticated) as refused:
                require_key(asking(header), "the-key", "another")
            assert len(refused.value.message) < 100
            assert len(given_key) < 12 or given_key not in refused.value.message


@pytest.mark.parametrize("key", ["the-key", "another"])
def test_each_of_the_known_keys_opens(key: str) -> None:
    require_key(asking(f"bearer  {key} "), "the-key", "another")


@pytest.mark.parametrize("name", ["FAREBOX_GATEWAY_KEY", "FAREBOX_ADMIN_KEY", "OPENROUTER_API_KEY"])
@pytest.mark.parametrize("key", ["two\nlines", "a\rb", "nul\x00", "schlüssel", "del\x7f"])
def test_a_key_that_no_header_can_carry_ends_the_start_and_is_not_repeated(name: str, key: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings_from({"FAREBOX_GATEWAY_KEY": "a", "FAREBOX_ADMIN_KEY": "b", name: key})
    assert str(error.value).startswith(name)
    assert key not in str(error.value)
