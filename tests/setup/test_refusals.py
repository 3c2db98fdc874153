"""Values that config.json and the data rule out are refused before a kernel starts."""

import json

import pytest

from neoxlib import exam
from neoxlib.demo import EXAM_DIR
from neoxlib.errors import ParameterError
from neoxlib.exam.journal import Journal, exam_key
from neoxlib.ranks import needs
from neoxlib.setup import refusals
from neoxlib.workbook import arguments


def refuse(notebook: str, **values) -> None:
    texts = {
        n: json.dumps(value) if isinstance(value, (int, list)) else str(value)
        for n, value in values.items()
    }
    refusals.refuse(arguments.asked([notebook], [], texts.items()))


LONG = ["word " * 1100]  # the shipped model has 1024 positions


@pytest.mark.parametrize(
    ("notebook", "values", "told"),
    [
        ("04_profile", {"case_pair": [[1000, 24], [1000, 25]]}, "1000 in, 25 out needs 1025"),
        ("04_profile", {"max_len_exp": 10}, "1024 in, 1024 out needs 2048"),
        ("04_profile", {"min_len_exp": 10}, "1024 in, 1024 out needs 2048"),
        ("04_profile", {"depths": [0, 1000]}, "1000 deep, 32 in, 32 out needs 1064"),
        ("04_profile", {"max_seq_len": 100, "case_pair": [[99, 2]]}, "max_seq_len 100 "),
        ("02_inference", {"max_new_tokens": 1024}, "together, but max_seq_len is 1024"),
        ("02_inference", {"prompts": LONG}, "prompts[0] has 2201 tokens"),
        ("05_compare", {"run_a": "RUN"}, "name both, or none for the last two runs"),
        (
            "04_profile",
            {"baseline": "RUN"},
            "is of 02_inference; expected the results.json of a 04",
        ),
        ("03_ceval", {"resume": "RUN"}, "to go on with an earlier run give the folder of that run"),
        ("04_profile", {"resume": "RUN"}, "resume: {run} is of 02_inference; expected"),
        ("06_align", {"target": "EMPTY"}, "is no capture, dump, run or model folder: it has no"),
        ("06_align", {"reference": "EMPTY"}, "is no capture, dump, run or model folder"),
        ("06_align", {"layers": [0, 99]}, "layers: [99] are not among the model's 0.."),
    ],
)
def test_what_the_model_or_an_earlier_run_rules_out_is_refused(notebook, values, told, tmp_path):
    results = {"notebook": "02_inference", "status": "ok"}
    (tmp_path / "results.json").write_text(json.dumps(results))
    named = {"run_a": tmp_path, "baseline": tmp_path / "results.json", "resume": tmp_path}
    empty = tmp_path / "empty"
    empty.mkdir()
    made = {"RUN": named, "EMPTY": dict.fromkeys(("target", "reference"), empty)}
    given = {
        name: str(made[value][name]) if isinstance(value, str) else value
        for name, value in values.items()
    }
    with pytest.raises(ParameterError) as refused:
        refuse(notebook, **given)
    assert told.replace("{run}", str(tmp_path)) in str(refused.value)


@pytest.mark.parametrize("word", ["", "transformers", "float32", "world_size=1", "same", "repeat"])
def test_no_word_that_names_a_reference_is_refused(word):
    refuse("06_align", reference=word)


@pytest.mark.parametrize(
    "file",
    [
        *("capture.json", "capture/capture.json", "config.json", "manifest.json", "results.json"),
        *("dump.json", "step0/rank0/dump.json"),
    ],
)
def test_what_06_takes_as_target_and_reference_is_not_refused(file, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("{}")
    refuse("06_align", target=str(tmp_path), reference=str(tmp_path))


def test_a_run_to_go_on_with_is_refused_for_other_rules_and_taken_for_the_same(tmp_path):
    """Before a kernel starts; 04 takes a run of its own, which has no journal."""
    scoring = exam.get_profile("", "ceval", "answer_only", None)
    task = exam.load_task("ceval", EXAM_DIR, "val", [], scoring.shots)
    with Journal(tmp_path / "journal.jsonl", exam_key(scoring, task)):
        pass
    refuse("03_ceval", resume=tmp_path)
    with pytest.raises(
        ParameterError, match=r"(?s)profile: .*shots 5 there, 2 here.*limit: 0 the"
    ) as error:
        refuse("03_ceval", resume=tmp_path, shots=2, limit=3)
    assert "questions: " not in str(error.value), "fewer examples are no other data"
    (tmp_path / "results.json").write_text('{"notebook": "04_profile", "status": "interrupted"}')
    with pytest.raises(ParameterError, match=r"resume: .* beside its latency.csv"):
        refuse("04_profile", resume=tmp_path)
    (tmp_path / "latency.csv").write_text("batch_size\n1\n")
    refuse("04_profile", resume=tmp_path)


@pytest.mark.parametrize("name", sorted(path.stem for path in arguments.all_notebooks()))
def test_the_defaults_of_every_notebook_pass(name):
    refuse(name)


@pytest.mark.parametrize(
    ("notebook", "values"),
    [
        ("04_profile", {"case_pair": [[1000, 24]], "depths": [0]}),
        ("04_profile", {"max_len_exp": 9}),
        ("04_profile", {"case_pair": [[4000, 24]], "plan_only": True}),
        ("02_inference", {"max_new_tokens": 900}),
        ("06_align", {"layers": [0, 1]}),
    ],
)
def test_what_fits_passes(notebook, values):
    refuse(notebook, **values)


@pytest.mark.parametrize("notebook", ["02_inference", "05_compare"])
def test_a_machine_whose_loopback_does_not_answer_is_refused_for_every_notebook(
    notebook, monkeypatch
):
    monkeypatch.setattr(needs, "LOOPBACK", "192.0.2.1")  # kept for examples: no machine has it
    with pytest.raises(ParameterError, match=r"192.0.2.1, .* does not answer"):
        refuse(notebook)


def test_what_ranks_need_is_asked_of_this_machine_only_if_they_start_here(monkeypatch):
    monkeypatch.setattr(needs, "FILES", 2**40)
    with pytest.raises(ParameterError, match="open files here"):
        refuse("02_inference")
    for notebook in ("00_setup", "05_compare"):
        refuse(notebook)
    refuse("02_inference", plan_only="true")
