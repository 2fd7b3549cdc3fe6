"""A store that runs beside us as a process of its own, and never outlives us: what both local stores share.

The protocol is two pipes, the same for a server in Python or Java. The server picks a free port itself (one that we
pick could be taken before the server binds it, and we would talk to a stranger's tables), then says `listening on N`.
It ends when its stdin ends: the kernel closes that pipe when we end in whatever way, SIGKILL too.
"""

import queue
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ROOT = Path(__file__).resolve().parent.parent
LISTEN_SECONDS = 20.0  # to start: the embedded store takes 0.3 s, DynamoDB Local 2 s
ANSWER_SECONDS = 10.0  # to answer its first request: 0.4 s, while Java loads what it needs
STOP_SECONDS = 5.0
_CLIENT = Config(max_pool_connections=64, retries={"mode": "standard"})
_FIRST_REQUEST = _CLIENT.merge(Config(read_timeout=ANSWER_SECONDS, retries={"total_max_attempts": 1}))
_ANNOUNCEMENT = "listening on "


def connect(url: str, config: Config = _CLIENT) -> "DynamoDBClient":
    """A client for a local store, good for as many threads as a test starts.

    Everybody names the same region: the embedded store keeps the tables of each region apart.
    """
    client: DynamoDBClient = boto3.client(
        "dynamodb",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106  boto3 wants one, no local store checks it
        config=config,
    )
    return client


def announce(port: int) -> None:
    """For a server: tell the parent where it listens."""
    print(f"{_ANNOUNCEMENT}{port}", flush=True)


class Output:
    """What a server prints: read at once, so that a full pipe never stops it; the last lines are kept for an error."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._last: deque[str] = deque(maxlen=20)
        self._port: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True, name="child-output")
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream:
            if line.startswith(_ANNOUNCEMENT):
                self._port.put(int(line.removeprefix(_ANNOUNCEMENT)))
            else:
                self._last.append(line.rstrip())
        self._port.put(None)

    def port(self, seconds: float) -> int | None:
        """The announced port; None if the output ended or the time passed before that."""
        try:
            return self._port.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self) -> str:
        """Free the pipe of a server that has ended, and return its last lines."""
        self._reader.join(STOP_SECONDS)
        if not self._reader.is_alive():  # something the server started may still hold the pipe
            self._stream.close()
        return "\n".join(self._last)


@dataclass(frozen=True, slots=True)
class Child:
    """A running store: its endpoint, its process, and how to end it."""

    url: str
    process: subprocess.Popen[str]
    output: Output

    def stop(self) -> None:
        """End it and wait for that; a second call changes nothing."""
        _end(self.process)
        self.output.close()


def start(name: str, command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Child:
    """Start a store and return when it answers; if it does not, a RuntimeError carries the last lines it printed."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C in the terminal is for us, and we may need the store to finish what we do
    )
    output = Output(cast("IO[str]", process.stdout))
    try:
        return Child(_url_that_answers(output), process, output)
    except (BotoCoreError, ClientError, TimeoutError) as error:
        _end(process)
        last = output.close()
        raise RuntimeError(f"{name} did not start: {error}. It printed last:\n{last or '(nothing)'}") from error
    except BaseException:
        _end(process)
        output.close()
        raise


@contextmanager
def running(child: Child) -> Iterator[str]:
    """The endpoint of a started store, which ends with the block."""
    try:
        yield child.url
    finally:
        child.stop()


def _url_that_answers(output: Output) -> str:
    port = output.port(LISTEN_SECONDS)
    if port is None:
        raise TimeoutError(f"it ended, or {LISTEN_SECONDS:.0f} s passed, before it listened")
    url = f"http://127.0.0.1:{port}"
    client = connect(url, _FIRST_REQUEST)
    try:
        client.list_tables(Limit=1)
    finally:
        client.close()
    return url


def _end(process: subprocess.Popen[str]) -> None:
    cast("IO[str]", process.stdin).close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
