"""What could run or load in a page, as a browser reads it: by html5lib's parser of the standard.

The pages are made with other parsers. html5lib is the copy that bleach, a part of nbconvert, has.
"""

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from bleach._vendor import html5lib

ELEMENTS = {  # that run, load, or change how the rest is read
    *("script", "iframe", "frame", "object", "embed", "applet", "base", "link", "meta", "form"),
    *("noscript", "template", "noembed", "noframes", "xmp", "plaintext", "style", "math", "svg"),
}
ADDRESSES = ("src", "href", "xlink:href", "action", "formaction", "data", "poster", "srcset")
SAFE = re.compile(r"(#|https?://|mailto:|data:image/|[\w./%~-]*$)", re.IGNORECASE)
LOADS = re.compile(r"url\(|@import|expression\(|\\", re.IGNORECASE)


def dangers(html: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """List the elements and attributes of a page that may run or load something.

    `allowed` names elements that the page has of its own.
    """
    return [found for element in elements(html) for found in _of(element, allowed)]


def text_of(html: str) -> str:
    """Return what a reader sees, style sheets and scripts aside."""
    return "".join(_texts(_parsed(html)))


def elements(html: str) -> list[Element]:
    """Return every element, in order."""
    return [element for element in _parsed(html).iter() if isinstance(element.tag, str)]


def _parsed(html: str) -> Element:
    return html5lib.parse(html, treebuilder="etree", namespaceHTMLElements=False)


def _texts(element: Element) -> Iterator[str]:
    if isinstance(element.tag, str) and element.tag not in ("script", "style"):
        yield element.text or ""
        for child in element:
            yield from _texts(child)
            yield child.tail or ""


def _of(element: Element, allowed: tuple[str, ...]) -> Iterator[str]:
    name = re.sub(r"^\{.*\}", "", element.tag).lower()
    if name in ELEMENTS and name not in allowed:
        yield f"<{name}>"
    for key, value in element.attrib.items():
        attribute = re.sub(r"^\{.*\}", "", str(key)).lower()
        address = re.sub(r"[\x00-\x20]", "", value)
        if attribute.startswith("on") or (attribute in ADDRESSES and not SAFE.match(address)):
            yield f"<{name} {attribute}={value!r}>"
        if attribute == "style" and LOADS.search(value):
            yield f"<{name} style={value!r}>"
