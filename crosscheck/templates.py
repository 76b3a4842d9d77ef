"""Pages made of templates: one file that fetches nothing, and in which what comes from outside is text."""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


class Templates:
    """The templates in the folder `assets` of a package, and the styles and scripts there, which each page holds as they are."""

    def __init__(
        self,
        package: str,
        *,
        styles: Sequence[str],
        scripts: Sequence[str] = (),
        filters: Mapping[str, Callable[..., str]],
        escape: Callable[[str], str],
    ) -> None:
        """`escape` shows what would reorder or hide text, such as a mark that turns the direction of writing."""

        def finalize(value: Any) -> Any:
            return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value

        self.environment = Environment(
            loader=PackageLoader(package, "assets"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=finalize,
        )
        self.environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
        self.environment.filters |= {"thousands": _thousands, **filters}
        self._styles = [_asset(package, name) for name in styles]
        self._scripts = [_asset(package, name) for name in scripts]
        self._hashes = {"style": _hashes(self._styles), "script": _hashes(self._scripts)}

    def fill(self, template: str, **values: Any) -> str:
        """Return the page that the template makes of the values."""
        page = self.environment.get_template(template).render(
            **values,
            made=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            styles=self._styles,
            scripts=self._scripts,
            hashes=self._hashes,
        )
        return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names need not be Unicode that can be written


def _thousands(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _asset(package: str, name: str) -> Markup:
    return Markup(files(package).joinpath("assets", name).read_text(encoding="utf-8"))  # noqa: S704


def _hashes(texts: Sequence[str]) -> str:
    """Return what the page's policy allows to style or to run: these texts, and nothing that data brings."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
