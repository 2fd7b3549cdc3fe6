"""Rules about the repository itself, a few lines each."""

import ast
import re
from pathlib import Path

import pytest

import farebox
from farebox import errors
from farebox.settings import NAMES
from local.child import ROOT

PACKAGE = ROOT / "layers" / "farebox" / "farebox"
README = (ROOT / "README.md").read_text()
MODULES = re.findall(r"^    (\w+) {2,}\S", farebox.__doc__ or "", re.MULTILINE)


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found - {"__version__"}  # which is no module


def test_the_reading_order_names_every_module() -> None:
    assert sorted(MODULES) == sorted(path.stem for path in PACKAGE.glob("[!_]*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_those_above_it(module: str) -> None:
    above = MODULES[: MODULES.index(module)]
    assert imports_of(PACKAGE / f"{module}.py") <= set(above)


def test_modules_that_decide_do_no_io() -> None:
    deciding = MODULES[: MODULES.index("store")]
    for module in deciding:
        names = {alias.name.split(".")[0] for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text()))
                 if isinstance(node, ast.Import) for alias in node.names}  # fmt: skip
        assert not names & {"boto3", "botocore", "httpx", "os", "socket", "time", "random", "secrets"}, module


def test_only_the_admin_s_side_imports_pydantic_and_nothing_that_calls_wait_for_imports_it() -> None:
    """It costs a quarter of a cold start (`make bench-cold`)."""
    heavy = re.compile(r"^(?:from|import) (?:pydantic|aws_lambda_powertools\.event_handler)\b", re.MULTILINE)
    found = {module for module in MODULES if heavy.search((PACKAGE / f"{module}.py").read_text())}
    assert found
    assert all(module.startswith("admin") for module in found)
    reached = {"gate", "routes", "rollup"}  # what the other two functions import
    while more := {name for module in reached for name in imports_of(PACKAGE / f"{module}.py")} - reached:
        reached |= more
    assert not reached & found


def test_every_reason_of_a_refusal_is_in_the_readme() -> None:
    reasons = [cls.reason for cls in errors.Refusal.__subclasses__()]
    assert [reason for reason in reasons if f"`{reason}`" not in README] == []


def test_every_setting_is_in_the_readme() -> None:
    assert [name for name in NAMES if f"`{name}`" not in README] == []


def test_every_make_target_is_in_the_readme() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [target for target in targets if f"`make {target}`" not in README] == []


def test_every_header_of_ours_is_in_the_readme() -> None:
    headers = set(re.findall(r'"(X-[A-Za-z-]+)"', (PACKAGE / "proxy.py").read_text()))
    assert headers
    assert [header for header in sorted(headers) if f"`{header}`" not in README] == []


@pytest.mark.parametrize("subset", ["layers/dependencies/requirements.txt", "local/requirements.txt"])
def test_a_subset_of_the_lock_has_the_lock_s_pins_and_hashes(subset: str) -> None:
    def pins(path: str) -> set[str]:
        return set(re.split(r"\n(?=\S)", (ROOT / path).read_text().strip()))

    assert pins(subset) <= pins("requirements.lock")


def test_nothing_committed_names_a_registry_or_a_path_of_one_machine() -> None:
    hosts = re.compile(
        "|".join(["pypi" + r"\.org", "python" + "hosted", "npmjs" + r"\.(org|com)", "/ro" + "ot/", "/ho" + "me/"])
    )
    texts = [
        path for path in ROOT.rglob("*") if path.is_file() and path.suffix in {".py", ".md", ".toml", ".txt", ".lock"}
    ]
    ours = [path for path in texts if not set(path.relative_to(ROOT).parts) & {".venv", ".cache", "build", ".git"}]
    assert [str(path) for path in ours if hosts.search(path.read_text())] == []
