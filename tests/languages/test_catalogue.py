"""The catalogue has every text that a reader may meet, and no other."""

import re

import pytest
from babel.messages.pofile import read_po

from neoxlib.languages import LANGUAGES
from neoxlib.languages.catalogue import (
    FOLDER,
    FORMAT,
    Catalogue,
    Entry,
    catalogue,
    plain,
    values_of,
)
from neoxlib.languages.sentences import _Words, is_left
from neoxlib.machine.failures import failures
from neoxlib.setup import notebook_commands
from tests.support import sentences

HAN = re.compile(r"[\u4e00-\u9fff]")
HALF = re.compile(r"[\u4e00-\u9fff][,;:?!()]|[,;:?!()][\u4e00-\u9fff]")
PLACE = re.compile(r"\{[^{}]*\}")
CODE = re.compile(r"[\\|<>=_$^]|\w\(|\.\w|--|&&|#|@media")
TERMS = re.compile(r"(?:[\W\d_]|\{\w*\}|[a-z]+)*")  # a text of places and names alone
ENGLISH_ALSO = (  # a notebook's, a prompt's, a benchmark's or a library's own words
    "The doctor works at",
    "The following are multiple choice questions (with answers) about {subject}.",
    "other (business, health, misc.)",
    "numpy pyyaml decorator attrs scipy psutil sympy cffi protobuf absl-py",
    "outside lower center",
    "File neoxlib, a capture: no Python stack was kept",
    "Language of what is shown; by default that of NEOXLIB_LANG, else en.",
    "A folder, or one of {REFERENCES}.",
    "store: no answer of rank 0",
    "ip link set lo up",
    "ip route get {host}",
    "Host key verification failed",
    "No route to host",
    "Glyph .* missing from font",
    "broken off by a signal",
    "keeper of ranks",  # a thread
    notebook_commands.FROM_HELP,
    *(meaning for _, meaning in notebook_commands.CODES),
)
NO_TEXTS = ("neoxlib/redact.py", "neoxlib/workbook/markup.py")  # lists of names
HELP_BEGINS = notebook_commands.HELP.partition("\n")[0]  # an f-string of the command line
LOGS = {row.name for row in failures()}
PATTERNS = {part for row in failures() for part in re.split(r"\|", row.words)}


@pytest.fixture(scope="module")
def entries() -> dict[str, str]:
    with (FOLDER / "zh.po").open("rb") as file:
        return {plain(entry.id): entry.string for entry in read_po(file) if entry.id}


def is_sentence(text: str) -> bool:
    """Whether a text of the sources is English for a reader, and no code, pattern or log."""
    bare = PLACE.sub(" \0 ", re.sub(r"`[^`]*`", "", text))
    listed = text in LOGS | PATTERNS or text in map(plain, ENGLISH_ALSO)
    helps = text.startswith(HELP_BEGINS)
    return is_left(bare) and not CODE.search(bare) and not listed and not helps


def test_every_sentence_of_the_sources_has_a_translation(entries: dict[str, str]):
    found = sentences.texts()
    spoken = {text: place for text, place in found.items() if place not in NO_TEXTS}
    missing = [text for text in spoken.keys() - entries.keys() if is_sentence(text)]
    assert not missing, "\n".join(f"{found[text]}: {text}" for text in missing)


def test_no_entry_is_left_of_a_text_that_the_sources_have_no_longer(entries: dict[str, str]):
    assert not [text for text in entries if text not in sentences.texts()]


def test_a_translation_has_places_for_the_same_values(entries: dict[str, str]):
    for text, told in entries.items():
        ours, its = values_of(told), values_of(text)
        assert ours <= its and its - ours <= {"s", "value", "value_"}, text


def test_a_translation_is_chinese_with_its_own_marks(entries: dict[str, str]):
    for text, told in entries.items():
        assert HAN.search(told) or TERMS.fullmatch(PLACE.sub("", told).lower()), text
        bare = re.sub(r"\[[^\]]*\]|`[^`]*`|[*]", "", PLACE.sub("x", told))
        assert not HALF.search(bare), told


def test_a_translation_has_the_same_numbers(entries: dict[str, str]):
    number = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])")
    for text, told in entries.items():
        ours, its = (set(number.findall(PLACE.sub(" ", one))) for one in (told, text))
        assert its <= ours, text


def values_for(entry: Entry) -> dict[str, str]:
    """A value for each place: a number where it has a format; one beside another has its mark."""
    made, before = {}, entry.first or " "
    for place in entry.places:
        mark = "; " if not before or before[-1].isalnum() else ""
        value = "7" if place.spec else "s" if place.name == "s" else f"{mark}V{len(made)}"
        made.setdefault(place.name, value)
        before = place.words
    return made


def bare(text: str) -> str:
    """A text without its marks: those of values may be Chinese or not."""
    return re.sub(r"[\s;；.。,，:：]", "", text)


def test_every_entry_is_found_by_what_its_source_makes_of_it():
    """Each text is filled with values and looked up: no other entry may take it."""
    found = catalogue("zh")
    words = _Words(found)
    wrong = {}
    for entry in (entry for some in found.by_word.values() for entry in some):
        values = values_for(entry)
        text = FORMAT.sub(r"{\1}", entry.source).format(**values)
        told = entry.translation.format(**values)
        apart = all(place.words.strip() for place in entry.places[:-1])
        looked_up = words.lines(plain(text))
        if len(entry.words) > 3 and apart and bare(looked_up) != bare(told):
            wrong[text] = looked_up, told
    assert not wrong


def test_no_entry_has_one_name_for_two_nameless_values(entries: dict[str, str]):
    """`{}` twice is one name twice, and a translation would tell the first value for both."""
    assert not [
        text for text in entries if len(re.findall(r"\{_\d+\}", text)) > len(values_of(text))
    ]


def test_braces_of_a_text_itself_keep_what_stands_in_them():
    found = Catalogue.of([("give {what}: {{name: [a, b]}}", "请给出 {what}：{{name: [甲, 乙]}}")])
    assert _Words(found).lines("give it: {name: [a, b]}") == "请给出 it：{name: [甲, 乙]}"


def test_a_text_is_known_whole_by_its_pattern_and_by_its_parts():
    found = Catalogue.of(
        [("{count:,} of {total} tensors; none is new", "{total} 个张量中的 {count} 个；没有新的")]
    )
    words = _Words(found)
    assert words.lines("1,200 of all tensors; none is new") == "all 个张量中的 1,200 个；没有新的"
    assert words.lines("none is new") == "没有新的"
    assert words.one("many of all tensors") is None  # a place with a format is a number's
    assert set(LANGUAGES) == {"en", *(path.stem for path in FOLDER.glob("*.po"))}
