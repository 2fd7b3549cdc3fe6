"""A Lambda sandbox without Docker: AWS's runtime interface emulator, and the managed runtime's files under one root.

    root/opt          the layers, unpacked
    root/var/task     the function
    root/var/runtime  `bootstrap` and `bootstrap.py` as the managed runtime has them, with paths below the root

The emulator passes an answer on only when it is complete, and without its trailers. So the runtime talks to it through
a `Wiretap`, which shows each byte at the moment at which the runtime sends it. It also adds two headers that Lambda
sends and the emulator leaves out: the trace id, and the invocation id, which an answer has to repeat.
"""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import httpx

from tests.overheard import require_no_secret

PATIENCE_S = 30.0
"""How long a test waits for something that must happen before it says that it did not."""
BINARIES = {"x86_64": "aws-lambda-rie-x86_64", "aarch64": "aws-lambda-rie-arm64"}
REQUEST_ID = b"Lambda-Runtime-Aws-Request-Id: "
RESPONSE = b"POST /2018-06-01/runtime/invocation/"
DELIMITER = bytes(8)

# What /var/runtime/bootstrap of the managed Python runtimes does (3.10 and 3.11 read in 2026): only here is the wrapper
# known, and it receives the interpreter and its arguments. The address of the Runtime API is ours: the wiretap.
BOOTSTRAP = """\
#!/bin/bash
export AWS_EXECUTION_ENV=AWS_Lambda_python3.13
export AWS_LAMBDA_RUNTIME_API="$WIRETAP"
if [ -z "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
  exec "$INTERPRETER" "$LAMBDA_RUNTIME_DIR/bootstrap.py"
elif [ ! -x "$AWS_LAMBDA_EXEC_WRAPPER" ]; then
  echo "$AWS_LAMBDA_EXEC_WRAPPER: is not an executable"; exit 126
fi
exec -- "$AWS_LAMBDA_EXEC_WRAPPER" "$INTERPRETER" "$LAMBDA_RUNTIME_DIR/bootstrap.py"
"""

# What /var/runtime/bootstrap.py does: the search path of functions and layers, then awslambdaric.
BOOTSTRAP_PY = """\
import os, site, sys
import awslambdaric.__main__
task, opt = os.environ["LAMBDA_TASK_ROOT"], os.environ["OPT"]
if "PYTHONPATH" not in os.environ:
    sys.path.insert(0, f"{opt}/python")
    os.environ["PYTHONPATH"] = os.environ["LAMBDA_RUNTIME_DIR"]
sys.path.insert(0, task)
site.addsitedir(task)
awslambdaric.__main__.main([task, os.environ["_HANDLER"]])
"""

# The emulator ends with us in whatever way we end: the kernel closes the pipe that `cat` reads.
KEEPER = '"$0" "$@" & cat >/dev/null; kill $!; wait $!'


def emulator() -> Path:
    """Where aws-sam-cli has the emulator for this machine."""
    return Path(str(files("samcli"))) / "local/rapid" / BINARIES[platform.machine()]


def unavailable() -> str | None:
    """Why the emulator cannot run on this machine, in a sentence; None if it can."""
    machine = f"{platform.system()} on {platform.machine()}"
    if platform.system() != "Linux" or platform.machine() not in BINARIES:
        return f"AWS's runtime interface emulator runs on Linux, on x86_64 and aarch64; this is {machine}"
    if not emulator().is_file():
        return f"this aws-sam-cli has no runtime interface emulator for {machine}"
    return None


class Wiretap:
    """Passes TCP connections on and keeps what the runtime says, for tests to wait for."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self._heard = b""
        self._news = threading.Condition()
        self._invocations = count(1)
        self._cue = self._stall = b""
        self.released = threading.Event()
        self.address = "{}:{}".format(*self._server.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def heard(self) -> bytes:
        """Everything since `forget`."""
        with self._news:
            return self._heard

    def forget(self) -> None:
        """Begin anew, for a test that finds the sandbox in use; a cue that was never given is forgotten, too."""
        with self._news:
            self._heard = self._cue = self._stall = b""

    def wait_for(self, words: bytes) -> bytes:
        """Everything heard so far, as soon as it contains the words."""
        with self._news:
            if not self._news.wait_for(lambda: words in self._heard, PATIENCE_S):
                raise TimeoutError(f"{words!r} was not heard in {self._heard!r}")
            return self._heard

    def hang_up_at(self, words: bytes) -> None:
        """Break the connection on which the runtime says these words, once."""
        self._cue = words

    def stop_reading_at(self, words: bytes) -> None:
        """Take no more from the runtime after these words until `released` is set: a client that reads no more."""
        self._stall = words

    def close(self) -> None:
        self.released.set()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as upstream:
            back = threading.Thread(target=pass_on, args=(upstream, client, self._complete), daemon=True)
            back.start()
            pass_on(client, upstream, self._keep)
            back.join()

    def _keep(self, data: bytes) -> bytes:
        with self._news:
            self._heard += data
            self._news.notify_all()
        if self._cue and self._cue in self._heard:
            self._cue = b""
            raise ConnectionAbortedError
        if self._stall and self._stall in self._heard:
            self._stall = b""
            self.released.wait(PATIENCE_S)
        return data

    def _complete(self, data: bytes) -> bytes:
        if REQUEST_ID not in data:
            return data
        number = next(self._invocations)
        added = b"Lambda-Runtime-Trace-Id: Root=1-%d\r\nLambda-Runtime-Invocation-Id: attempt-%d\r\n" % (number, number)
        return data.replace(REQUEST_ID, added + REQUEST_ID)


def pass_on(source: socket.socket, sink: socket.socket, see: Callable[[bytes], bytes]) -> None:
    """Bytes from one to the other until either ends; a relay that breaks off breaks both."""
    try:
        while data := source.recv(65536):
            sink.sendall(see(data))
    except ConnectionAbortedError:
        with suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Gate:
    """Lets a function go on, one step for each `open`: it connects to `address` and reads a byte."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE_S)
        self.address = "{}:{}".format(*self._server.getsockname())

    def open(self) -> None:
        visitor, _ = self._server.accept()
        with visitor:
            visitor.sendall(b".")

    def close(self) -> None:
        self._server.close()


@dataclass(frozen=True, slots=True)
class Post:
    """An answer of the runtime as it was on the wire: the prelude is the first chunk."""

    headers: Mapping[str, str]
    chunks: tuple[bytes, ...]
    trailers: Mapping[str, str]

    @property
    def prelude(self) -> Any:
        text, delimiter, rest = self.chunks[0].partition(DELIMITER)
        assert delimiter == DELIMITER, self.chunks[0]
        assert rest == b""
        return json.loads(text)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks[1:])


def last_post(heard: bytes) -> Post:
    """What the runtime answered last, if it streamed."""
    head, _, rest = heard[heard.rindex(RESPONSE) :].partition(b"\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    chunks = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        chunks.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    trailers = (line.split(": ", 1) for line in takewhile(bool, rest.decode().split("\r\n")))
    return Post(headers, tuple(chunks), dict(trailers))


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A function that can be invoked, and what can be seen of it."""

    url: str
    wiretap: Wiretap
    gate: Gate
    log: Path

    def invoke(self, event: Mapping[str, object]) -> httpx.Response:
        """The answer as the emulator passes it on: whole, and with status 200 whatever became of it."""
        return httpx.post(f"{self.url}/2015-03-31/functions/function/invocations", json=event, timeout=PATIENCE_S)

    def stream(self, event: Mapping[str, object]) -> Post:
        """The answer as the runtime streamed it."""
        self.wiretap.forget()
        whole = self.invoke(event)
        post = last_post(self.wiretap.heard())
        assert b"".join(post.chunks) == whole.content
        return post


def build_root(root: Path, *, layers: Mapping[Path, str], function: Path) -> None:
    """Lay out what a function finds on Lambda. `layers` says where below /opt each one is unpacked."""
    for layer, place in layers.items():
        shutil.copytree(layer, root / "opt" / place, dirs_exist_ok=True)
    shutil.copytree(function, root / "var/task")
    runtime = root / "var/runtime"
    runtime.mkdir(parents=True)
    (runtime / "bootstrap").write_text(BOOTSTRAP)
    (runtime / "bootstrap").chmod(0o755)
    (runtime / "bootstrap.py").write_text(BOOTSTRAP_PY)
    if client := os.environ.get("AWSLAMBDARIC"):  # another version of Lambda's client: pip install --target ...
        shutil.copytree(client, runtime, dirs_exist_ok=True)


def wrapper(root: Path) -> dict[str, str]:
    """The variable through which a function gets the streaming runtime."""
    return {"AWS_LAMBDA_EXEC_WRAPPER": str(root / "opt/farebox-runtime")}


def environment(root: Path, handler: str, wiretap: Wiretap, gate: Gate) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "INTERPRETER": sys.executable,
        "WIRETAP": wiretap.address,
        "GATE": gate.address,
        "OPT": str(root / "opt"),
        "LAMBDA_TASK_ROOT": str(root / "var/task"),
        "LAMBDA_RUNTIME_DIR": str(root / "var/runtime"),
        "_HANDLER": handler,
        "AWS_LAMBDA_FUNCTION_NAME": "sandbox",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "60",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "POWERTOOLS_SERVICE_NAME": "farebox",
    }


@contextmanager
def sandbox(root: Path, *, handler: str, variables: Mapping[str, str] | None = None) -> Iterator[Sandbox]:
    """Runs the function below the root, which `build_root` made, until the block ends. Raises Leak."""
    with ExitStack() as stack:
        api, front = free_port(), free_port()
        wiretap = stack.enter_context(closing(Wiretap(("127.0.0.1", api))))
        gate = stack.enter_context(closing(Gate()))
        log = root / f"log-{uuid.uuid4().hex[:8]}"
        stack.callback(lambda: require_no_secret(log.read_text(errors="replace")))  # when it has ended
        process = subprocess.Popen(
            [
                *("sh", "-c", KEEPER),
                *(str(emulator()), "--runtime-interface-emulator-address", f"127.0.0.1:{front}"),
                *("--runtime-api-address", f"127.0.0.1:{api}"),
                str(root / "var/runtime/bootstrap"),
            ],
            env=environment(root, handler, wiretap, gate) | dict(variables or {}),
            cwd=root / "var/task",
            stdin=subprocess.PIPE,
            stdout=stack.enter_context(log.open("wb")),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(end, process)
        wait_for_port(front, log)
        yield Sandbox(f"http://127.0.0.1:{front}", wiretap, gate, log)


def end(process: subprocess.Popen[bytes]) -> None:
    """The emulator gives the runtime a process group of its own, and ends it when it is asked to end."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for_port(port: int, log: Path) -> None:
    for _ in range(int(PATIENCE_S / 0.02)):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S):
            return
        threading.Event().wait(0.02)
    raise TimeoutError(f"the emulator does not listen on port {port}: {log.read_text()}")
