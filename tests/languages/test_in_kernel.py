"""What JupyterLab shows in another language, and what the run keeps of it."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from neoxlib.languages import in_kernel, language, said, speaking
from neoxlib.ranks.try_it import Panel
from neoxlib.workbook.results import Check
from neoxlib.workbook.table import Table

TABLE = Table(("verdict", "check"), [("PASS", "same as the unsplit model")])


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A kernel's formatter, which is left as it was."""

    def bundle(thing: object) -> tuple[dict, dict]:
        return {"text/html": thing._repr_html_(), "text/plain": repr(thing)}, {"a": 1}

    shell = SimpleNamespace(display_formatter=SimpleNamespace(format=bundle))
    monkeypatch.setattr(in_kernel, "get_ipython", lambda: shell)
    yield shell.display_formatter
    language.settle("en")


def test_an_output_is_shown_in_chinese_and_kept_in_english(kernel):
    english, _ = kernel.format(TABLE)
    in_kernel.speak("zh")
    shown, about = kernel.format(TABLE)
    assert "与不切分的模型相同" in shown["text/html"] and about == {"a": 1}
    assert "same as the unsplit model" not in shown["text/html"]
    kept = in_kernel.as_written(shown)
    assert kept["text/html"] == english["text/html"] and in_kernel.ENGLISH not in kept


def test_what_a_model_wrote_is_shown_as_it_is(kernel):
    in_kernel.speak("zh")
    table = Table(("prompt", "check"), [("same as the unsplit model", "no change")])
    html = kernel.format(table)[0]["text/html"]
    assert "same as the unsplit model" in html and "没有变化" in html


def test_speaking_twice_and_english_again_change_nothing_more(kernel):
    plain = kernel.format(TABLE)
    for _ in range(3):
        in_kernel.speak("zh")
    assert not isinstance(kernel.format.plain, in_kernel.Spoken)
    in_kernel.speak("en")
    assert kernel.format(TABLE) == plain
    assert in_kernel.as_written(plain[0]) == plain[0]


def test_widgets_and_checks_have_the_words_of_the_language(kernel):
    in_kernel.speak("zh")
    panel = Panel(SimpleNamespace(max_seq_len=64, tokenizer=None), "a prompt")
    assert [panel.generate.description, panel.stop.description] == ["生成", "停止"]
    assert panel.sliders["seed"].description == "随机种子"
    assert said("seed: missing in the cell tagged 'parameters'").startswith("seed"), "a parameter"
    panel._say("The answer before: 3 tokens.")
    assert "3" in panel.state.value and "answer" not in panel.state.value
    assert panel.prompt.value == "a prompt"


def test_a_checks_line_is_shown_in_chinese_and_a_printed_text_is_not():
    check = repr(Check("same as the unsplit model", True, "0 of 8 differ"))
    with speaking("zh"):
        shown = in_kernel.told({"text/plain": f"{check}\nPASSED: no change"})
        assert in_kernel.told({"text/plain": "7"}) == {"text/plain": "7"}
    assert shown["text/plain"] == "PASS  与不切分的模型相同：8 个中有 0 个不同\nPASSED: no change"
    assert in_kernel.as_written(shown) == {"text/plain": f"{check}\nPASSED: no change"}
