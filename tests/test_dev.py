"""`make dev`'s program as a process: what it prints works, a mistake is one sentence, and it leaves nothing behind."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.child import ROOT
from local.simulator import Simulator
from local.sockets import Server
from tests.overheard import require_no_secret

PROC = Path("/proc")
PATIENCE_S = 30
KEY = {"Authorization": "Bearer local-gateway-key"}
HELLO = {"messages": [{"role": "user", "content": "Say hello"}]}
needs_proc = pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="processes are counted through /proc")


def environment(**settings: str) -> dict[str, str]:
    """Of somebody who has set nothing but this."""
    kept = {name: value for name in ("PATH", "HOME", "LANG", "TMPDIR") if (value := os.environ.get(name)) is not None}
    return {**kept, "PYTHONPATH": f"{ROOT / 'layers/farebox'}:{ROOT}", "PORT": "0", **settings}


def start(**settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "local.dev"],
        cwd=ROOT,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that has said where it is."""

    process: subprocess.Popen[str]
    welcome: str

    @property
    def url(self) -> str:
        return next(word for word in self.welcome.split() if word.startswith("http")).removesuffix("/api/v1")

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal and wait; the exit code, and what it said on stderr."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err

    def spent(self) -> Any:
        return httpx.get(f"{self.url}/api/usage/default", headers=KEY).json()["daily"]["spent_usd"]

    def chat(self, **members: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/api/v1/chat/completions", headers=KEY, json={**HELLO, **members})


@contextmanager
def running(**settings: str) -> Iterator[Running]:
    process = start(**settings)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("  -d "):
                break
        else:
            _, err = process.communicate(timeout=PATIENCE_S)
            pytest.fail(f"it did not start: {err}")
        yield Running(process, "".join(lines))
    finally:
        process.kill()
        out, err = process.communicate(timeout=PATIENCE_S)
    require_no_secret("".join(lines) + out)
    require_no_secret(err)


# What it says.


def test_the_curl_that_it_prints_works_as_it_stands() -> None:
    with running() as gateway:
        assert "Ctrl-C ends it" in gateway.welcome
        command = gateway.welcome[gateway.welcome.index("curl ") :].replace("\\\n", " ")
        words = shlex.split(command)
        assert words[0] == "curl"
        if shutil.which("curl") is None:
            pytest.skip("there is no curl here")
        answer = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
        head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
        assert head.startswith("HTTP/1.1 200 ")
        assert "\nX-Farebox-Cost-Usd: 0." in head
        said = json.loads(body)
        assert said["choices"][0]["message"]["content"]
        assert gateway.spent() == said["usage"]["cost"] > 0


def test_what_it_needs_no_setting_for_works() -> None:
    with running() as gateway:
        assert httpx.get(f"{gateway.url}/api/health").json() == {"status": "ok"}
        assert gateway.chat().json()["model"] == "sim/ok"
        assert httpx.get(f"{gateway.url}/api/v1/models", headers=KEY).json()["data"]
        outside = httpx.post(f"{gateway.url}/v1/chat/completions", headers=KEY, json=HELLO)
        assert (outside.status_code, outside.json()["error"]["message"]) == (404, "the base URL ends in /api/v1")


def test_settings_are_obeyed() -> None:
    settings = {
        "FAREBOX_GATEWAY_KEY": "mine",
        "TENANT_BUDGETS": '{"poor": {"daily": 0, "monthly": 1}}',
        "DEFAULT_DAILY_BUDGET": "0.5",
        "FAREBOX_TIME_ZONE": "Asia/Kolkata",
    }
    with running(**settings) as gateway:
        assert '"default" may spend 0.5 USD a day' in gateway.welcome
        assert "Bearer mine" in gateway.welcome
        assert gateway.chat().status_code == 401
        mine = {"Authorization": "Bearer mine"}
        poor = httpx.post(f"{gateway.url}/api/v1/chat/completions", headers={**mine, "X-Tenant-Id": "poor"}, json=HELLO)
        assert (poor.status_code, poor.json()["error"]["metadata"]["reason"]) == (429, "budget_exhausted")
        usage = httpx.get(f"{gateway.url}/api/usage/default", headers=mine).json()
        assert (usage["time_zone"], usage["daily"]["limit_usd"]) == ("Asia/Kolkata", 0.5)


# What is wrong.

WRONG = {
    "a port that is no number": ({"PORT": "http"}, "PORT must be a number from 0 to 65535, not 'http'"),
    "a port that is too large": ({"PORT": "70000"}, "PORT must be a number from 0 to 65535, not '70000'"),
    "a negative port": ({"PORT": "-1"}, "PORT must be a number from 0 to 65535, not '-1'"),
    "a port of too many digits": ({"PORT": "9" * 5000}, "PORT must be a number from 0 to 65535"),
    "budgets that are not JSON": ({"TENANT_BUDGETS": "acme=5"}, "TENANT_BUDGETS: must be JSON like"),
    "budgets that are a list": ({"TENANT_BUDGETS": "[]"}, "TENANT_BUDGETS: must be a JSON object like"),
    "a budget that is a number": ({"TENANT_BUDGETS": '{"acme": 5}'}, "TENANT_BUDGETS[acme]"),
    "a negative budget of a tenant": (
        {"TENANT_BUDGETS": '{"acme": {"daily": -5}}'},
        "TENANT_BUDGETS[acme][daily]: must be US dollars from 0 to 10,000,000, not -5",
    ),
    "a misspelled budget": ({"TENANT_BUDGETS": '{"acme": {"dayly": 5}}'}, "TENANT_BUDGETS[acme][dayly]"),
    "a name that no tenant can have": (
        {"TENANT_BUDGETS": '{"a b": {"daily": 5}}'},
        'TENANT_BUDGETS: the tenant "a b" must be',
    ),
    "a negative default": ({"DEFAULT_DAILY_BUDGET": "-1"}, "DEFAULT_DAILY_BUDGET: must be US dollars"),
    "a default that is no number": ({"DEFAULT_MONTHLY_BUDGET": "lots"}, "DEFAULT_MONTHLY_BUDGET: must be US dollars"),
    "a budget of NaN": ({"DEFAULT_DAILY_BUDGET": "NaN"}, "DEFAULT_DAILY_BUDGET: must be US dollars"),
    "an unknown time zone": ({"FAREBOX_TIME_ZONE": "Mars/Olympus"}, "FAREBOX_TIME_ZONE must be a zone like"),
    "downgrade rules that lead in a circle": (
        {"FAREBOX_DOWNGRADE_RULES": '[{"from": "sim/ok", "to": "sim/cent"}, {"from": "sim/cent", "to": "sim/ok"}]'},
        "FAREBOX_DOWNGRADE_RULES: the rules lead in a circle: sim/cent -> sim/ok -> sim/cent",
    ),
    "a downgrade to a model without a price": (
        {"FAREBOX_DOWNGRADE_RULES": '[{"from": "*", "to": "no/such"}]'},
        "FALLBACK_MODEL_CHAIN or FAREBOX_DOWNGRADE_RULES: no/such is not in the catalogue",
    ),
    "a fallback of a tenant without a price": (
        {"TENANT_BUDGETS": '{"acme": {"fallback": ["sim/ok", "no/such"]}}'},
        "TENANT_BUDGETS[acme]: no/such is not in the catalogue",
    ),
    "a primary model without a price": ({"PRIMARY_MODEL": "no/such"}, "PRIMARY_MODEL: no/such is not in the catalogue"),
    "an upstream that is no URL": ({"OPENROUTER_BASE_URL": "openrouter.ai"}, "OPENROUTER_BASE_URL must be a URL like"),
}


def assert_one_sentence(process: subprocess.Popen[str], sentence: str) -> None:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode not in (0, None)
    assert out == ""
    assert err.startswith(f"farebox: {sentence}")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert len(err) < 400
    require_no_secret(err)


def test_a_wrong_setting_ends_it_with_one_clear_sentence() -> None:
    names = list(WRONG)
    while names:  # a few at a time: most of it is starting Python
        batch = [(name, start(**WRONG[name][0])) for name in names[:4]]
        names = names[4:]
        with ExitStack() as stack:
            for _, process in batch:
                stack.callback(process.communicate, timeout=PATIENCE_S)
                stack.callback(process.kill)
            for name, process in batch:
                try:
                    assert_one_sentence(process, WRONG[name][1])
                except AssertionError as e:
                    e.add_note(name)
                    raise


def test_a_busy_port_ends_it_with_one_clear_sentence() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert_one_sentence(
            start(PORT=str(port)),
            f"port {port} cannot be used (Address already in use); name another one: PORT={port + 1} make dev",
        )


# How it ends.


def descendants(pid: int) -> set[int]:
    """All processes that a process has started, and theirs."""
    parents: dict[int, int] = {}
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has ended meanwhile
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found, level = set[int](), {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level} - found
        found |= level
    return found


def is_running(pid: int) -> bool:
    try:
        return (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], bool]) -> None:
    """Ask until it is so, for a bounded time."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_everything_that_it_started(number: signal.Signals) -> None:
    with running() as gateway:
        children = descendants(gateway.process.pid)
        assert children
        assert gateway.chat().status_code == 200
        code, err = gateway.end(number)
        assert (code, err) == (0, "")
        assert [child for child in children if is_running(child)] == []


@needs_proc
def test_being_killed_leaves_nothing_behind() -> None:
    with running() as gateway:
        children = descendants(gateway.process.pid)
        assert children
        gateway.end(signal.SIGKILL)
        wait_for(lambda: not any(is_running(child) for child in children))


def test_ending_it_settles_the_call_in_flight() -> None:
    simulator = Simulator()
    with Server(simulator.handle) as upstream:
        named = {"OPENROUTER_BASE_URL": f"{upstream.url}/api/v1", "OPENROUTER_API_KEY": "simulated"}
        call = {"model": "sim/pad", "stream": True, **HELLO}
        with (
            running(**named) as gateway,
            httpx.stream("POST", f"{gateway.url}/api/v1/chat/completions", headers=KEY, json=call) as response,
        ):
            chunks = response.iter_raw()
            assert next(chunks).startswith(b":")
            gateway.process.send_signal(signal.SIGTERM)
            assert b"[DONE]" in b"".join(chunks)
            gateway.process.wait(timeout=PATIENCE_S)
            assert gateway.process.returncode == 0
    (generation,) = simulator.generations
    assert not generation.cancelled


# Where it listens, and whom it calls.


def listening(pid: int) -> set[str]:
    """The local addresses, as the kernel writes them, on which a process listens."""
    inodes = {str(fd.readlink()) for fd in (PROC / f"{pid}/fd").iterdir() if fd.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        path = PROC / f"{pid}/net/{table}"
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                found.add(local.split(":")[0])
    return found


@needs_proc
def test_it_listens_on_this_machine_only() -> None:
    loopback = {socket.inet_aton("127.0.0.1")[::-1].hex().upper() if sys.byteorder == "little" else "7F000001"}
    with running() as gateway:
        for pid in {gateway.process.pid, *descendants(gateway.process.pid)}:
            assert listening(pid) <= loopback
        assert listening(gateway.process.pid) == loopback


def test_it_calls_the_upstream_that_is_named_instead_of_the_simulator() -> None:
    simulator = Simulator(api_key="sk-or-v1-mine")
    with Server(simulator.handle) as upstream:
        url = f"{upstream.url}/api/v1"
        with running(OPENROUTER_BASE_URL=url, OPENROUTER_API_KEY="sk-or-v1-mine") as gateway:
            assert url in gateway.welcome
            assert "sk-or-v1-mine" not in gateway.welcome
            assert '"model": "openai/gpt-4o-mini"' in gateway.welcome
            answered = gateway.chat(model="openai/gpt-4o-mini")
            assert answered.status_code == 200
            assert gateway.spent() == answered.json()["usage"]["cost"] == simulator.billed_nanousd / 1e9


def test_every_start_has_books_of_its_own() -> None:
    with running() as first:
        cost = first.chat().json()["usage"]["cost"]
        with running() as second:
            assert second.spent() == 0
            second.chat()
            assert second.spent() == first.spent() == cost > 0


def test_credentials_and_endpoints_of_a_real_account_are_not_used() -> None:
    real = {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_SESSION_TOKEN": "a-token",
        "AWS_PROFILE": "production",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:9",
        "AWS_USE_FIPS_ENDPOINT": "false",
    }
    with running(**real) as gateway:
        assert gateway.chat().status_code == 200


def test_a_proxy_is_not_asked_for_what_is_on_this_machine() -> None:
    """Many work machines have one set; it knows nothing of our 127.0.0.1."""
    dead = "http://127.0.0.1:9"
    with running(HTTP_PROXY=dead, http_proxy=dead, HTTPS_PROXY=dead, ALL_PROXY=dead) as gateway:
        answered = httpx.post(
            f"{gateway.url}/api/v1/chat/completions", headers=KEY, json={"model": "sim/ok", **HELLO}, trust_env=False
        )
        assert answered.status_code == 200
