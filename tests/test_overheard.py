"""What processes print that tests start is looked through as logs are, and a gateway that leaks fails its test."""

import asyncio
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from local.child import ROOT
from tests.adversary.farebox import started
from tests.conftest import new_table
from tests.kills import _town
from tests.lambda_sandbox import build_root, sandbox, unavailable, wrapper
from tests.overheard import Leak, Overheard, require_no_secret
from tests.race import _process
from tests.test_dev import running
from tests.test_readme import make_dev

WELCOME = """
Farebox is at http://127.0.0.1:1/api/v1 and calls http://127.0.0.1:2/api/v1
Tenant "default" may spend 10 USD a day and 100 USD a month. Ctrl-C ends it. Try:

curl -i http://127.0.0.1:1/api/v1/chat/completions \\
  -H 'Authorization: Bearer local-gateway-key' -H 'X-Tenant-Id: default' \\
  -d '{"model": "sim/ok", "messages": [{"role": "user", "content": "Say hello"}]}'
"""


def test_the_call_that_make_dev_shows_is_no_leak_once() -> None:
    require_no_secret(WELCOME)
    with pytest.raises(Leak):
        require_no_secret(WELCOME + WELCOME)


@pytest.mark.parametrize(
    "line",
    [
        "local-gateway-key",
        "farebox: the sweep failed: local-admin-key",
        "-H 'Authorization: Bearer local-gateway-key'",
        '{"level": "INFO", "message": "call", "prompt": "Say hello"}',
        "[ERROR] 2026-11-24T12:00:00Z the fare is paid before you ride",
        "LookupError: sk-or-v1-abc",
    ],
)
def test_a_secret_in_any_other_line_is_a_leak(line: str) -> None:
    with pytest.raises(Leak):
        require_no_secret(f"{WELCOME}{line}\n")


def test_the_code_in_a_stack_trace_is_no_leak_but_its_message_is() -> None:
    try:
        dict[str, int]()["a bug"]  # the key is local-gateway-key
    except KeyError:
        trace = traceback.format_exc()
    assert "local-gateway-key" in trace
    require_no_secret(trace)
    with pytest.raises(Leak):
        require_no_secret(trace.replace("a bug", "Say hello"))


def overheard(code: str) -> tuple[subprocess.Popen[str], Overheard]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    return process, Overheard(process.stdout)


def test_a_process_that_prints_more_than_a_pipe_holds_ends_and_all_of_it_is_kept() -> None:
    process, heard = overheard("for n in range(20000): print('line', n, flush=n == 0)")
    assert heard.line("line 0", 30) == "line 0\n"
    assert process.wait(30) == 0
    assert heard.close(30).splitlines()[-1] == "line 19999"


def test_a_process_that_never_says_the_word_is_an_error_with_what_it_said() -> None:
    process, heard = overheard("raise SystemExit('no such thing')")
    with pytest.raises(RuntimeError, match="no such thing"):
        heard.line("Farebox is at ", 30)
    process.wait(30)
    heard.close(30)


# Whoever starts one. The leak is the key in an address that is printed.

LEAKY = "http://127.0.0.1:9/local-admin-key"
SETTINGS = {"PORT": "0", "OPENROUTER_BASE_URL": LEAKY, "OPENROUTER_API_KEY": "simulated"}


def killed(store_url: str) -> None:
    async def lived() -> None:
        async with _town(store_url, LEAKY, new_table(store_url)) as town:
            await town.start(0)
            await town.kill(0)

    asyncio.run(lived())


STARTS: dict[str, Callable[[str], None]] = {
    "race": lambda _: end(_process(["local.dev"], SETTINGS, starts_with="Farebox is at ")),
    "adversary": lambda _: end(started("http://127.0.0.1:9", 10**9, SETTINGS)),
    "make dev": lambda _: end(make_dev(f"OPENROUTER_API_KEY=x OPENROUTER_BASE_URL={LEAKY} make dev")),
    "its program": lambda _: end(running(**SETTINGS)),
    "kills": killed,
}


def end(block: AbstractContextManager[object]) -> None:
    with block:
        pass


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_gateway_that_prints_a_key_fails_the_test_that_started_it(
    start: Callable[[str], None], embedded_url: str
) -> None:
    with pytest.raises(Leak):
        start(embedded_url)


@pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
def test_a_function_that_logs_a_key_fails_the_test_that_started_it(tmp_path: Path) -> None:
    layers = {ROOT / "layers/runtime": "", ROOT / "layers/farebox": "python"}
    build_root(tmp_path, layers=layers, function=ROOT / "functions/proxy")
    keys = {"FAREBOX_GATEWAY_KEY": "a", "FAREBOX_ADMIN_KEY": "b", "OPENROUTER_API_KEY": "simulated"}
    wrong = {**wrapper(tmp_path), **keys, "FAREBOX_TIME_ZONE": "local-admin-key"}
    with pytest.raises(Leak), sandbox(tmp_path, handler="handler.handler", variables=wrong) as function:
        function.invoke({})
