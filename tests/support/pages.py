"""The addresses that a page of HTML would load."""

import re
from html.parser import HTMLParser


class Loads(HTMLParser):
    """Lists what a browser would fetch or run, with a parser that is not the one the pages are made
    with.
    """

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.scripts = 0
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.scripts += tag == "script"
        for name, value in attrs:
            loads = name in ("src", "srcset", "poster", "data", "xlink:href") or (
                name == "href" and tag != "a"
            )
            if (loads and not value.startswith(("data:image/", "#"))) or name.startswith("on"):
                self.found.append((tag, name, value))
            if name == "style":
                self._css(value)

    def handle_data(self, data):
        if self._inside == "style":
            self._css(data)

    def _css(self, text):
        self.found += re.findall(r"@import.*|url\(\s*['\"]?(?!#|data:).*?\)", text)
