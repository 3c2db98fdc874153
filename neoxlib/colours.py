"""The colours of figures, and a figure for light and dark pages in one.

A figure is drawn once, dark on white, in colours that stand out from white by the limits of WCAG
2.2. For a reader who prefers dark pages its own style sheet replaces what would not stand out from
dark paper; print, and programs that read no style sheets, show it as it was drawn.
"""

import re
from collections.abc import Iterable

# Okabe and Ito's palette, which colour-blind readers can tell apart; orange and grey are darker.
BLUE = "#0072b2"
ORANGE = "#c77f00"
GREEN = "#009e73"
RED = "#d55e00"
PINK = "#a8508a"
GREY = "#6b6b6b"
PALE = "#949494"
BROWN = "#8c564b"
CYAN = "#0e96a6"
OLIVE = "#8a8b00"
VIOLET = "#9467bd"
SERIES = (BLUE, RED, GREEN, PINK, ORANGE, GREY)  # of lines, in turn
MARKERS = "osD^v"
REMARK = "#555555"  # text that is not the matter itself
INK = {"light": "#000000", "dark": "#dfe5ec"}  # dark: of templates/style.css
PAPER = {"light": "#ffffff", "dark": "#14181d"}
ON_CELLS = ("#010101", "#fefefe")  # text on a coloured cell, the same on any paper
LINE, TEXT = 3.0, 4.5  # the least contrast: WCAG 2.2, 1.4.11 and 1.4.3
DARK_SCREEN = "@media screen and (prefers-color-scheme:dark)"
STEPS = 40  # from a colour to white
DRAWN = re.compile(r"(?:fill|stroke): (#[0-9a-f]{6})")
WRITTEN = re.compile(r'<text[^>]* style="[^"]*?fill: (#[0-9a-f]{6})')


def series(count: int) -> list[tuple[str, str]]:
    """Return colour and marker of each of `count` lines; those of one colour differ in marker."""
    colours, markers = len(SERIES), len(MARKERS)
    return [(SERIES[n % colours], MARKERS[n // colours % markers]) for n in range(count)]


def contrast(one: str, other: str) -> float:
    """Return how much two colours differ in brightness, from 1 to 21, as WCAG defines it."""
    lower, upper = sorted((_luminance(one), _luminance(other)))
    return (upper + 0.05) / (lower + 0.05)


def on_cell(red: float, green: float, blue: float) -> str:
    """Return the text's colour that can be read on a cell of this colour, its parts 0…1."""
    cell = _written([255 * part for part in (red, green, blue)])
    return max(ON_CELLS, key=lambda text: contrast(text, cell))


def on_dark(colour: str, least: float) -> str:
    """Return a colour's counterpart on dark paper: its own, or a lighter one of contrast `least`.

    Black and white change places.
    """
    for named in (INK, PAPER):
        if colour == named["light"]:
            return named["dark"]
    if colour in ON_CELLS:
        return colour
    parts = _parts(colour)
    for step in range(STEPS + 1):
        found = _written([part + (255 - part) * step / STEPS for part in parts])
        if contrast(found, PAPER["dark"]) >= least:
            return found
    raise AssertionError(f"white does not stand out from {PAPER['dark']}")


def in_both_schemes(svg: str) -> str:
    """Return a drawing of matplotlib's with a style sheet for readers who prefer dark pages.

    matplotlib writes no colour for black: such an element takes that of the whole drawing.
    """
    rules = [f"svg{{fill:{INK['dark']}}}"]
    for colour, dark in _changed(DRAWN.findall(svg), LINE):
        for kind in ("fill", "stroke"):
            rules.append(f'[style*="{kind}: {colour}"]{{{kind}:{dark}!important}}')
    for colour, dark in _changed(WRITTEN.findall(svg), TEXT):
        rules.append(f'text[style*="fill: {colour}"]{{fill:{dark}!important}}')
    sheet = f"<style>{DARK_SCREEN}{{{''.join(rules)}}}</style>"
    return re.sub(r"<svg\b[^>]*>", lambda start: start[0] + sheet, svg, count=1)


def _changed(found: Iterable[str], least: float) -> list[tuple[str, str]]:
    """Return each colour with its counterpart on dark paper, if that is another."""
    pairs = ((colour, on_dark(colour, least)) for colour in sorted(set(found)))
    return [(colour, dark) for colour, dark in pairs if dark != colour]


def _luminance(colour: str) -> float:
    parts = (part / 255 for part in _parts(colour))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _parts(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _written(parts: Iterable[float]) -> str:
    return "#" + "".join(f"{round(part):02x}" for part in parts)
