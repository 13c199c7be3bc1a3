"""HTML that is escaped by construction: what is not `Html` is text.

A report shows what hostile programs wrote, so no string reaches the page unless
it went through `element`.
"""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Final

_VOID: Final = frozenset({"meta", "br", "rect", "line"})


class Html(str):
    """Markup that is already safe; only this module makes it."""

    __slots__ = ()


def join(*parts: str) -> Html:
    """The parts one after the other; a part that is no Html is escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def element(name: str, /, *children: str, **attributes: str | float) -> Html:
    """`<name attribute="...">children</name>`.

    An attribute is written with a hyphen for each inner underscore; a trailing
    underscore keeps it from being a keyword (class_).
    """
    head = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_value(value))}"'
        for key, value in attributes.items()
    )
    if name in _VOID and not children:
        return Html(f"<{name}{head}>" if name in ("meta", "br") else f"<{name}{head}/>")
    return Html(f"<{name}{head}>{join(*children)}</{name}>")


def style(css: str) -> Html:
    """A style element; the sheet is ours and is not escaped, so it must have no `<`."""
    if "<" in css:
        raise ValueError("a style sheet with a < could end its element")
    return Html(f"<style>{css}</style>")


def head(title: str, css: str, *more: str) -> Html:
    """The head of a page that asks for nothing from anywhere, which it tells the browser too."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        *more,
        element("title", title),
        style(css),
    )


def document(*children: str) -> Html:
    return Html(f"<!doctype html>\n{element('html', *children, lang='en')}\n")


def _value(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
