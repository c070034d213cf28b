"""Hooks of mkdocs: links from a page to a file of the repository lead to a page that shows this file."""

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

JAPANESE = "README.ja.md"  # a page of the site without changes
_LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)((?:#[^)]*)?)\)")
_LANGUAGES = {".toml": "toml", ".py": "python", ".sh": "sh", ".json": "json", ".yaml": "yaml", ".md": "md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that a page links to."""
    root = Path(config.config_file_path).parent
    for page in [file for file in files.documentation_pages() if file.abs_src_path]:
        for target in _targets(page.content_string, page.src_uri):
            if target != JAPANESE and files.get_file_from_path(f"{target}.md") is None and (root / target).is_file():
                page_of_file = File.generated(
                    config, f"{target}.md", content=_shown(root, target), inclusion=InclusionLevel.NOT_IN_NAV
                )
                files.append(page_of_file)
    readme = (root / JAPANESE).read_text(encoding="utf-8")
    files.append(File.generated(config, JAPANESE, content=_from_root(readme)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point these links at the pages that show the files."""
    here = PurePosixPath(page.file.src_uri).parent

    def link(match: re.Match[str]) -> str:
        target = _outside(match[1], page.file.src_uri)
        if target == JAPANESE:
            return f"]({posixpath.relpath(target, here)}{match[2]})"
        if target is None or files.get_file_from_path(f"{target}.md") is None:
            return match[0]
        return f"]({posixpath.relpath(f'{target}.md', here)}{match[2]})"

    return _LINK.sub(link, markdown)


def _targets(markdown: str, page: str) -> list[str]:
    return [target for match in _LINK.finditer(markdown) if (target := _outside(match[1], page))]


def _outside(link: str, page: str) -> str | None:
    """The path in the repository of a link that leaves docs/, None for one that does not."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith(("docs/", "..")) else target


def _from_root(markdown: str) -> str:
    """A text whose links start from the root of the repository, for the root of the site: docs/ is that root there."""
    markdown = re.sub(r"\]\(docs/([^)]*)\)", r"](\1)", markdown)
    return re.sub(r"(?<!!)\[([^]]*)\]\((?:tests|recipes|NOTICE|README|CONTRIBUTING)[^)]*\)", r"\1", markdown)


def _shown(root: Path, target: str) -> str:
    language = _LANGUAGES.get(PurePosixPath(target).suffix, "text")
    text = (root / target).read_text(encoding="utf-8")
    hidden = "---\nsearch: { exclude: true }\nhide: [navigation, toc]\n---\n"
    return f"{hidden}\n# {target}\n\n`````{language}\n{text}\n`````\n"
