"""Values arrive as typed: the declared type decides, on the command line and in a preset."""

import json
import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from neoxlib.__main__ import cli
from neoxlib.errors import ParameterError
from neoxlib.workbook import arguments, ci_files, parameters
from neoxlib.workbook.param import Param
from tests.support.small_notebooks import start, write

TEXTS = (
    "12",
    "1e-3",
    "010",
    "1:30",
    "0x1F",
    "1_000",
    "yes",
    "No",
    "true",
    "null",
    "None",
    "~",
    "2024-01-31",
    "2024-13-45",
    "# heading",
    "a # b",
    "a: b",
    "- x",
    "'quoted'",
    '"quoted"',
    "  blanks  ",
    "line\nbreak",
    "\n",
    "tab\t",
    "{x}",
    "&a",
    "*a",
    "!important",
    "!!int 3",
    "%TAG",
    "@x",
    "`x`",
    "|",
    ">",
    "?",
    "a\\nb",
    "\\",
    "月 ✓ 😀",
    "---",
    "=",
    "<<",
)
LISTS = (["[x]", "]"], ["12", "yes", "~"], ["a, b", '"'], ["\n", "  "], ["😀", "\\"])
BOOK = """\
seed_text: str = "x"  # a text
maybe: str | None = None  # a text
words: list[str] = []  # texts
kept: list = ["a"]  # texts, by their default
bare: "list" = []  # anything
many: Optional[int] = 5  # a number
count: int = 0  # a number
share: float = 0.5  # a number
flag: bool = False  # yes or no"""


def job(tmp_path: Path, *texts: tuple[str, str], preset: str | None = None) -> dict:
    path = Path(write(tmp_path, "book", BOOK))
    (tmp_path / "preset.yaml").write_text(preset or "", encoding="utf-8")
    presets = [arguments.read_preset(str(tmp_path / "preset.yaml"))] if preset is not None else []
    return arguments.prepare([path], presets, list(texts))[0].given


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_typed_whatever_declares_it(text, tmp_path):
    found = job(
        tmp_path, *((name, text) for name in ("seed_text", "maybe", "words", "kept", "bare"))
    )
    assert found == {
        "seed_text": text,
        "maybe": text,
        "words": [text],
        "kept": [text],
        "bare": [text],
    }


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_arrives_as_typed_alone_and_in_a_list(text):
    assert parameters.read_text(Param("str", "", ""), text) == text
    texts = Param("list", [], "", item="str")
    assert parameters.read_text(texts, json.dumps([text, "b"])) == [text, "b"]
    assert parameters.read_text(texts, json.dumps([text], ensure_ascii=False)) == [text]
    if text and not text.lstrip().startswith("["):
        assert parameters.read_text(texts, text) == [text]


@pytest.mark.parametrize("texts", LISTS, ids=str)
def test_a_list_of_texts_is_what_its_json_says(texts, tmp_path):
    assert job(tmp_path, ("words", json.dumps(texts)))["words"] == texts


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("[yes, 12, ~, 2024-01-31]", ["yes", "12", "~", "2024-01-31"]),
        ("[law, 'a b', \"c\\n\"]", ["law", "a b", "c\n"]),
        ('["a", 12]', ["a", "12"]),
        ("[]", []),
        ('["line\nbreak"]', ["line\nbreak"]),
        ("", []),
    ],
)
def test_items_of_a_list_are_the_texts_that_stand_there(typed, words, tmp_path):
    assert job(tmp_path, ("words", typed))["words"] == words


NO_LISTS = (
    "[a",
    "[a: b]",
    "[INST] hi [/INST]",
    "[!note]",
    "[!foo bar]",
    "[&a b]",
    "[[a]]",
    "[a\nb]",
    "['a\nb']",
    " [x] y",
    "[" * 1500,
    "[" * 1500 + "]" * 1500,
    "[a] # b",
    "[a, # c\n b]",
    "[{}]",
    "[*a]",
    "[? a]",
    "[a]\n---\n[b]",
)


@pytest.mark.parametrize("typed", NO_LISTS)
def test_what_begins_as_a_list_and_is_none_of_texts_is_refused_with_how_to_write_it(
    typed, tmp_path
):
    """Never read as something else; a prompt that begins with [ goes into a list."""
    with pytest.raises(
        ParameterError, match=r"words: found .*a text that begins with \[ stands in one, in quotes"
    ):
        job(tmp_path, ("words", typed))
    assert job(tmp_path, ("words", json.dumps([typed])))["words"] == [typed]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "12", 12),
        ("count", "010", 10),
        ("share", "1e-3", 1e-3),
        ("flag", "yes", True),
        ("flag", "0", False),
        ("bare", "[1, [2]]", [1, [2]]),
    ],
)
def test_other_types_are_read_as_what_they_are_also_from_a_preset(name, text, value, tmp_path):
    assert job(tmp_path, (name, text)) == job(tmp_path, preset=f"{name}: {text}\n") == {name: value}


@pytest.mark.parametrize(
    "text", ["12", "1e-3", "010", "1:30", "0x1F", "yes", "No", "2024-01-31", "2024-13-45", "a b"]
)
def test_a_preset_and_the_command_line_agree_on_texts(text, tmp_path):
    preset = f"seed_text: {text}\nwords: [{text}, b]\nkept:\n- {text}\n"
    assert job(tmp_path, preset=preset) == {"seed_text": text, "words": [text, "b"], "kept": [text]}
    assert job(tmp_path, preset=f"words: {text}\n") == job(tmp_path, ("words", text))


@pytest.mark.parametrize("text", TEXTS)
def test_what_yaml_writes_of_a_text_is_read_as_that_text(text, tmp_path):
    preset = yaml.safe_dump({"seed_text": text, "words": [text, text]}, allow_unicode=True)
    assert job(tmp_path, preset=preset) == {"seed_text": text, "words": [text, text]}


@pytest.mark.parametrize("null", ["~", "null", "Null"])
def test_a_null_is_no_text_and_the_default_elsewhere(null, tmp_path):
    with pytest.raises(
        ParameterError,
        match=f"seed_text: found {null}, expected a text; write '' for the empty one",
    ):
        job(tmp_path, preset=f"seed_text: {null}\n")
    assert job(tmp_path, preset=f"many: {null}\nseed_text:\n") == {"many": 5, "seed_text": ""}


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("count: 1\nflag: yes\ncount: 2\n", "has count in line 1 and in line 3"),
        ("? [a]\n: 1\n", "has no name in line 1"),
        ("[1]", "holds list"),
        ("count: [\n", "is not YAML"),
        ("bare: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("bare: 2024-13-45\n", "bare: cannot be read: month must be"),
        ("seed_text: !foo x\n", "seed_text: cannot be read"),
        ("seed_text: [a]\n", "expected str; a text that looks like something else goes in quotes"),
        ("words: [[a]]\nshare: '0.5'\n", "share: found '0.5', which is str, expected float"),
        ("count: 1:30\n", "count: found '1:30'"),
        ("words: ~\n", "words: found None"),
    ],
)
def test_a_preset_that_says_nothing_or_two_things_is_refused(preset, said, tmp_path):
    with pytest.raises(ParameterError) as error:
        job(tmp_path, preset=preset)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["bare", "words", "count", "seed_text"])
def test_a_value_that_holds_itself_is_refused(name, tmp_path):
    with pytest.raises(ParameterError, match=f"{name}: "):
        job(tmp_path, preset=f"{name}: &a [*a]\n")
    with pytest.raises(ParameterError, match="bare: "):
        job(tmp_path, ("bare", "[&a [*a]]"))


def bomb(levels: int) -> str:
    """A small text with ten to the power of `levels` values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


MERGED = "x0: &x0 {a: 1}\n" + "".join(
    f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 10)}]}}\n" for n in range(1, 9)
)


@pytest.mark.parametrize("preset", [bomb(9), bomb(40), MERGED], ids=["lists", "more", "merged"])
def test_a_text_that_unfolds_to_millions_of_values_is_refused(preset, tmp_path):
    last = preset.splitlines()[-1].partition(":")[0]
    with pytest.raises(ParameterError, match=r"values where its aliases are; at most 10,000"):
        job(tmp_path, preset=f"{preset}\nbare: *{last}\n")
    with pytest.raises(ParameterError, match="bare: "):
        job(tmp_path, ("bare", "[{" + ", ".join(preset.splitlines()) + "}]"))


def test_anchors_and_merged_names_of_a_preset_are_read(tmp_path):
    preset = "<<: &base {count: 3, seed_text: 12}\nseed_text: &t 7\nwords: [*t]\n"
    assert job(tmp_path, preset=preset) == {"count": 3, "seed_text": "7", "words": ["7"]}


HALVES = (
    'prompts: ["\\ud800 x"]\n',
    "prompts: [a, '\udcff']\n",
    'stop: "\\udfff"\n',
    'model_dir: "\\ud800"\n',
)


@pytest.mark.parametrize("preset", HALVES, ids=ascii)
def test_half_a_character_is_refused_before_a_kernel_starts(preset, tmp_path, monkeypatch):
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "half.yaml").write_bytes(preset.encode("utf-8", "surrogatepass"))
    said = CliRunner().invoke(cli, ["report", "02_inference", "-f", str(tmp_path / "half.yaml")])
    assert said.exit_code == ci_files.BAD_PARAMETERS and not (tmp_path / "outputs").exists()
    assert "half a character" in said.stderr or "is not UTF-8" in said.stderr


@pytest.mark.parametrize("name", ["prompts", "model_dir", "cluster_profile", "wrong \udcff"])
def test_bytes_that_are_no_text_are_refused_on_the_command_line(name):
    said = CliRunner().invoke(cli, ["report", "02_inference", "-p", name, os.fsdecode(b"caf\xe9")])
    assert said.exit_code == ci_files.BAD_PARAMETERS
    assert "half a character" in said.stderr or "unknown" in said.stderr


@pytest.mark.parametrize("name", ["model_dir", "-f"])
def test_a_path_that_no_system_has_is_refused_in_one_line(name):
    given = ["-f", "x" * 5000] if name == "-f" else ["-p", name, "x" * 5000]
    said = CliRunner().invoke(cli, ["report", "02_inference", *given])
    assert said.exit_code == ci_files.BAD_PARAMETERS and "Traceback" not in said.stderr


def test_the_kernel_gets_what_was_typed(tmp_path, monkeypatch):
    """Through papermill's own code for a cell, and the results that a run keeps."""
    monkeypatch.setenv("NEOXLIB_OUTPUTS", str(tmp_path / "outputs"))
    book = 'seed_text: str = ""  # t\nwords: list[str] = []  # t\n'
    book += "prompts: list = []  # t\nplan_only: bool = False  # p"
    keep = "import json\n(run.folder / 'got.json').write_text(json.dumps([seed_text, words]))"
    path = write(tmp_path, "book", book, start("book"), keep, "run.finish()")
    odd = "\n".join(TEXTS)
    given = ["-p", "seed_text", odd, "-p", "words", json.dumps(TEXTS), "-p", "prompts", "# 1"]
    assert CliRunner().invoke(cli, ["report", path, *given], catch_exceptions=False).exit_code == 0
    (folder,) = (tmp_path / "outputs" / "book").iterdir()
    assert json.loads((folder / "got.json").read_text()) == [odd, list(TEXTS)]
    assert json.loads((folder / "results.json").read_text())["parameters"]["prompts"] == ["# 1"]
