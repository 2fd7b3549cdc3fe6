"""`make audit`: a known vulnerability fails, and what could not be looked up is never taken for harmless."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.audit import LOCK, PIN
from local.child import ROOT
from local.sockets import HttpRequest, HttpResponse, Server

HASH = f"    --hash=sha256:{'0' * 64}\n"
TWO = f"alpha==1.0 \\\n{HASH}beta==2.1 \\\n{HASH}"
BAD = {
    "id": "GHSA-1",
    "aliases": ["CVE-2026-1"],
    "summary": "Remote code execution",
    "affected": [
        {
            "package": {"name": "beta", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.2"}]}],
        }
    ],
}


class Advisories:
    """Stands in for OSV: what is asked is kept, and the answer is the test's."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.known: dict[str, Any] = {}
        self.status = 200
        self.other: bytes | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def handle(self, request: HttpRequest) -> HttpResponse:
        said = json.loads(request.body)
        name = said["package"]["name"]
        self.asked.append((name, said["version"]))
        self.go_on.wait(60)
        vulns = {"vulns": [self.known[name]]} if name in self.known else {}
        body = json.dumps(vulns).encode() if self.other is None else self.other
        return HttpResponse(self.status, (("Content-Type", "application/json"),), (body,))


@pytest.fixture
def advisories() -> Advisories:
    return Advisories()


@pytest.fixture
def url(advisories: Advisories) -> Iterator[str]:
    with Server(advisories.handle) as server:
        yield f"{server.url}/v1/query"
        advisories.go_on.set()


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command, with the lock of two packages unless another one is given."""

    def ran(url: str, *more: str, lock: str | Path = TWO) -> subprocess.CompletedProcess[str]:
        path = lock
        if isinstance(lock, str):
            path = tmp_path / "some.lock"
            path.write_text(lock)
        command = [sys.executable, "-m", "local.audit", "--lock", str(path), "--osv-url", url, *more]
        direct = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return subprocess.run(command, cwd=ROOT, env=direct, capture_output=True, text=True, check=False, timeout=120)

    return ran


def test_packages_without_known_vulnerabilities_pass_and_each_was_asked_about(
    url: str, advisories: Advisories, run: Run
) -> None:
    ran = run(url)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("known vulnerabilities: 0, in 2 of 2 pinned packages")
    assert sorted(advisories.asked) == [("alpha", "1.0"), ("beta", "2.1")]


def test_a_known_vulnerability_fails_and_is_told_with_its_names_and_its_fix(
    url: str, advisories: Advisories, run: Run
) -> None:
    advisories.known["beta"] = BAD
    ran = run(url)
    assert ran.returncode == 1
    told, summary = ran.stdout.splitlines()
    assert told.startswith("beta 2.1: ")
    assert told.endswith(" (fixed in 2.2)")
    assert {"CVE-2026-1", "GHSA-1"} <= set(told.replace(",", " ").split())
    assert summary.startswith("known vulnerabilities: 1, in 2 of 2 ")


def test_every_pin_of_the_lock_that_is_for_this_machine_is_asked_about(
    url: str, advisories: Advisories, run: Run
) -> None:
    assert run(url, lock=LOCK).returncode == 0
    pins = [line for line in LOCK.read_text().splitlines() if PIN.match(line)]
    everywhere = {tuple(line.split()[0].split("==")) for line in pins if ";" not in line}
    assert everywhere <= set(advisories.asked)
    assert len(advisories.asked) <= len(pins)


def test_the_lock_of_what_runs_on_lambda_has_no_pins_for_some_machines_only() -> None:
    assert ";" not in (ROOT / "layers/dependencies/requirements.txt").read_text()


def not_audited(ran: subprocess.CompletedProcess[str]) -> bool:
    return (
        ran.stdout == ""
        and ran.stderr.startswith("NOT AUDITED: ")
        and ran.stderr.endswith("; this run says nothing about known vulnerabilities\n")
        and ran.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(("more", "code"), [((), 0), (("--required",), 1)], ids=["by-default", "required"])
def test_where_nobody_answers_it_says_that_nothing_was_audited_and_fails_only_when_that_is_required(
    more: tuple[str, ...], code: int, run: Run
) -> None:
    with socket.socket() as closed:  # bound, and never listening
        closed.bind(("127.0.0.1", 0))
        ran = run(f"http://127.0.0.1:{closed.getsockname()[1]}/v1/query", *more)
    assert not_audited(ran), ran.stderr
    assert ran.returncode == code


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_service_that_answers_with_an_error_has_audited_nothing(
    status: int, url: str, advisories: Advisories, run: Run
) -> None:
    advisories.status = status
    ran = run(url)
    assert not_audited(ran), ran.stderr
    assert ran.returncode == 0


def test_a_service_that_is_silent_is_given_up(url: str, advisories: Advisories, run: Run) -> None:
    advisories.go_on.clear()
    ran = run(url, "--seconds", "2", "--required")
    assert not_audited(ran), ran.stderr
    assert ran.returncode == 1


BROKEN = {
    "a pin without a hash": "alpha==1.0\n",
    "no version": f"alpha \\\n{HASH}",
    "no packages": "",
    "a version that is none": f"alpha==one.two \\\n{HASH}",
    "two versions of one package": f"alpha==1.0 \\\n{HASH}alpha==1.1 \\\n{HASH}",
    "an address instead of a version": f"alpha @ https://example.invalid/alpha-1.0.tar.gz \\\n{HASH}",
}


@pytest.mark.parametrize("lock", BROKEN.values(), ids=BROKEN)
def test_a_lock_that_cannot_be_audited_fails(lock: str, url: str, run: Run) -> None:
    ran = run(url, lock=lock)
    assert ran.returncode == 1
    assert ran.stderr.startswith("audit: ")
    assert "NOT AUDITED" not in ran.stderr


def test_a_lock_that_is_not_there_fails(tmp_path: Path, url: str, run: Run) -> None:
    ran = run(url, lock=tmp_path / "none")
    assert (ran.returncode, ran.stderr.startswith("audit: ")) == (1, True)


def test_an_answer_that_is_no_advisory_fails(url: str, advisories: Advisories, run: Run) -> None:
    advisories.other = b"<html>Welcome to the hotel's network</html>"
    ran = run(url)
    assert (ran.returncode, ran.stderr.startswith("audit: ")) == (1, True)


def planned(*words: str) -> list[str]:
    """What make would run, of the audit."""
    ran = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in ran.stdout.splitlines() if "local.audit" in line]


def test_make_check_audits_and_only_a_release_requires_an_answer() -> None:
    assert [line.endswith("--required") for line in planned("check")] == [False]
    assert [line.endswith("--required") for line in planned("audit", "AUDIT=required")] == [True]
    assert [line.endswith("--required") for line in planned("check", "AUDIT=required")] == [True]
