"""A run of the model `neoxlib` in lm-evaluation-harness: seeds, caches, refusals, the command."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model

import neoxlib.demo
from neoxlib import harness
from neoxlib.errors import SettingsError
from tests.support.lm_eval_tasks import ask

WINDOW = 1024
MODEL = Path(neoxlib.demo.__file__).parent / "model"  # trained: it has something to say
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def single():
    return get_model("neoxlib")(str(MODEL), dtype="float32", device="cpu")


def test_drawn_text_is_repeated_with_lm_evals_seed(single):
    settings = {
        "until": [],
        "max_gen_toks": 12,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": 50,
    }
    wanted = ask("generate_until", ("abc", settings), ("abd", settings))
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(single.generate_until(wanted))
    assert runs[0] == runs[1] != runs[2]


def test_temperature_counts_only_where_drawing_is_asked_for(single):
    plain = ask("generate_until", ("abc", {"until": [], "max_gen_toks": 12}))
    told = {
        "until": [],
        "max_new_tokens": 12,
        "do_sample": False,
        "temperature": 0.9,
        "num_beams": 1,
    }
    assert single.generate_until(plain) == single.generate_until(
        ask("generate_until", ("abc", told))
    )


def test_answers_in_lm_evals_cache_are_not_computed_again(single, tmp_path, monkeypatch):
    settings = {"until": ["e"], "max_gen_toks": 4}
    kinds = {
        "loglikelihood": ask("loglikelihood", ("The", " moon"), ("The", " sun")),
        "loglikelihood_rolling": ask("loglikelihood_rolling", ("abc",)),
        "generate_until": ask("generate_until", ("abc", settings)),
    }
    cached = CachingLM(single, str(tmp_path / "answers.db"))
    first = {kind: getattr(cached, kind)(wanted) for kind, wanted in kinds.items()}
    monkeypatch.setattr(single, "model", None)  # whoever asks it now fails
    assert {kind: getattr(cached, kind)(wanted) for kind, wanted in kinds.items()} == first
    single.set_cache_hook(type(single.cache_hook)(None))


def test_a_broken_off_run_keeps_what_was_answered(single, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "CHUNK", 2)
    score_ids = single.model.score_ids
    calls = []

    def dies_the_second_time(requests, *args, **kwargs):
        calls.append(len(requests))
        if len(calls) == 2:
            raise RuntimeError("killed")
        return score_ids(requests, *args, **kwargs)

    monkeypatch.setattr(single.model, "score_ids", dies_the_second_time)
    wanted = ask(
        "loglikelihood", *[("The", text) for text in (" moon", " sun", " cow", " sea", " sky")]
    )
    cached = CachingLM(single, str(tmp_path / "answers.db"))
    with pytest.raises(RuntimeError, match="killed"):
        cached.loglikelihood(wanted)
    monkeypatch.setattr(single, "cache_hook", cached.get_cache_hook())
    assert cached.loglikelihood(wanted) == single.loglikelihood(wanted)
    assert calls[:4] == [2, 2, 2, 1]  # two were kept, three remained
    single.set_cache_hook(type(single.cache_hook)(None))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_gen_toks": 4, "num_beams": 10}, "num_beams"),
        ({"max_gen_toks": 4, "typical_p": 0.5}, "typical_p"),
        ({"max_gen_toks": WINDOW}, f"max_gen_toks is {WINDOW}"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(single, settings, said):
    with pytest.raises(SettingsError, match=said):
        single.generate_until(ask("generate_until", ("abc", {"until": []} | settings)))


@pytest.mark.parametrize(("continuation", "tokens"), [("", 0), ("!?" * WINDOW, 2 * WINDOW)])
def test_a_continuation_that_cannot_be_scored_is_refused(single, continuation, tokens):
    with pytest.raises(
        SettingsError, match=f"after 'The' is {tokens} tokens; 1 to {WINDOW} can be scored"
    ):
        single.loglikelihood(ask("loglikelihood", ("The", continuation)))


def test_model_args_that_neoxlib_does_not_know_are_named():
    with pytest.raises(SettingsError, match="revision, which neoxlib does not know"):
        get_model("neoxlib").create_from_arg_string(f"pretrained={MODEL},revision=main")


def test_the_command_runs_a_task_of_a_folder_over_two_ranks(tmp_path):
    rows = [{"text": "abc", "answer": "d"}, {"text": "xyz", "answer": "w"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "letters.yaml").write_text(
        "task: letters\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: loglikelihood\n"
        "doc_to_text: '{{text}}'\ndoc_to_target: '{{answer}}'\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    settings = f"pretrained={MODEL},world_size=2,dtype=float32,device=cpu"
    arguments = ["--model", "neoxlib", "--model_args", settings, "--tasks", "letters"]
    arguments += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    script = (
        "import functools, lm_eval.evaluator, lm_eval.tasks; manager = lm_eval.tasks.TaskManager\n"
        "fewer_files = functools.partialmethod(manager.__init__, include_defaults=False)\n"
        "manager.__init__ = fewer_files\n"
        "lm_eval.evaluator.add_env_info = lambda results: None  # pip, gcc and more are asked\n"
        "from neoxlib.__main__ import cli; cli()"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment |= {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script, "lm-eval", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "out").rglob("results*.json")
    results = json.loads(file.read_text())
    assert results["results"]["letters"]["sample_len"] == 2 and results["config"]["world_size"] == 2
    assert "letters" in done.stdout


def test_only_the_adapter_needs_lm_eval():
    needs = re.compile(r"^\s*(?:import|from) (?:lm_eval|datasets)\b", re.M)
    texts = {path.name: path.read_text("utf-8") for path in (ROOT / "neoxlib").rglob("*.py")}
    assert [name for name, text in texts.items() if needs.search(text)] == ["harness.py"]


def test_progress_is_a_line_of_a_log_and_none_where_lm_eval_wants_none(single, capsys):
    pairs = ask("loglikelihood", ("One", " two"), ("Three", " four"))
    texts = ask("generate_until", ("One", {"max_gen_toks": 1}))
    single.loglikelihood(pairs), single.generate_until(texts)
    lines = capsys.readouterr().err.splitlines()
    scored, written = (line for line in lines if ": 100 % of " in line)
    assert scored.startswith("Running loglikelihood requests: 100 % of 2 requests, ")
    assert written.startswith("Running generate_until requests: 100 % of 1 requests, ")
    single.loglikelihood(pairs, disable_tqdm=True)
    single.generate_until(texts, disable_tqdm=True)
    assert capsys.readouterr().err == ""
