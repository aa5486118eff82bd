"""MkDocs hooks: pages from files outside docs/, and links.

The Markdown files link to each other and to source files as on a code host. On the site, links to
pages are rewritten to where the page is there; links to anything else in the repository keep
their text only. Citations of REFERENCE.md, in docstrings too, become links to its sections.

On API pages, a directive for a package, `::: sg3.metrics`, becomes its docstring and a directive
for each name in its `__all__`. mkdocstrings could list them too, but does not run the code: it
misses what is imported on first use, and functions that have the name of their module.
"""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
from pathlib import Path

from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: file in the repository → page; all other pages are files in docs/.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "recipes/minifaces/README.md": "minifaces.md",
}
#: Pages whose place on the site is taken by another one.
INSTEAD = {"docs/README.md": "index.md"}
HEADING = re.compile(r"^#{2,3} ((\d+(?:\.\d+)?) .*)$", re.MULTILINE)
CITATION = re.compile(r"(?:REFERENCE\.md )?§(\d+(?:\.\d+)?)")
#: An object on an API page, with its options.
DIRECTIVE = re.compile(r"^::: ([\w.]+)\n((?:    .*\n)*)", re.MULTILINE)
DOCSTRING_ONLY = """    options:
      members: false
      show_root_heading: false
      show_root_toc_entry: false
"""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the relative links of a page; complete the packages of an API page."""
    if page.file.src_uri.startswith("api/"):
        markdown = with_exported_names(markdown)
    here = {page: source for source, page in PAGES.items()}
    source = here.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewrite(match: re.Match[str]) -> str:
        target = site_target(source, page.file.src_uri, match[3])
        if target is None:
            return match[2]
        return f"{match[1]}[{match[2]}]({target})"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(p if p.startswith("```") else LINK.sub(rewrite, p) for p in parts)


def with_exported_names(markdown: str) -> str:
    """Expand the packages of an API page. Each name appears once, in the most specific section."""
    directives = list(DIRECTIVE.finditer(markdown))
    sections = [m[1] for m in directives if is_plain_package(m) and "." in m[1]]
    in_sections = {path for name in sections for path in exported_paths(name)}
    seen = {m[1] for m in directives}

    def expand(match: re.Match[str]) -> str:
        if not is_plain_package(match):
            return match[0]
        skipped = seen if "." in match[1] else seen | in_sections
        paths = [path for path in exported_paths(match[1]) if path not in skipped]
        seen.update(paths)
        elsewhere = [path for path in paths if is_on_another_page(path, match[1])]
        parts = [f"::: {path}\n" for path in paths if path not in elsewhere]
        if elsewhere:
            links = ", ".join(f"[{path.rpartition('.')[2]}][{path}]" for path in elsewhere)
            parts.append(f"Also available from `{match[1]}`: {links}.\n")
        return "\n".join([f"::: {match[1]}\n{DOCSTRING_ONLY}", *parts])

    return DIRECTIVE.sub(expand, markdown)


def is_on_another_page(path: str, package: str) -> bool:
    """Whether what is defined at `path` is documented on the page of the package it belongs to."""
    owner = path.split(".")[0]
    if owner == package.split(".")[0]:
        return False
    page = (ROOT / "docs" / "api" / f"{owner}.md").read_text(encoding="utf-8")
    directives = list(DIRECTIVE.finditer(page))
    listed = {name for m in directives if is_plain_package(m) for name in exported_paths(m[1])}
    return path in listed | {m[1] for m in directives}


def is_plain_package(match: re.Match[str]) -> bool:
    """Whether a directive is for a package and has no options."""
    return not match[2] and (ROOT / match[1].replace(".", "/")).is_dir()


def exported_paths(package: str) -> list[str]:
    """Where the objects in `__all__` of a package are defined."""
    module = importlib.import_module(package)
    paths = []
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.isclass(found) or inspect.isroutine(found):
            paths.append(f"{found.__module__}.{found.__qualname__}")
        elif not name.startswith("__"):
            paths.append(f"{package}.{name}")
    return paths


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link citations of the reference, outside code and other links."""
    text = (ROOT / "docs/REFERENCE.md").read_text(encoding="utf-8")
    anchors = {n: slugify(h.replace("`", ""), "-") for h, n in HEADING.findall(text)}
    url = files.get_file_from_path("REFERENCE.md").url_relative_to(page.file)

    def link(match: re.Match[str]) -> str:
        anchor = anchors.get(match[1])
        return f'<a href="{url}#{anchor}">{match[0]}</a>' if anchor else match[0]

    parts, inside = re.split(r"(<[^>]*>)", html), 0
    for i, part in enumerate(parts):
        if part.startswith("<"):
            inside += bool(re.match(r"<(a|code|pre)\b", part))
            inside -= bool(re.match(r"</(a|code|pre)>", part))
        elif not inside:
            parts[i] = CITATION.sub(link, part)
    return "".join(parts)


def site_target(source: str, page: str, link: str) -> str | None:
    """Where `link` in the file `source`, shown as `page`, leads on the site; None for nowhere."""
    if re.match(r"[a-z][a-z0-9+.-]*:|#", link):
        return link
    path, _, anchor = link.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if path in PAGES or path in INSTEAD:
        path = PAGES.get(path) or INSTEAD[path]
    elif path.startswith("docs/"):
        path = path.removeprefix("docs/")
    else:
        return None
    found = posixpath.relpath(path, posixpath.dirname(page) or ".")
    return f"{found}#{anchor}" if anchor else found
