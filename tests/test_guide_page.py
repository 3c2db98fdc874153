"""docs/from-the-guide.md: every line of the guide has a row, and rows name only what exists."""

import re
from pathlib import Path

import pytest

from neoxlib.__main__ import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "from-the-guide.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE, re.M)[1:]
SOURCE = "\n".join(
    path.read_text(encoding="utf-8")
    for path in [*(ROOT / "neoxlib").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
)
# Lines of the guide, in its order, that had no place here or half of one.
LINES = (
    "HDK 23.0.0.B060, CANN 7.0.0.B080, FrameworkPTAdapter 5.0.0.B080, Python 3.9.18",
    "firmware first",
    "1.11.1",
    "cp38",
    "manylinux2014",
    "pytorch_v2.0.1_py39.tar.gz",
    "transformers 4.30.2, decorator 5.1.1, sympy 1.11.1, scipy 1.11.3, attrs 23.1.0, psutil 5.9.6",
    "model_download_path",
    "llm_path",
    "model_path",
    "script_path",
    "ceval_work_dir",
    "all files but `.bin`",
    "Ascend-cann-llm",
    "source all three",
    ".tiktoken",
    "TASK_QUEUE_ENABLE=0",
    "LD_PRELOAD",
    "look at one",
    "delete test_result",
)


def test_every_line_of_the_guide_has_a_row_in_the_guides_order():
    left = "\n".join(row[0] for row in ROWS)
    places = [left.find(line) for line in LINES]
    assert -1 not in places and places == sorted(places)


def unknown(code: str) -> bool:
    """Whether code names no command, option, notebook, file, or other name of ours."""
    first, *rest = code.removeprefix("python -m neoxlib ").split()
    if first in cli.commands or code.startswith("python"):
        options = [word for word in rest if word.startswith("-")]
        known = [name for one in cli.commands[first].params for name in one.opts]
        return not set(options) <= set(known)
    if re.fullmatch(r"\d\d_\w+", code):
        return not (ROOT / "notebooks" / f"{code}.ipynb").is_file()
    if re.fullmatch(r"[\w-]+/[\w/.-]*|\w+\.toml", code):
        return not any((place / code).exists() for place in (ROOT, ROOT / "neoxlib"))
    name = re.sub(r"=\w+$", "", code).removeprefix("*")
    return not re.search(rf"(?<![\w-]){re.escape(name)}(?!\w)", SOURCE)


@pytest.mark.parametrize(("line", "here"), ROWS, ids=[row[0][:30] for row in ROWS])
def test_a_row_names_only_commands_parameters_and_files_that_exist(line: str, here: str):
    assert not [code for code in re.findall(r"`([^`]+)`", here) if unknown(code)]


@pytest.mark.parametrize(
    "code",
    [
        "06_nothing",
        "machine/nothing.py",
        "max_seq_length",
        "NO_SUCH_VARIABLE=1",
        "--quickly",
        "install-plan --quickly",
        "python -m neoxlib doctor --quickly",
    ],
)
def test_a_name_that_does_not_exist_would_be_noticed(code: str):
    assert unknown(code)
