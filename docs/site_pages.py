"""A hook of mkdocs: the documents at the root of the repository are pages of the site as well."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""The page that stands for each document of the root. README has none of its own: index.md says the same."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, with links that lead to the other pages of the site."""
    root = Path(config.config_file_path).parent
    for document in ("CONTRIBUTING.md", "CHANGELOG.md"):
        text = (root / document).read_text(encoding="utf-8").replace("](docs/", "](")
        for name, page in _PAGES.items():
            text = text.replace(f"]({name})", f"]({page})")
        files.append(File.generated(config, _PAGES[document], content=text))
    return files
