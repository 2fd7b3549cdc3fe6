"""Every command in the README is run, and answers as the README shows it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.child import ROOT
from tests.overheard import Overheard, require_no_secret

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^```sh\n(.*?)^```(?:\n\n```http\n(.*?)^```)?", README, re.MULTILINE | re.DOTALL)
STARTS = [command for command, _ in COMMANDS if "make dev" in command]
CALLS = [(command, shown) for command, shown in COMMANDS if command.startswith("curl")]
SESSIONS = [command for command, _ in COMMANDS if command.startswith("farebox ")]
TABLE = re.findall(r"^\| `make ([a-z-]+)` \|", README, re.MULTILINE)


@contextmanager
def make_dev(command: str) -> Iterator[str]:
    """A command of the README that starts the gateway, on a free port; the base that its URLs begin with."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec env PORT=0 {command}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    overheard = Overheard(process.stdout)
    try:
        yield overheard.line("Farebox is at ", 60).split()[3].removesuffix("/api/v1")
    finally:
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C: make and what it runs
        process.wait(30)
        printed = overheard.close(30)
    require_no_secret(printed)


def shape(value: object) -> object:
    """Keys and types, without the values that differ from run to run."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return "number" if isinstance(value, int | float) else type(value).__name__


def parts(answer: str) -> tuple[str, list[str], str]:
    """Status line, names of headers, body."""
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    status, *headers = head.split("\n")
    own = [header.split(":")[0] for header in headers if not header.lower().startswith(("date", "content-length"))]
    return status, own, body.strip()


def test_the_readme_has_the_commands_that_it_promises() -> None:
    assert len(STARTS) == 2
    assert len(CALLS) == 6
    assert len(SESSIONS) == 1
    others = [command for command, _ in COMMANDS if command not in STARTS + SESSIONS + [call for call, _ in CALLS]]
    assert others == ["sam build\nsam deploy --guided\n"]  # run by test_deploy.py


@pytest.mark.parametrize(
    ("command", "shown"), CALLS, ids=["answered", "refused", "usage", "usage-by-model", "quote", "tenant"]
)
def test_a_curl_of_the_readme_answers_as_shown(command: str, shown: str) -> None:
    start = STARTS[1] if "acme" in command else STARTS[0]
    with make_dev(start) as base:
        ran = subprocess.run(
            ["bash", "-c", command.replace("http://127.0.0.1:8787", base).replace("curl ", "curl -sS ", 1)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    if not shown:
        assert json.loads(ran.stdout)["tenant"] == "default"
        return
    status, headers, body = parts(ran.stdout)
    shown_status, shown_headers, shown_body = parts(shown)
    assert (status, headers) == (shown_status, shown_headers)
    if shown_body.endswith(", ...}"):
        said = json.loads(body)
        assert said["usage"]["cost"] > 0
        assert list(said)[:3] == list(json.loads(shown_body.removesuffix(", ...}") + "}"))
    else:
        assert shape(json.loads(body)) == shape(json.loads(shown_body))


def test_the_command_line_of_the_readme_works_as_it_is_typed(tmp_path: Path) -> None:
    """The first line installs what `pip install` would: a program named farebox."""
    program = tmp_path / "farebox"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m farebox "$@"\n')
    program.chmod(0o700)
    with make_dev(STARTS[0]) as base:
        ran = subprocess.run(
            ["bash", "-euc", SESSIONS[0].replace("http://127.0.0.1:8787", base)],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PORT": base.rpartition(":")[2]},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert ran.stderr.count("\n") == 1
    assert re.search(r"^farebox: key \w+ of tenant acme; it is shown this once$", ran.stderr, re.MULTILINE)
    for line in ("daily         5  (tenant)", "daily         2.5  (tenant)", "outcome     as_asked"):
        assert re.search(rf"^{re.escape(line)} *$", ran.stdout, re.MULTILINE), ran.stdout
    cost = re.search(r'"cost":([0-9.e-]+)', ran.stdout)
    assert cost is not None
    exact = f"{float(cost[1]):.12f}".rstrip("0")
    assert ran.stdout.count(f" {exact} ") >= 4  # both windows, the day's bar, and the last calls


@pytest.mark.parametrize("target", TABLE)
def test_make_knows_the_targets_of_the_readme(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_make_alone_lists_the_targets_of_the_readme() -> None:
    ran = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert sorted(re.findall(r"^  make ([a-z-]+)", ran.stdout, re.MULTILINE)) == sorted(TABLE)
