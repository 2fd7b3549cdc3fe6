"""`make audit`: known vulnerabilities of what requirements.lock pins, by the advisories of OSV.

Either they are looked up for every package, or nothing is known about any: a service that does not answer must never
look like one that knows nothing bad. So OSV is asked and not pip-audit's default, for which a mirror without advisories
is a clean bill.
"""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.child import ROOT

LOCK = ROOT / "requirements.lock"
ANSWER_S = 10
"""For one package."""
ALL_S = 180
"""For all of them, which are asked about one after the other."""
UNREACHABLE = re.compile(
    r"requests\.exceptions\.(ConnectionError|SSLError|ProxyError|\w*Timeout)\b"  # no connection, or no answer in time
    r"|pip_audit\._service\.interface\.ServiceError\b"  # an answer that is an error
    r"|.*Tip: your network may be blocking this service"  # what it says of ConnectTimeout
)
"""The last line of a pip-audit that has got no advisories."""
PIN = re.compile(r"^\S+==", re.MULTILINE)


class NotAudited(Exception):
    """The advisory service does not answer."""


class AuditError(Exception):
    """The audit itself does not work."""


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """A known one."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "not fixed yet"
        return f"{self.package} {self.version}: {', '.join(self.names)} ({fix})"


def audit(lock: Path, *more: str, seconds: float = ALL_S) -> tuple[int, list[Vulnerability]]:
    """How many packages were looked up, and what is wrong with them. Raises NotAudited, AuditError.

    Pins that are for other machines than this one are not looked up.
    """
    options = [
        "--strict",
        "--disable-pip",
        "--require-hashes",
        "--vulnerability-service",
        "osv",
        "--timeout",
        str(ANSWER_S),
    ]
    options += ["--format", "json", "--progress-spinner", "off", *more]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), *options]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise NotAudited(f"the advisory service has not told all in {seconds:g} s") from None
    if not ran.stdout:
        last = ran.stderr.strip().rpartition("\n")[2]
        if UNREACHABLE.match(last):
            raise NotAudited(f"the advisory service does not answer ({last})")
        raise AuditError(f"pip-audit ended with {ran.returncode}:\n{ran.stderr}")
    packages = json.loads(ran.stdout)["dependencies"]
    if not packages:
        raise AuditError(f"{lock} has no packages")
    return len(packages), [_vulnerability(package, known) for package in packages for known in package["vulns"]]


def _vulnerability(package: dict[str, Any], known: dict[str, Any]) -> Vulnerability:
    names = (known["id"], *known["aliases"])
    return Vulnerability(package["name"], package["version"], names, tuple(known["fix_versions"]))


def main() -> None:
    """Look for known vulnerabilities in the lock; exit 1 when there are any."""
    parser = argparse.ArgumentParser(prog="python -m local.audit", description=main.__doc__)
    parser.add_argument("--lock", type=Path, default=LOCK, help="pinned packages with hashes (default: the project's)")
    parser.add_argument("--osv-url", metavar="URL", help="another address of OSV's query API")
    parser.add_argument("--seconds", type=float, default=ALL_S, help="for all packages (default: %(default)s)")
    parser.add_argument("--required", action="store_true", help="fail also when the advisory service does not answer")
    options = parser.parse_args()
    more = ("--osv-url", options.osv_url) if options.osv_url else ()
    try:
        count, found = audit(options.lock, *more, seconds=options.seconds)
    except NotAudited as e:
        print(f"NOT AUDITED: {e}; this run says nothing about known vulnerabilities", file=sys.stderr)
        sys.exit(options.required)
    except AuditError as e:
        sys.exit(f"audit: {e}")
    for vulnerability in found:
        print(vulnerability)
    pins = len(PIN.findall(options.lock.read_text()))
    print(
        f"known vulnerabilities: {len(found)}, in {count} of {pins} pinned packages (the others are for other machines)"
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
