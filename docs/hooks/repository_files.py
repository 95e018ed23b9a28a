"""Takes files of the repository that pages link to into the site, so that each link leads there."""

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_FOLDER = "repository"
_LINK = re.compile(r"(?<=\]\()(\.\.?/[^)#\s]+)(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked to and lies outside the documentation."""
    root = Path(config.config_file_path).parent
    for page in files.documentation_pages():
        for link in _LINK.findall(page.content_string):
            path = _outside(page, link, root)
            if path is not None and files.get_file_from_path(_copy_of(path)) is None:
                files.append(File.generated(config, _copy_of(path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to the copies."""
    root = Path(config.config_file_path).parent

    def lead(link: re.Match[str]) -> str:
        path = _outside(page.file, link[0], root)
        if path is None:
            return link[0]
        return posixpath.relpath(_copy_of(path), PurePosixPath(page.file.src_uri).parent)

    return _LINK.sub(lead, markdown)


def _outside(page: File, link: str, root: Path) -> PurePosixPath | None:
    """What a link of a page leads to in the repository, where that is a file outside docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), link))
    inside = path.startswith(("docs/", "../"))
    return None if inside or not (root / path).is_file() else PurePosixPath(path)


def _copy_of(path: PurePosixPath) -> str:
    """Its place in the site; browsers show a text, and save what they do not know."""
    return f"{_FOLDER}/{path}.txt"
