"""The shape of the project: who imports whom, how long files are, and whether the README's tree shows all of them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch

import pytest

from gistdemo.settings import PROJECT_DIR

PACKAGE = PROJECT_DIR / "gistdemo"
SOURCES = sorted([*PACKAGE.rglob("*.py"), PROJECT_DIR / "app.py"])
MAX_LINES = 400
LONGER: dict[str, str] = {}  # file -> why it may be longer


def name_of(path) -> str:
    return path.relative_to(PROJECT_DIR).as_posix()


def test_imports_run_one_way():
    """The contracts are in pyproject.toml; `lint-imports` prints the same report. In a process of its own: it silences all loggers."""
    pytest.importorskip("importlinter", reason="import-linter is not installed; it is in requirements-dev.txt")
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    found = subprocess.run([sys.executable, "-c", check], cwd=PROJECT_DIR, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("path", [PROJECT_DIR / "app.py", PACKAGE / "__init__.py"], ids=name_of)
def test_the_entry_points_import_nothing_but_the_standard_library_at_the_top(path):
    top = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} <= sys.stdlib_module_names


def test_no_file_is_a_drawer():
    """A helper lives with its concept."""
    drawers = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert not [name_of(path) for path in [*SOURCES, *(PROJECT_DIR / "tests").rglob("*.py")] if path.name in drawers]


def test_no_source_file_is_too_long_to_be_read_at_once():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    too_long = {name: length for name, length in lengths.items() if length > MAX_LINES and name not in LONGER}
    assert not too_long, f"more than {MAX_LINES} lines: {too_long}. Split them along their concepts, or give a reason in LONGER."
    assert all(lengths[name] > MAX_LINES for name in LONGER), "a file listed in LONGER has become short enough"


def test_every_source_file_says_what_it_is_for():
    silent = [name_of(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not silent, f"no docstring at the top: {silent}"


def test_the_readme_lists_every_file_of_the_package_and_none_that_is_not_there():
    readme = PROJECT_DIR / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README.md yet")
    trees = [block for block in re.findall(r"```[a-z]*\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL) if "gistdemo/\n" in block]
    assert len(trees) == 1, "the README holds one tree, in a code block with the line 'gistdemo/'"
    listed = set(re.findall(r"[\w*-]+\.py\b", trees[0]))
    files = {path.name for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")}
    missing = [name for name in sorted(files) if not any(fnmatch(name, pattern) for pattern in listed)]
    assert not missing, f"not in the README's tree: {missing}"
    known = files | {path.name for folder in (".", "scripts", "tests") for path in (PROJECT_DIR / folder).glob("*.py")}
    gone = [pattern for pattern in sorted(listed) if not any(fnmatch(name, pattern) for name in known)]
    assert not gone, f"in the README's tree, but not there: {gone}"
