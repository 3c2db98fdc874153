"""Nothing of a model, a prompt, an exam, a name or a log runs in a report or in JupyterLab.

The notebooks run headless on a model whose tokenizer decodes to markup, over an exam, prompts and
folders of markup; then every page, and the HTML of every output of the notebooks themselves, which
JupyterLab shows without a content policy, is read as a browser reads it.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from neoxlib.demo import MODEL_DIR
from neoxlib.errors import UNSEEN
from neoxlib.workbook import headless, pages
from tests.support.dangers import dangers, text_of

pytestmark = pytest.mark.timeout(900)  # the first test waits for the notebooks
RUNS = "<img src=x onerror=document.title='ran'>"
SEEN = f"{RUNS}⟨U+202E⟩⟨U+001B⟩[31m$x^2$</script><script>document.title='ran'</script>"
NAME = "<img src=x onerror=document.title='ran'>\u202e"  # a file's name has no slash
PLACES = {  # a text's place, and the notebook whose report shows it
    "prompt": "02_inference",
    "question": "03_ceval",
    "choice": "03_ceval",
    "english": "03_ceval",
    "class": "03_ceval",
    "environment": "05_compare",
    "variable": "05_compare",
    "name": "05_compare",
    "parameter": "05_compare",
}
OWN = ("script", "style", "meta", "svg")  # elements that the pages have themselves
OF_INDEX = ("form", "noscript")  # and the index: its filters, and all of its lines without script


def hostile(place: str) -> str:
    script = "</script><script>document.title='ran'</script>"
    return f"{RUNS}\u202e\x1b[31m$x^2${script}{place}"


def seen(place: str) -> str:
    return SEEN + place


@pytest.fixture(scope="module")
def outputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of 00, 02, 03 and 05, and one that failed, with their pages."""
    if not request.config.getoption("lab", False):
        pytest.skip("a minute and more: pytest tests/browser --lab, or make test-browser")
    root = tmp_path_factory.mktemp("hostile")
    runs = root / "runs"
    model = [("model_dir", str(write_model(root / f"{NAME}model"))), ("world_size", "1")]
    prompts = [
        ("prompts", json.dumps(["The moon is", hostile("prompt")])),
        ("max_new_tokens", "12"),
    ]
    exam = [("data_dir", str(write_exam(root / f"{NAME}exam"))), ("limit", "2"), ("shots", "1")]
    for notebook, given in (
        ("00_setup", [("prepare_dir", str(root / f"{NAME}prepared"))]),
        ("02_inference", prompts),
        ("03_ceval", exam),
    ):
        assert headless.report([notebook], [], model + given, outputs=runs, say=print) == 0
    a = only(runs, "03_ceval")
    b = spoilt(a, root / "03_ceval" / f"{NAME}b", status="ok")
    pair = [("run_a", str(a)), ("run_b", str(b))]
    assert headless.report(["05_compare"], [], pair, outputs=runs, say=print) == 0
    failed = spoilt(only(runs, "02_inference"), runs / f"{NAME}failed" / f"{NAME}run")
    pages.write_report(failed)
    pages.write_index(runs)
    return runs


def write_model(folder: Path) -> Path:
    """The shipped model, whose longer words are markup."""
    shutil.copytree(MODEL_DIR, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    bpe = tokenizer["model"]
    alphabet = bytes_to_unicode()
    odd = "".join(alphabet[byte] for byte in hostile("token").encode())
    words = {word for word in bpe["vocab"] if re.fullmatch("Ġ[A-Za-z]{5,}", word)}
    bpe["vocab"] = {odd + w if w in words else w: number for w, number in bpe["vocab"].items()}
    bpe["merges"] = [pair for pair in bpe["merges"] if not words & {*pair, "".join(pair)}]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return folder


def write_exam(folder: Path) -> Path:
    subject = f"{NAME}subject"
    entry = [hostile("english"), hostile("chinese"), hostile("class")]
    head = ["id", "question", "A", "B", "C", "D", "answer"]
    row = ["0", hostile("question"), hostile("choice"), "b", "c", "d", "A"]
    for split in ("dev", "val"):
        (folder / split).mkdir(parents=True)
        lines = [",".join(f'"{cell}"' for cell in cells) for cells in (head, row)]
        (folder / split / f"{subject}_{split}.csv").write_text("\n".join(lines), "utf-8")
    (folder / "subject_mapping.json").write_text(json.dumps({subject: entry}), "utf-8")
    return folder


def spoilt(run: Path, folder: Path, status: str = "failed") -> Path:
    """A copy of a run whose results and logs hold markup wherever a text may stand."""
    shutil.copytree(run, folder)
    path = folder / "results.json"
    results = json.loads(path.read_text("utf-8"))
    results["status"] = status
    results["environment"]["cpu"] = hostile("environment")
    results["environment"][hostile("variable")] = "1"
    results["metrics"] |= {hostile("metric"): 1.5, "text": hostile("value")}
    results["parameters"][hostile("name")] = hostile("parameter")
    results["checks"] = [{"name": hostile("check"), "passed": False, "detail": hostile("detail")}]
    if status == "failed":
        error = {"type": hostile("type"), "message": hostile("message"), "cell": 3}
        results["error"] = error | {"source": hostile("source")}
    path.write_text(json.dumps(results), "utf-8")
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / f"{NAME}rank0.log").write_text(hostile("log"), "utf-8")
    (folder / f"{NAME}table.csv").write_text("a", "utf-8")
    return folder


def only(root: Path, notebook: str) -> Path:
    found = list(root.glob(f"{notebook}/*"))
    assert len(found) == 1, found
    return found[0]


def reports(root: Path) -> list[Path]:
    return [*sorted(root.glob("*/*/report.html")), root / "index.html"]


def shown(root: Path) -> Iterator[nbformat.NotebookNode]:
    """Every output of the executed notebooks."""
    for path in root.glob("0*/*/notebook.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            yield from cell.get("outputs", [])


def cell_html(root: Path) -> list[str]:
    return [
        found["data"]["text/html"] for found in shown(root) if "text/html" in found.get("data", {})
    ]


def test_no_page_holds_anything_that_runs_or_loads(outputs: Path):
    assert len(reports(outputs)) == 6
    for path in reports(outputs):
        page = path.read_text("utf-8")
        own = OWN + OF_INDEX * (path.name == "index.html")
        assert dangers(page, own) == [] and not UNSEEN.search(page)
        assert all(page.count(f"<{name}") == 1 for name in OF_INDEX if name in own)
        assert "'ran'" not in "".join(re.findall(r"<script.*?</script>", page, re.DOTALL))


def test_no_output_in_jupyterlab_holds_anything_that_runs_or_loads(outputs: Path):
    pieces = cell_html(outputs)
    assert len(pieces) > 50
    assert [found for html in pieces for found in dangers(html)] == []


def test_no_output_hides_a_letter_or_commands_a_terminal(outputs: Path):
    texts = [text for found in shown(outputs) for text in (found.get("text", ""), *data(found))]
    assert texts and not [text for text in texts if UNSEEN.search(text)]


def data(output: nbformat.NotebookNode) -> list[str]:
    return [text for text in output.get("data", {}).values() if isinstance(text, str)]


@pytest.mark.parametrize(("place", "notebook"), PLACES.items())
def test_every_text_is_there_to_read(outputs: Path, place: str, notebook: str):
    assert seen(place) in text_of((only(outputs, notebook) / "report.html").read_text("utf-8"))


def test_a_page_of_a_failed_run_shows_its_error_logs_and_files(outputs: Path):
    page = text_of(next(outputs.glob("<img*/*/report.html")).read_text("utf-8"))
    places = ("type", "message", "source", "log", "check", "detail", "metric", "value", "variable")
    assert [place for place in places if seen(place) not in page] == []
    assert f"{RUNS}⟨U+202E⟩rank0.log" in page and f"{RUNS}⟨U+202E⟩table.csv" in page


def test_a_models_tokens_are_there_to_read(outputs: Path):
    page = text_of((only(outputs, "02_inference") / "report.html").read_text("utf-8"))
    assert seen("token") in page.replace("␣", " ")


def test_no_script_runs_in_a_browser_even_without_a_content_policy(outputs: Path, tmp_path: Path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium is installed")
    pages_and_cells = [path.read_text("utf-8") for path in reports(outputs)]
    pages_and_cells.append(f"<title>cells</title>{''.join(cell_html(outputs))}")
    for number, page in enumerate([f"<title>runs</title>{RUNS}", *pages_and_cells]):
        path = tmp_path / f"{number}.html"
        bare = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", page)
        path.write_text(f"{bare}<p>end", "utf-8")
        told = browsed(chromium, path, tmp_path / "profile")
        title = re.search(r"<title>(.*?)</title>", told, re.DOTALL)[1]
        assert (title == "ran") == (number == 0), title  # the first page shows that one could


def browsed(chromium: str, path: Path, profile: Path) -> str:
    """The document after its scripts ran."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}")
    command = [chromium, *flags, "--virtual-time-budget=2000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert "<p>end" in done.stdout, done.stderr[-2000:]
    return done.stdout


def test_a_drawing_is_whole_and_has_a_subjects_name_as_text(outputs: Path):
    drawings = sorted(outputs.glob("0*/*/figures/*.svg"))
    texts = {path.stem: "".join(ElementTree.parse(path).getroot().itertext()) for path in drawings}
    assert len(texts) > 3 and seen("english") in texts["accuracy_by_subject"]
