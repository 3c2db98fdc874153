"""Tables of the documentation that a make target writes, between two markers of a page."""

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path


def put_rows(
    page: Path, name: str, head: Sequence[str], rows: Iterable[Sequence[str]], keys: int, keep: bool
) -> None:
    """Put rows between the page's markers `name`; `keep` leaves the rows of other keys there.

    The first `keys` cells of a row are its key. Raises ValueError if the page has no markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    old, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{page.name} lacks the markers {begin} and {end}")
    there = [line for line in old.splitlines() if line.startswith("| ")][1:]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    table = {_key(line, keys): line for line in [*there * keep, *lines]}
    heads = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    text = "\n".join([begin, "", *heads, *table.values(), "", end])
    page.write_text(f"{before}{text}{after}", encoding="utf-8")


def _key(line: str, keys: int) -> Hashable:
    return tuple(line.split(" | ")[:keys])
