"""Every metric that the notebooks record is declared, and is shown as people read it."""

import ast
import json
import re
from pathlib import Path

import pytest

from neoxlib.model.decode_graph import GraphUse
from neoxlib.workbook import metrics
from neoxlib.workbook.metrics import METRICS

ROOT = Path(__file__).parents[2]


def sources():
    for path in (ROOT / "neoxlib").rglob("*.py"):
        yield path.name, path.read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                yield path.name, "".join(cell["source"])


def recorded():
    """The names in every call of `run.metric("name", …)` and `run.metrics(name=…)`."""
    for file, text in sources():
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if getattr(node.func.value, "id", "") == "run" and node.func.attr == "metric":
                yield file, node.args[0].value
            if getattr(node.func.value, "id", "") == "run" and node.func.attr == "metrics":
                yield from ((file, word.arg) for word in node.keywords if word.arg)


def test_every_metric_that_is_recorded_by_name_is_declared():
    names = set(recorded())
    assert len(names) >= 10
    assert {(file, name) for file, name in names if name not in METRICS} == set()


def test_the_figures_of_captured_decoding_are_declared():
    assert {f"decode_graph_{name}" for name in vars(GraphUse())} <= set(METRICS)


def test_labels_are_words_and_no_two_are_the_same():
    labels = [metric.label for metric in METRICS.values()]
    assert len(set(labels)) == len(labels)
    assert not [label for label in labels if "_" in label or len(label) > 40]
    assert {metric.better for metric in METRICS.values()} <= {"", "less", "more"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("free_bytes_per_rank", 11_560_325_120, "11.6 GB"),
        ("needed_bytes_per_rank", 16_370_176, "16.4 MB"),
        ("bytes_per_rank", 999, "999 bytes"),
        ("free_bytes_per_rank", None, "not known"),
        ("first_token_ms", 18.8312, "18.8 ms"),
        ("next_token_ms", 0.64413, "0.64 ms"),
        ("next_token_ms", 0.012345, "0.012 ms"),
        ("next_token_ms", 1234.5, "1,234 ms"),
        ("longest_tokens_per_second", 1081.4, "1,081 tokens/s"),
        ("longest_tokens_per_second", 95.63, "95.6 tokens/s"),
        ("accuracy", 0.9375, "93.8 %"),
        ("accuracy", 0.0, "0.0 %"),
        ("accuracy_gain", -0.0125, "-1.2 points"),
        ("p_guessing", 4.083e-107, "under 1 in a million"),
        ("p_guessing", 0.0, "under 1 in a million"),
        ("p_guessing", 0.000123, "1 in 8,100"),
        ("p_guessing", 0.5012, "50 in 100"),
        ("questions", 1224, "1,224"),
        ("average", "macro", "macro"),
        ("largest_batch", 921, "921 prompts"),
        ("perplexity", float("nan"), "not known"),
        ("perplexity", 10**400, "not known"),
        ("logits_relative_l2", 1.234e-7, "1.2 × 10⁻⁷"),
        ("logits_kl", 0.0, "0 nats"),
        ("logits_cosine", 0.99999999, "1.00"),
        ("speed_ratio", 0.98, "0.98 of a's time"),
        ("my own", 0.123456, "0.1235"),
        ("my own", "a text", "a text"),
    ],
)
def test_a_value_is_shown_with_its_unit_and_sensible_digits(name, value, words):
    assert metrics.shown(name, value) == words


def test_a_small_share_does_not_round_to_nothing():
    assert metrics.shown("parity_of_limit", 0.0007) == "0.07 %"


def test_an_interval_is_shown_with_its_metric_and_is_none_of_its_own():
    values = {"accuracy": 0.9375, "accuracy_low": 0.898, "accuracy_high": 0.962}
    assert metrics.interval("accuracy", values) == "89.8 – 96.2"
    assert [name for name in values if not metrics.is_interval(name, values)] == ["accuracy"]
    assert metrics.interval("accuracy", {"accuracy": 1}) == ""
    assert repr(metrics.figures(values)).splitlines()[1:] == ["right answers  93.8 % (89.8 – 96.2)"]


def test_which_way_is_better_is_said_of_a_metric_of_which_one_way_is():
    said = [metrics.which_is_better(name) for name in ("next_token_ms", "accuracy", "questions")]
    assert said == ["less is better", "more is better", ""]
    assert metrics.which_is_better("my own") == ""


def test_no_label_holds_what_a_page_would_have_to_escape():
    assert not [m.label for m in METRICS.values() if re.search(r"[<>&]", m.label)]
