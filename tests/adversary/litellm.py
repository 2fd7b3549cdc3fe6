"""A LiteLLM proxy with a database, started here: in a virtual environment of its own, where it can be had.

    python -m tests.adversary.litellm     installs it into .cache/litellm (pip, npm), once

It needs npm and PostgreSQL's programs (Debian: postgresql). Budgets of LiteLLM need its database, and that needs
Prisma's query engine, whose binary comes from a host of its own; query_engine.js stands in for it. Reservations are on,
as they are by default, and enforcement fails closed.
"""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from local.catalogue import catalogue, row
from local.child import ROOT
from tests.adversary.targets import CannotRun, LiteLLM, Place

VERSION: Final = "1.106.2"
NPM: Final = ("@prisma/client@5.22.0", "@prisma/adapter-pg@5.22.0", "pg@8", "graphql@16", "prisma@5.17.0")
HOME: Final = ROOT / ".cache" / "litellm"
VENV: Final = HOME / "venv"
NODE: Final = HOME / "node"
ENGINE: Final = ROOT / "tests" / "adversary" / "query_engine.js"
MASTER: Final = "sk-adversary"
STARTS_S: Final = 180
TIMEOUT_S: Final = 64
"""As long as our gateway waits when the suite starts it."""


def missing() -> str | None:
    """In one sentence what is missing to start LiteLLM here; None if nothing is."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "LiteLLM's database client needs Node.js and npm"
    if _postgres() is None:
        return "LiteLLM's budgets need PostgreSQL: initdb and postgres were not found (Debian: postgresql)"
    if not (HOME / "ready").exists():
        return "LiteLLM is not installed: python -m tests.adversary.litellm installs it into .cache/litellm"
    return None


def install() -> None:
    """LiteLLM and what its database client needs, by pip and npm. Raises CalledProcessError."""
    HOME.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([VENV / "bin" / "pip", "install", "-q", f"litellm[proxy]=={VERSION}", "prisma==0.15.0"], check=True)
    NODE.mkdir(exist_ok=True)
    (NODE / "package.json").write_text('{"private": true}')
    subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *NPM], cwd=NODE, check=True)
    schema = HOME / "schema.prisma"
    lines = (_extras() / "schema.prisma").read_text().splitlines(keepends=True)
    schema.write_text("".join(line for line in lines if "binaryTargets" not in line))
    subprocess.run(
        [NODE / "node_modules" / ".bin" / "prisma", "generate", "--schema", schema],
        env={**_environment("postgresql://nobody@127.0.0.1/nowhere"), "PRISMA_SCHEMA_ENGINE_BINARY": str(ENGINE)},
        check=True,
    )
    (HOME / "ready").touch()


@contextmanager
def started(upstream: str) -> Iterator[Place]:
    """A proxy with one worker and a new database for the time of the block. Raises CannotRun."""
    if why := missing():
        raise CannotRun(why)
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="adversary-")))
        database = parts.enter_context(_database(folder))
        config = folder / "config.yaml"
        config.write_text(json.dumps(configuration(f"{upstream}/api/v1")))  # JSON is YAML
        port = _free_port()
        command = [VENV / "bin" / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        log = parts.enter_context((folder / "litellm.log").open("w+"))
        parts.enter_context(_running(command, _environment(database), log))
        url = f"http://127.0.0.1:{port}"
        _await(url, folder / "litellm.log")
        yield Place(LiteLLM(f"{url}/v1", MASTER), upstream)


def configuration(api_base: str) -> dict[str, Any]:
    """Every simulated model at its list price (a router has none), and every other name as it comes."""
    models = [_model(str(each["id"]), api_base, each["pricing"]) for each in map(row, catalogue().values())]
    models.append({"model_name": "*", "litellm_params": {"model": "openrouter/*", **_upstream(api_base)}})
    return {
        "model_list": models,
        "litellm_settings": {"num_retries": 0, "request_timeout": TIMEOUT_S},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {
            "master_key": MASTER,
            "proxy_batch_write_at": 1,
            "disable_prisma_schema_update": True,
            "fail_closed_budget_enforcement": True,
        },
    }


def _model(name: str, api_base: str, pricing: Any) -> dict[str, Any]:
    prices = {
        "input_cost_per_token": float(pricing["prompt"]),
        "output_cost_per_token": float(pricing["completion"]),
    }
    known = prices if prices["input_cost_per_token"] >= 0 else {}
    return {"model_name": name, "litellm_params": {"model": f"openrouter/{name}", **_upstream(api_base), **known}}


def _upstream(api_base: str) -> dict[str, str]:
    return {"api_base": api_base, "api_key": "simulated"}


def _environment(database: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
        "DATABASE_URL": database,
        "ADVERSARY_NODE_PACKAGE": str(NODE / "package.json"),
        "PRISMA_QUERY_ENGINE_BINARY": str(ENGINE),
        "PRISMA_QUERY_ENGINE_LIBRARY": str(ENGINE),
        "PRISMA_CLI_QUERY_ENGINE_TYPE": "binary",
        "CHECKPOINT_DISABLE": "1",
        "DISABLE_SCHEMA_UPDATE": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_SALT_KEY": "sk-salt",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def _extras() -> Path:
    return next((VENV / "lib").glob("python*/site-packages/litellm_proxy_extras"))


def _postgres() -> Path | None:
    """The folder of PostgreSQL's programs: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((each for each in reversed(folders) if (each / "postgres").exists()), None)


@contextmanager
def _database(folder: Path) -> Iterator[str]:
    """A new PostgreSQL with LiteLLM's tables; its URL. It refuses to run as root, so there another user runs it."""
    programs, port, data = _postgres(), _free_port(), folder / "data"
    assert programs is not None
    data.mkdir()
    who: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        folder.chmod(0o755)
        os.chown(data, user.pw_uid, user.pw_gid)
        who = ["runuser", "-u", "postgres", "--"]
    subprocess.run(
        [*who, programs / "initdb", "-D", data, "-A", "trust", "-U", "litellm"], check=True, stdout=subprocess.DEVNULL
    )
    options = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=200")
    server = [*who, programs / "postgres", "-D", data, "-p", str(port), *(w for o in options for w in ("-c", o))]
    base = f"postgresql://litellm@127.0.0.1:{port}"
    with (folder / "postgres.log").open("w") as log, _running(server, dict(os.environ), log):
        psql = [str(programs / "psql"), "-q", "-v", "ON_ERROR_STOP=1"]
        for _ in range(100):
            created = subprocess.run(
                [*psql, f"{base}/postgres", "-c", "create database litellm"], check=False, stderr=subprocess.DEVNULL
            )
            if created.returncode == 0:
                break
            time.sleep(0.1)
        steps = sorted((_extras() / "migrations").glob("*/migration.sql"))
        files = [word for step in steps for word in ("-f", str(step))]
        subprocess.run(
            [*psql, f"{base}/litellm", *files], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        yield f"{base}/litellm"


@contextmanager
def _running(command: Sequence[object], environment: Mapping[str, str], log: Any) -> Iterator[None]:
    process = subprocess.Popen(
        [str(word) for word in command], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(url: str, log: Path) -> None:
    for _ in range(STARTS_S):
        try:
            if httpx.get(f"{url}/health/liveliness", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise CannotRun(f"LiteLLM did not start within {STARTS_S} s; it said last: {log.read_text()[-300:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    install()
    sys.exit(missing())
