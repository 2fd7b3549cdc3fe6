"""`make dev`: the gateway on 127.0.0.1, on an embedded store, with a simulated OpenRouter unless a real one is named.

It runs functions/proxy/handler.py and functions/admin/handler.py, as Lambda does; only what stands around it is local.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from types import FrameType

from farebox import store
from farebox.aws import dynamodb_client
from farebox.candidates import require_known
from farebox.catalogue import Catalogue
from farebox.errors import CatalogueUnavailable, ModelNotPriced
from farebox.money import usd_text
from farebox.parts import upstream_of
from farebox.settings import Settings, SettingsError, settings_from
from farebox.store import StoreError
from local import gateway
from local.embedded_store import embedded_store
from local.simulator import Simulator
from local.sockets import Handle, Server

DEFAULT_PORT = 8787
SWEEP_S = 5
"""Between two runs of the rollup: looks for the cost of lost calls, and sums of what was spent."""
GRACE_S = 5.0
"""For calls in flight to settle when the gateway ends."""
DEFAULTS = {
    "FAREBOX_GATEWAY_KEY": "local-gateway-key",
    "FAREBOX_ADMIN_KEY": "local-admin-key",
    "FAREBOX_TABLE": "farebox",
}
LOCAL_AWS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}
"""Also where real ones are set: nothing of `make dev` may reach an account."""


class DevError(Exception):
    """One sentence that says what to change."""


@contextmanager
def running(environment: MutableMapping[str, str], store_url: str | None) -> Iterator[tuple[Server, Settings]]:
    """The local gateway of an environment, which is completed in place, for the time of the block.

    Without `store_url`, the URL of a local DynamoDB, it starts an embedded one.
    """
    port = _port(environment)
    environment.update({name: value for name, value in DEFAULTS.items() if not environment.get(name)})
    settings_from(environment)  # before anything is started
    with ExitStack() as parts:
        _use_upstream(environment, parts)
        settings = settings_from(environment)
        environment.pop("AWS_PROFILE", None)
        environment.update(dict.fromkeys(("NO_PROXY", "no_proxy"), _no_proxy(environment)))
        environment.update(LOCAL_AWS, AWS_ENDPOINT_URL_DYNAMODB=store_url or parts.enter_context(embedded_store()))
        dynamodb = dynamodb_client()
        store.create_table(dynamodb, settings.farebox_table)
        # Imported here: the handler makes its parts from the environment when it is imported, as on Lambda.
        from functions.admin.handler import handler as admin  # noqa: PLC0415
        from functions.proxy.handler import handler  # noqa: PLC0415

        _check_models(settings)
        parts.enter_context(_sweeping())
        server = _server(gateway.serve(handler, admin), port)
        parts.callback(server.close, grace_s=GRACE_S)
        yield server, settings


def _check_models(settings: Settings) -> None:
    """Every model that a setting names has a price, or the start ends: a rule that cannot work is no rule."""
    catalogue = Catalogue(upstream_of(settings, None), settings.farebox_price_ttl_s, time.monotonic)
    named = {name: "PRIMARY_MODEL" for name in [settings.primary_model] if name}
    named |= dict.fromkeys(settings.rules.models(), "FALLBACK_MODEL_CHAIN or FAREBOX_DOWNGRADE_RULES")
    for tenant in settings.tenant_budgets:
        for name in settings.tenant(tenant).rules.models():
            named.setdefault(name, f"TENANT_BUDGETS[{tenant}]")
    for name, where in named.items():
        try:
            require_known(name, catalogue.model)
        except ModelNotPriced as e:
            raise DevError(f"{where}: {e.message}") from None
        except CatalogueUnavailable as e:
            print(f"farebox: the models of the settings are not checked: {e.message}", file=sys.stderr)
            return


def _port(environment: MutableMapping[str, str]) -> int:
    text = environment.get("PORT") or str(DEFAULT_PORT)
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65_535:
        raise DevError(f"PORT must be a number from 0 to 65535, not {text[:20]!r}")
    return int(text)


@contextmanager
def _sweeping() -> Iterator[None]:
    """The schedule that runs the rollup on AWS, faster."""
    from functions.rollup.handler import handler  # noqa: PLC0415 - as above

    over = threading.Event()

    def run() -> None:
        while not over.wait(SWEEP_S):
            try:
                handler({}, gateway.Context())
            except StoreError as e:
                print(f"farebox: the rollup failed: {e}", file=sys.stderr)

    thread = threading.Thread(target=run, name="sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(GRACE_S)


def _no_proxy(environment: Mapping[str, str]) -> str:
    """A proxy for the outside cannot reach what listens on this machine."""
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(filter(None, (known, "127.0.0.1", "localhost")))


def _server(handle: Handle, port: int) -> Server:
    try:
        return Server(handle, port=port)
    except OSError as e:
        raise DevError(
            f"port {port} cannot be used ({e.strerror}); name another one: PORT={port + 1} make dev"
        ) from None


def _use_upstream(environment: MutableMapping[str, str], parts: ExitStack) -> None:
    """A real upstream where one is named, else the simulator."""
    if environment.get("OPENROUTER_BASE_URL") or environment.get("OPENROUTER_API_KEY"):
        return
    simulator = parts.enter_context(Server(Simulator().handle))
    environment["OPENROUTER_BASE_URL"] = f"{simulator.url}/api/v1"
    environment["OPENROUTER_API_KEY"] = "simulated"
    environment.setdefault("PRIMARY_MODEL", "sim/ok")


def main() -> None:
    """Run the gateway on 127.0.0.1 until Ctrl-C or SIGTERM; PORT and Farebox's settings come from the environment."""
    parser = argparse.ArgumentParser(prog="python -m local.dev", description=main.__doc__)
    parser.add_argument("--store", metavar="URL", help="a DynamoDB on 127.0.0.1 (default: an embedded one)")
    store_url = parser.parse_args().store
    over = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        over.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        with running(os.environ, store_url) as (server, settings):
            print(_welcome(server, settings), flush=True)
            over.wait()
    except (DevError, SettingsError) as e:
        sys.exit(f"farebox: {e}")


def _welcome(server: Server, settings: Settings) -> str:
    limits = settings.tenant("default").limits
    day, month = usd_text(limits.day_nanousd), usd_text(limits.month_nanousd)
    model = settings.primary_model or "openai/gpt-4o-mini"
    return f"""
Farebox is at {server.url}/api/v1 and calls {settings.openrouter_base_url}
Tenant "default" may spend {day} USD a day and {month} USD a month. Ctrl-C ends it. Try:

curl -i {server.url}/api/v1/chat/completions \\
  -H 'Authorization: Bearer {settings.farebox_gateway_key}' -H 'X-Tenant-Id: default' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Say hello"}}]}}'
"""


if __name__ == "__main__":
    main()
