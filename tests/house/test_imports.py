"""Imports go one way: ops_cuda <- sg3 <- guidance <- nada <- recipes <- app_tabs <- app.

Strings that name modules count as imports, because something will import them by that name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ORDER = ("ops_cuda", "sg3", "guidance", "nada", "recipes", "app_tabs", "app")
# Installed packages may not use folders that are not installed.
OUTSIDE = ("benchmarks", "tests", "conftest")
IMPORT_CALLS = ("import_module", "__import__", "find_spec")
# "package.module" or "package.module:attribute"
MODULE_NAME = re.compile(r"([a-z_]\w*)(?:[.:]\w+)+")
# The only table that may name higher packages as strings: the commands of `sg3`, in which nothing
# is imported before its command is called. Everything else registers through entry points.
ALLOWED_TABLES = {"sg3/cli/main.py": "COMMANDS"}


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) of every import in ``source``, inside functions too.

    Relative imports stay inside their own top-level package and are left out.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in IMPORT_CALLS and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def named_modules(source: str, allowed_table: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line, string) of every string in ``source`` that has the form of a module's name.

    Those in the assignment to the module-level variable ``allowed_table`` are left out.
    """
    tree = ast.parse(source)
    allowed: set[ast.AST] = set()
    for statement in tree.body:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if allowed_table and any(getattr(t, "id", None) == allowed_table for t in targets):
            allowed.update(ast.walk(statement))
    for node in ast.walk(tree):
        text = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and MODULE_NAME.fullmatch(text) and node not in allowed:
            yield node.lineno, text


def violations(source: str, package: str, allowed_table: str | None = None) -> list[str]:
    """Return the imports in ``source``, a file of the top-level ``package``, that point upward."""
    higher = ORDER[ORDER.index(package) + 1 :] + OUTSIDE
    found = {*imported_modules(source), *named_modules(source, allowed_table)}
    return [
        f"line {line}: {package} uses {module}"
        for line, module in sorted(found)
        if re.split("[.:]", module)[0] in higher
    ]


def source_files(root: Path) -> list[tuple[str, Path]]:
    files = [(name, path) for name in ORDER[:-1] for path in sorted((root / name).rglob("*.py"))]
    return [*files, ("app", root / "app.py")]


@pytest.mark.slow
def test_no_file_imports_upward(root):
    files = source_files(root)
    assert {name for name, _ in files} == set(ORDER), "a package of the order has no files"
    found = [
        f"{path.relative_to(root)} {line}"
        for name, path in files
        for line in violations(
            path.read_text(encoding="utf-8"),
            name,
            ALLOWED_TABLES.get(path.relative_to(root).as_posix()),
        )
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("ops_cuda", "import sg3"),
        ("sg3", "from guidance.encoders import base"),
        ("sg3", "def late():\n    from guidance import steer\n    return steer"),
        ("guidance", "if True:\n    import numpy, nada.adapt as a"),
        ("nada", "import importlib\nm = importlib.import_module('recipes.minifaces')"),
        ("nada", "m = __import__('app')"),
        ("recipes", "from app import build"),
        ("sg3", "import tests.helpers"),
        ("sg3", "TABLE = {'steer': ('guidance.commands.steer:steer', 'text')}"),
        ("sg3", "LOADER = 'guidance.encoders'"),
        ("guidance", "def late(table):\n    table['app'] = 'app:main'"),
    ],
)
def test_an_upward_import_is_detected(package, source):
    assert len(violations(source, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("app", "import guidance, sg3, recipes.minifaces"),
        ("guidance", "from sg3.networks import build_network\nfrom . import recipes"),
        ("nada", "TABLE = {'steer': 'guidance.commands.steer:steer'}\nimport recipes_of_others"),
        ("sg3", "DOC = 'guidance.encoders has encoders.'\nPACKAGES = ('guidance', 'nada')"),
    ],
)
def test_downward_and_unrelated_imports_pass(package, source):
    assert violations(source, package) == []


def test_only_the_allowed_table_may_name_higher_packages():
    table = "COMMANDS{} = {{'steer': ('guidance.commands.steer:steer', 'text')}}\n"
    for annotation in ("", ": dict[str, tuple[str, str]]"):
        source = table.format(annotation)
        assert violations(source, "sg3", "COMMANDS") == []
        assert len(violations(source, "sg3")) == 1
        assert len(violations(source + "OTHER = 'guidance.encoders'", "sg3", "COMMANDS")) == 1


# The bundled world is a demonstration, no part of the toolkit: recipes, benchmarks and tests only.
WORLD = "recipes.minifaces"


def imports_world(source: str) -> list[int]:
    """Return the lines of ``source`` that import the bundled world, or name one of its modules."""
    names = [*imported_modules(source), *named_modules(source)]
    found = {line for line, module in names if re.match(rf"{re.escape(WORLD)}(?!\w)", module)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "recipes":
            found |= {node.lineno for alias in node.names if alias.name == "minifaces"}
    return sorted(found)


@pytest.mark.slow
def test_only_recipes_import_the_bundled_world(root):
    files = [path for name, path in source_files(root) if name != "recipes"]
    assert root / "app_tabs/theme.py" in files
    found = [
        f"{path.relative_to(root)} line {line}"
        for path in files
        for line in imports_world(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import recipes.minifaces.world.captions as c",
        "from recipes import minifaces",
        "def late():\n    from recipes.minifaces.judge import model\n    return model",
        "import importlib\nm = importlib.import_module('recipes.minifaces')",
        "TABLE = {'judge': 'recipes.minifaces.judge.model:load_judge'}",
    ],
)
def test_an_import_of_the_bundled_world_is_detected(source):
    assert len(imports_world(source)) == 1


@pytest.mark.parametrize("source", ["from recipes import run", "import recipes.minifacesque"])
def test_imports_of_other_recipes_pass(source):
    assert imports_world(source) == []
