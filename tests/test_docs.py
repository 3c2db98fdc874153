"""README.md and docs/: commands parse, names and links exist, figures have a source."""

import ast
import importlib
import importlib.util
import inspect
import json
import operator
import re
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner

import neoxlib
from neoxlib.__main__ import cli
from neoxlib.demo import EXAM_DIR, MODEL_DIR
from neoxlib.workbook import arguments

ROOT = Path(__file__).parents[1]
ENGLISH = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHINESE = [ROOT / "README.zh-CN.md", *sorted((ROOT / "docs" / "zh").glob("*.md"))]
PAGES = [*ENGLISH, *CHINESE]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
OBJECTS = {"engine": neoxlib.Engine, "session": neoxlib.Session}
PREFIX = ["python", "-m", "neoxlib"]
# Programs that are not ours; those of the step-by-step pages: test_step_pages.py
ELSEWHERE = {
    "pip",
    "papermill",
    "msprobe",
    "docker",
    "ls",
    "source",
    "export",
    "python3.11",
    "touch",
}
README_LINES = 130


class Block(NamedTuple):
    """One fenced block of a page."""

    page: str
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(path.name, language, text) for language, text in found]


BLOCKS = [block for path in PAGES for block in blocks(path)]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def is_tree(block: Block) -> bool:
    """A drawing of folders."""
    return block.text.startswith("neoxlib/")


def commands(text: str) -> list[str]:
    """The lines of a shell block: continued ones joined, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    bare = [re.sub(r"\s#\s.*", "", line).strip() for line in lines]
    return [line for line in bare if line and not line.startswith("#")]


SHELL = [
    (block.page, line)
    for block in BLOCKS
    if not block.language and not is_tree(block)
    for line in commands(block.text)
]


def inline(path: Path) -> list[str]:
    """The code in sentences and tables of a page."""
    return re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8"))


def words(line: str) -> list[str]:
    """A command as the shell splits it, for the Python in the path."""
    split = shlex.split(line)
    return [split[0].removeprefix(".venv/bin/"), *split[1:]]


def ours(line: str) -> list[str]:
    """The words after `neoxlib` or `python -m neoxlib`; none of another program's command."""
    split = words(line)
    prefix = next((start for start in (["neoxlib"], PREFIX) if split[: len(start)] == start), split)
    return split[len(prefix) :]


def test_every_kind_of_block_is_checked():
    # text: drawings; yaml and bash: tests/test_ci_page.py and test_batch_page.py run them
    assert {block.language for block in BLOCKS} == {"", "python", "text", "yaml", "bash"}
    assert len(SHELL) > 20 and len(PYTHON) > 1


@pytest.mark.parametrize(("page", "line"), SHELL)
def test_a_command_in_a_block_can_be_typed(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, *rest = words(line)
    monkeypatch.chdir(tmp_path)
    for name in rest:
        if name.endswith(".txt"):  # options look whether a reader's own texts are there
            (tmp_path / name).touch()
    if first == "make":
        assert rest and all(is_target(name) for name in rest)
    elif first == "sbatch":  # what follows a script of docs/batch.md goes to `report`
        script = next(n for n, name in enumerate(rest) if name.endswith(".sbatch"))
        parse("neoxlib", ["report", "03", *rest[script + 1 :]])
    elif first not in ELSEWHERE and rest[:2] != ["-m", "pip"]:
        assert ours(line), line
        parse("neoxlib", ours(line))


def is_target(name: str) -> bool:
    return bool(re.search(rf"^[\w -]*\b{re.escape(name)}[\w -]*:", MAKEFILE, re.M))


def parse(module: str, args: list[str]) -> None:
    """Raises click's error for a command or option that does not exist."""
    assert module == "neoxlib"
    command = cli.commands[args[0]]
    command.make_context(args[0], list(args[1:]))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_command_in_a_sentence_exists(path: Path):
    for code in inline(path):
        if match := re.match(r"make ([\w-]+)", code):
            assert is_target(match[1]), code
        if match := re.match(r"python -m (neoxlib[\w.]*)(?: ([a-z][\w-]*))?", code):
            assert importlib.util.find_spec(match[1]), code
            assert match[2] is None or match[2] in cli.commands, code
        if match := re.match(r"neoxlib ([a-z][\w-]*)", code):
            assert match[1] in cli.commands, code


def test_the_files_and_functions_on_the_way_through_the_rooms_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"`([\w/]+\.(?:py|cpp|h)|[\w/]+/)`", text)
    places = [(ROOT / "neoxlib" / name, ROOT / name) for name in files if "<" not in name]
    assert not [pair[0] for pair in places if not any(path.exists() for path in pair)]
    for file, name in re.findall(r"`([\w/]+\.py)`: `([\w.]+)`", text):
        module = importlib.import_module(f"neoxlib.{file.removesuffix('.py').replace('/', '.')}")
        assert operator.attrgetter(name)(module), (file, name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path):
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert not [target for target in local if not (path.parent / target).exists()]


@pytest.mark.parametrize("pages", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_every_page_is_linked_from_the_readme_of_its_language(pages: list[Path]):
    readme = pages[0].read_text(encoding="utf-8")
    assert not [one for one in pages[1:] if f"]({one.relative_to(ROOT)})" not in readme]


def test_the_readme_is_short_and_begins_with_the_two_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES
    assert [line.split()[1] for line in lines[:15] if line.startswith("make ")] == [
        "report",
        "test",
    ]


def test_the_tree_in_the_readme_names_every_room_and_no_other():
    (tree,) = [block.text for block in blocks(ROOT / "README.md") if is_tree(block)]
    inside = "".join(re.findall(r"^  .*$", tree, re.M))
    named = re.findall(r"[\w]+(?:/|\.py)", "\n".join(re.findall(r"^  (.{28})", tree, re.M)))
    package = ROOT / "neoxlib"
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    rooms |= {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
    assert inside and sorted(named) == sorted(rooms)


@pytest.mark.parametrize("label", ["Speed", "Accuracy"])
def test_a_figure_of_the_readme_stands_in_the_page_that_it_links(label: str):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    line = re.search(rf"^- \*\*{label}\*\*: (.*?)(?=\n- |\n\n)", readme, re.M | re.S)[1]
    (link,) = re.findall(r"\]\(([^)]+)\)", line)
    page = (ROOT / link).read_text(encoding="utf-8")
    assert not [n for n in re.findall(r"\d+\.\d+|\d+e-\d+", line) if n not in page]


def chain(node: ast.AST) -> list[str]:
    """`a.b.c` as its names; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def look_up(names: list[str]) -> Any:
    """The object that a chain names in a module of neoxlib, an engine or a session; else None."""
    if names[0] not in ("neoxlib", *OBJECTS):
        return None
    found = OBJECTS.get(names[0], neoxlib)
    for name in names[1:]:
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.page)
def test_names_and_arguments_in_python_exist(block: Block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.startswith("neoxlib")]
            assert all(importlib.util.find_spec(name) for name in ours)
        if isinstance(node, ast.Attribute) and chain(node):
            look_up(chain(node))
        called = look_up(chain(node.func)) if isinstance(node, ast.Call) and chain(node.func) else 0
        if called:
            parameters = inspect.signature(called).parameters
            assert {keyword.arg for keyword in node.keywords} <= set(parameters)


def test_the_readmes_python_runs_on_the_shipped_model():
    (block,) = blocks_of_python("README.md")
    text = re.sub(r'"/models/[\w-]+"', repr(str(MODEL_DIR)), block.text)
    exec(compile(text.replace("world_size=8", "world_size=2"), "README.md", "exec"), {})


def blocks_of_python(page: str) -> list[Block]:
    return [block for block in PYTHON if block.page == page]


STANDINS = {
    "/models/gpt-neox-20b": MODEL_DIR,
    "/data/cut": MODEL_DIR,
    "/data/ceval-exam.zip": EXAM_DIR,
    "OTHER/.venv/bin/python": sys.executable,
}
REPORTS = [(page, line) for page, line in SHELL if ours(line)[:1] == ["report"]]


@pytest.mark.parametrize(("page", "line"), REPORTS)
def test_notebooks_presets_and_parameters_of_a_report_exist(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)  # the notebooks are then those beside the package
    for run in ("RUN", "OTHER"):
        folder = tmp_path / "outputs" / "04_profile" / run
        folder.mkdir(parents=True)
        (folder / "results.json").write_text("{}")
    (tmp_path / "mine.yaml").write_text("limit: 2\n")
    for name in ("ours", "theirs"):  # captures, which docs/align.md names
        (tmp_path / name).mkdir()
    for written, place in STANDINS.items():
        line = line.replace(written, str(place))
    context = cli.commands["report"].make_context("report", ours(line)[1:])
    asked = context.params
    names = asked["notebooks"] or [str(path) for path in arguments.all_notebooks()]
    assert arguments.asked(list(names), asked["presets"], asked["texts"])


RUNS = [  # of docs/cli.md, quick on the shipped model, in an order that works
    "shard SRC DST --world-size 8",
    "verify DST",
    "merge DST OUT",
    "prepare SRC DST",
    "plan MODEL_DIR",
    "install-plan",
    "environment FOLDER",
    "import-config config.ini",
    "doctor --json",
]


def test_the_commands_of_the_command_line_page_run_on_the_shipped_model(tmp_path: Path):
    (tmp_path / "config.ini").write_text("[model]\nmodel_dir = /models/x\n")
    lines = [line for page, line in SHELL if page == "cli.md"]
    places = {"SRC": MODEL_DIR, "MODEL_DIR": MODEL_DIR}
    for start in RUNS:
        line = next(line for line in lines if " ".join(ours(line)).startswith(start))
        if start.startswith("prepare"):
            places["DST"] = tmp_path / "prepared"
        args = [str(places.get(word, in_folder(word, tmp_path))) for word in ours(line)]
        done = CliRunner().invoke(cli, args)
        assert done.exit_code in (0, int(start.startswith("doctor"))), (line, done.output)
        assert not start.endswith("--json") or json.loads(done.output)


def in_folder(word: str, folder: Path) -> str:
    """A placeholder as a path of the test; other words as they are."""
    return str(folder / word) if re.fullmatch(r"[A-Z]+(_[A-Z]+)*|config\.ini", word) else word


def test_an_unknown_command_option_or_target_would_be_noticed():
    assert not is_target("bench-nothing")
    with pytest.raises(click.NoSuchOption):
        parse("neoxlib", ["verify", "DST", "--quickly"])
    with pytest.raises(KeyError):
        parse("neoxlib", ["verfy", "DST"])
