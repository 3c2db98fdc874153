"""README.zh-CN.md and docs/zh say the same as their English pages, section by section."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHINESE = [ROOT / "README.zh-CN.md", *sorted((DOCS / "zh").glob("*.md"))]
BOTH = ("first-steps", "your-checkpoint", "ascend", "ci", "troubleshooting", "security")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-?\d+)?")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
HAN = re.compile(r"[\u4e00-\u9fff]")
# Half-width punctuation beside a Chinese character is a slip of the typist.
HALF = re.compile(r"[\u4e00-\u9fff][,;:?!()]|[,;:?!()][\u4e00-\u9fff]")


def english(page: Path) -> Path:
    """The English page of a Chinese one."""
    return ROOT / "README.md" if page.parent == ROOT else DOCS / page.name


class Section(NamedTuple):
    """What stands below one heading, up to the next: the text without blocks, and the blocks."""

    level: int
    title: str
    text: str
    blocks: tuple[tuple[str, str], ...]


def sections(path: Path) -> list[Section]:
    """The sections of a page. A `#` in a block is no heading."""
    found: list[tuple[str, str]] = []

    def keep(match: re.Match[str]) -> str:
        found.append((match[1], match[2]))
        return f"\0{len(found) - 1}\0"

    text = FENCE.sub(keep, re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8")))
    parts = re.split(r"^(#+) (.+)$", text, flags=re.M)[1:]
    rows = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return [
        Section(len(marks), title, *_without_blocks(body, found)) for marks, title, body in rows
    ]


def _without_blocks(
    body: str, found: list[tuple[str, str]]
) -> tuple[str, tuple[tuple[str, str], ...]]:
    numbers = [int(n) for n in re.findall("\0(\\d+)\0", body)]
    return re.sub("\0\\d+\0", "", body), tuple(found[n] for n in numbers)


def targets(section: Section, path: Path) -> Counter[str]:
    """The links of a section, those to a Chinese page counted as links to its English one."""
    found = []
    for link in LINK.findall(section.text):
        if "://" in link:
            found.append(link)
            continue
        place = (path.parent / link.partition("#")[0]).resolve()
        found.append(str(english(place) if place in CHINESE else place))
    return Counter(one for one in found if Path(one) != english(path))


def tables(section: Section) -> list[list[str]]:
    """The rows of all tables of a section, split into cells."""
    lines = re.findall(r"^\|(.*)\|$", section.text, re.M)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


PAIRS = [
    pytest.param(ours, theirs, page, id=f"{page.name}, {theirs.title}")
    for page in CHINESE
    for ours, theirs in zip(sections(page), sections(english(page)), strict=False)
]
EACH_PAGE = pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
EACH_SECTION = pytest.mark.parametrize(("ours", "theirs", "page"), PAIRS)


def test_these_pages_are_there_in_both_languages():
    assert {f"{name}.md" for name in BOTH} <= {page.name for page in CHINESE}
    assert all(english(page).is_file() for page in CHINESE)


@EACH_PAGE
def test_headings_match_one_to_one(page: Path):
    ours, theirs = sections(page), sections(english(page))
    assert [one.level for one in ours] == [one.level for one in theirs]


@EACH_PAGE
def test_each_language_links_to_the_other_at_its_top(page: Path):
    for path, other in ((page, english(page)), (english(page), page)):
        top = path.read_text(encoding="utf-8").splitlines()[:4]
        links = LINK.findall("\n".join(top))
        assert links and (path.parent / links[0]).resolve() == other, path


@EACH_SECTION
def test_blocks_of_code_are_equal(ours: Section, theirs: Section, page: Path):
    assert ours.blocks == theirs.blocks


@EACH_SECTION
def test_numbers_are_equal(ours: Section, theirs: Section, page: Path):
    mine, its = (Counter(NUMBER.findall(LINK.sub("", one.text))) for one in (ours, theirs))
    assert mine == its, f"only in Chinese: {mine - its}; only in English: {its - mine}"


@EACH_SECTION
def test_links_are_equal(ours: Section, theirs: Section, page: Path):
    assert targets(ours, page) == targets(theirs, english(page))


@EACH_SECTION
def test_names_in_code_are_equal(ours: Section, theirs: Section, page: Path):
    assert set(CODE.findall(ours.text)) == set(CODE.findall(theirs.text))


@EACH_SECTION
def test_tables_have_the_same_rows(ours: Section, theirs: Section, page: Path):
    mine, its = tables(ours), tables(theirs)
    assert [len(row) for row in mine] == [len(row) for row in its]
    for row, other in zip(mine, its, strict=True):
        numbers = [Counter(NUMBER.findall(LINK.sub("", " ".join(one)))) for one in (row, other)]
        assert numbers[0] == numbers[1], row


@EACH_PAGE
def test_a_chinese_paragraph_is_one_line(page: Path):
    """A line break between two Chinese characters is shown as a space."""
    for section in sections(page):
        broken = re.findall(r"^(?![|#\s]).+\n(?!\s*(?:[-*|#!]|\d+\. |\[)).+", section.text, re.M)
        assert not broken


@EACH_PAGE
def test_no_paragraph_is_left_in_english_and_punctuation_is_full_width(page: Path):
    for section in sections(page):
        prose = LINK.sub("]", CODE.sub("`", section.text))
        cells = [cell for row in tables(section) for cell in row]
        paragraphs = [p for p in re.split(r"\n\s*\n", prose) if not p.lstrip().startswith("|")]
        left = [p for p in paragraphs if re.search(r"[a-z]{4,} [a-z]{2,}", p) and not HAN.search(p)]
        assert not [p for p in left if "English]" not in p], left
        assert not HALF.search(re.sub(r"\[[^\]]*\]|[*]", "", prose)), HALF.search(prose)
        assert all(cells) or not section.text.strip() or cells[:2] == ["", ""]


ROWS = [
    pytest.param(row, other, id=row[0])
    for ours, theirs in zip(
        sections(DOCS / "zh" / "troubleshooting.md"),
        sections(DOCS / "troubleshooting.md"),
        strict=False,
    )
    for row, other in zip(tables(ours), tables(theirs), strict=False)
    if len(row) == 5 and not row[0].startswith("-")
][1:]
SOURCE = re.compile(r"[\w.-]+/[\w.-]+(?: [0-9a-f]{8}|#\d+)|[\w/.-]+\.(?:md|json|py|h|cpp)\b")


@pytest.mark.parametrize(("row", "other"), ROWS)
def test_a_message_has_the_same_name_and_sources(row: list[str], other: list[str]):
    """A row is the same failure: logs are in English whatever the reader's language."""
    if other[0] != "message":
        assert row[0] == other[0]
    assert SOURCE.findall(row[2]) == SOURCE.findall(other[2])


@pytest.mark.parametrize("column", [1, 3])
def test_each_kind_and_each_place_has_one_word_in_chinese(column: int):
    pairs = {(one.values[0][column], one.values[1][column]) for one in ROWS}
    assert len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})
