"""MkDocs hooks: pages from files outside docs/, and links.

The Markdown files link to each other and to source files as on a code host. On the site, links to
pages are rewritten to where the page is there; links to anything else in the repository keep
their text only. Citations of REFERENCE.md, in docstrings too, become links to its sections.

Griffe takes `package.name` for the submodule where a function has its module's name, and would
leave the function out: such functions get directives of their own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import posixpath
import re
from collections.abc import Iterator
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
#: A package of an API page, with its options.
DIRECTIVE = re.compile(r"^::: ([\w.]+)\n((?:    .*\n)*)", re.MULTILINE)
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
        markdown = DIRECTIVE.sub(with_shadowed_functions, markdown)
    here = {page: source for source, page in PAGES.items()}
    source = here.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewrite(match: re.Match[str]) -> str:
        target = site_target(source, page.file.src_uri, match[3])
        if target is None:
            return match[2]
        return f"{match[1]}[{match[2]}]({target})"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(p if p.startswith("```") else LINK.sub(rewrite, p) for p in parts)


def with_shadowed_functions(match: re.Match[str]) -> str:
    """The directive of a package, and one for each function with the name of its module."""
    package, options = match[1], match[2]
    if "members:" in options or not (ROOT / package.replace(".", "/")).is_dir():
        return match[0]
    return match[0] + "".join(f"\n::: {path}\n" for path in shadowed_functions(package))


def shadowed_functions(package: str) -> Iterator[str]:
    """Paths of what `__all__` of a package lists and a submodule of the same name hides."""
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name)
        if not inspect.ismodule(found) and importlib.util.find_spec(f"{package}.{name}"):
            yield f"{found.__module__}.{found.__qualname__}"


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
