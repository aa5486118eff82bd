"""Documentation: citations, links, paths and commands exist, and the site builds."""

from __future__ import annotations

import ast
import dataclasses
import html
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sg3.cli.main import cli
from sg3.settings import about

SKIPPED = (".venv", ".git", "site", "out", "runs", "build")
#: Entries of these speak of modules and options of their time.
HISTORY = ("docs/LOG.md", "CHANGELOG.md")
PACKAGES = ("sg3", "guidance", "nada", "ops_cuda")
LINK = re.compile(r"\]\(([^()\s]+)\)")
SECTION = re.compile(r"§\s?(\d+(?:\.\d+)?)")


def files_of(root: Path, *suffixes: str) -> list[Path]:
    found = [path for suffix in suffixes for path in root.rglob(f"*{suffix}")]
    return sorted(p for p in found if p.relative_to(root).parts[0] not in SKIPPED)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    """Markdown without fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def guides(root: Path) -> list[Path]:
    """All Markdown files but the history."""
    return [p for p in files_of(root, ".md") if p.relative_to(root).as_posix() not in HISTORY]


def code_lines(path: Path) -> Iterator[str]:
    """Lines of fenced blocks, joined where they end with a backslash, and code spans."""
    text = read(path)
    for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


# Citations and links -------------------------------------------------------------------------


@pytest.mark.slow
def test_every_cited_section_of_the_reference_exists(root):
    headings = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?) ", read(root / "docs/REFERENCE.md"), re.M))
    cited, missing = 0, []
    for path in files_of(root, ".py", ".md"):
        if path == Path(__file__):
            continue
        sections = SECTION.findall(read(path))
        cited += len(sections)
        missing += [f"{path.relative_to(root)}: §{s}" for s in sections if s not in headings]
    assert cited > 100
    assert not missing, "\n".join(missing)


def test_every_relative_link_resolves(root):
    broken = []
    for path in files_of(root, ".md"):
        for link in LINK.findall(without_code(read(path))):
            if re.match(r"[a-z]+:|#", link):
                continue
            if not (path.parent / link.partition("#")[0]).exists():
                broken.append(f"{path.relative_to(root)}: {link}")
    assert not broken, "\n".join(broken)


# README --------------------------------------------------------------------------------------


def test_every_path_of_the_file_map_exists(root):
    section = read(root / "README.md").partition("## File map")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) > 15
    assert not [name for name in names if not (root / name).exists()]


def test_every_module_that_is_run_exists(root):
    missing = []
    for path in guides(root):
        for line in code_lines(path):
            for module in re.findall(r"python -m ([\w.]+)", line):
                name = module.rstrip(".")
                file = root / name.replace(".", "/")
                known = file.with_suffix(".py").is_file() or (file / "__main__.py").is_file()
                outside = name.split(".")[0] not in (*PACKAGES, "recipes", "benchmarks")
                if not known and (not outside or importlib.util.find_spec(name) is None):
                    missing.append(f"{path.relative_to(root)}: {name}")
    assert not missing, "\n".join(missing)


def command_of(words: list[str]) -> click.Command | None:
    """The command of `sg3 NAME …`; None where NAME is a placeholder."""
    found: click.Command | None = cli
    for word in words:
        if not isinstance(found, click.Group):
            break
        found = found.get_command(click.Context(found), word)
        if found is None:
            return None
    return found


@pytest.mark.slow
def test_every_option_in_a_command_line_exists(root):
    wrong, seen = [], 0
    for path in guides(root):
        for line in code_lines(path):
            line = line.strip().removeprefix("$ ")
            if not line.startswith("sg3 "):
                continue
            try:
                words = shlex.split(line, comments=True)[1:]
            except ValueError:  # an apostrophe of prose
                continue
            command = command_of([word.split("|")[0] for word in words])
            if command is None or isinstance(command, click.Group):
                continue
            seen += 1
            known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            for word in words:
                option = re.match(r"--[a-z][\w-]*", word)
                if option and option[0] not in known | {"--help"}:
                    wrong.append(f"{path.relative_to(root)}: {option[0]} in {line!r}")
    assert seen > 30
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_the_python_example_runs_as_written(root, tmp_path):
    (example,) = re.findall(r"^```python\n(.*?)^```", read(root / "README.md"), re.M | re.S)
    assert "steps=60" in example  # 5 take the same path
    example = example.replace("steps=60", "steps=5")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in tmp_path.iterdir()} == {"steered.png", "copy.safetensors"}


# The site ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(root, tmp_path_factory) -> Path:
    """The documentation, built without warnings."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command,
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def exported(root: Path, package: str) -> list[str]:
    """`__all__` of a package, read without importing it."""
    for node in ast.parse(read(root / package / "__init__.py")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{package} has no __all__")


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_api_page_shows_every_exported_name(root, site, package):
    page = read(site / "api" / f"{package}.html")
    # With a section of its own, or a link to the one on another page.
    found = re.findall(r'(?:<h\d id="|href="\w+\.html#)([\w.]+)"', page)
    shown = {path.split(".")[-1] for path in found}
    names = [name for name in exported(root, package) if not name.startswith("__")]
    assert len(names) >= 3
    assert not set(names) - shown


def plain(text: str) -> str:
    """Letters and digits of HTML or Markdown."""
    return "".join(re.findall(r"\w+", html.unescape(re.sub(r"<[^>]+>", "", text))))


@pytest.mark.slow
@pytest.mark.parametrize("package", ("sg3", "guidance", "nada"))
def test_the_api_page_documents_every_field_of_a_configuration(site, package):
    page = plain(read(site / "api" / f"{package}.html"))
    module, missing = importlib.import_module(package), []
    for name in module.__all__:
        exported_class = getattr(module, name)
        if not dataclasses.is_dataclass(exported_class):
            continue
        missing += [
            f"{name}.{field.name}"
            for field in dataclasses.fields(exported_class)
            if plain(about(field).doc) not in page
        ]
    assert not missing, ", ".join(missing)


@pytest.mark.slow
def test_citations_lead_to_sections_of_the_reference(site):
    anchors = set(re.findall(r'id="([^"]+)"', read(site / "REFERENCE.html")))
    found = re.findall(r'"\.\./REFERENCE\.html#([^"]+)"', read(site / "api/ops_cuda.html"))
    assert len(found) >= 5
    assert set(found) <= anchors


@pytest.mark.slow
def test_pages_load_nothing_from_the_network(site):
    pattern = re.compile(r'<(?:script|img|link)\b[^>]*?\b(?:src|href)="(https?:[^"]+)"')
    found = {url for page in site.rglob("*.html") for url in pattern.findall(read(page))}
    assert not {url for url in found if "fonts" in url or url.endswith((".js", ".css"))}


def test_settings_are_listed_with_their_documentation(root, tmp_path):
    """The griffe extension takes documentation and defaults of `setting` fields at run time."""
    griffe = pytest.importorskip("griffe")
    pytest.importorskip("mkdocstrings")
    (tmp_path / "settings_demo.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from sg3.settings import documented, setting\n\n\n"
        "@documented\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        '    """Settings of a run."""\n\n'
        '    outdir: str = setting(doc="Output folder.")\n'
        '    batch: int = setting(32, "Images per step.", min=1)\n',
        encoding="utf-8",
    )
    extension = root / "docs/mkdocs/griffe_settings.py"
    sys.path.insert(0, str(tmp_path))
    try:
        module = griffe.load(
            "settings_demo",
            search_paths=[str(tmp_path)],
            extensions=griffe.load_extensions(str(extension)),
        )
    finally:
        sys.path.remove(str(tmp_path))
    config = module["Config"]
    attributes = config.docstring.parse("google")[-1].value
    assert [(a.name, a.description) for a in attributes] == [
        ("outdir", "Output folder."),
        ("batch", "Images per step. (at least 1; default 32)"),
    ]
    defaults = {p.name: p.default for p in config.parameters}
    assert defaults == {"self": None, "outdir": None, "batch": "32"}
