"""The rules by which a model is asked: one row of PROFILES per published way to run an exam."""

from dataclasses import dataclass, replace

from neoxlib.errors import SettingsError, did_you_mean
from neoxlib.exam.extract import EXTRACTIONS

MODES = ("answer_only", "cot")  # C-Eval's words: the answer at once, or after a chain of thought


@dataclass(frozen=True)
class Profile:
    """The rules of one scoring.

    Templates are filled from a question's columns and its subject's names: {subject} is the file's
    name with blanks, {english} and {chinese} the names in the mapping, {stripped} the question
    without blanks around it.
    """

    name: str
    task: str
    header: str
    question: str
    cue: str  # ends the prompt; a blank before the answer belongs to the answer's token
    example: str  # follows an example's question
    # Scored after the cue, in the order of the task's choices; empty if text is generated.
    answers: tuple[str, ...]
    average: str  # the published headline: "macro" over subjects or "micro" over questions
    source: str  # whose rules, at which version
    shots: int = 5
    mode: str = "answer_only"
    # "logprob" of `answers` after the cue, or "generate" a text and extract the letter from it.
    scoring: str = "logprob"
    max_new_tokens: int = 0  # these three for generated text; decoding is greedy
    stop: tuple[str, ...] = ()
    extraction: str = ""  # a name of extract.EXTRACTIONS
    most_tokens: int = 0  # a prompt's own limit; 0 leaves it to the window
    least_shots: int = 0  # with fewer examples a question is not asked: it is too long
    whole_vocabulary: bool = False  # log-softmax over all rows, also past the tokenizer's last id
    split_may_differ: bool = False  # answers of different numbers of tokens are scored, too
    bugs: tuple[str, ...] = ()  # faults of the original, kept to reproduce its numbers
    departs: tuple[str, ...] = ()  # where the original's rule is not followed, and why

    def extract(self, text: str) -> str:
        """The letter that a generated text chose; "" if it has none."""
        return EXTRACTIONS[self.extraction](text)


_FOUR = "A. {A}\nB. {B}\nC. {C}\nD. {D}\n"
_PLAIN = ("A", "B", "C", "D")
_SPACED = (" A", " B", " C", " D")
_HEADER = "以下是中国关于{chinese}考试的单项选择题，请选出其中的正确答案。\n"
_QUESTION = "{question}\n" + _FOUR
_ENGLISH_ANSWER = {"cue": "Answer:", "example": "Answer: {answer}\n\n"}
_ENGLISH = "The following are multiple choice questions (with answers) about {subject}.\n\n"

_OFFICIAL = Profile(
    name="official",
    task="ceval",
    header=_HEADER + "\n",
    question=_QUESTION,
    cue="答案：",
    example="答案：{answer}\n\n",
    answers=_PLAIN,
    average="macro",
    source="github.com/hkust-nlp/ceval, code/evaluator_series/evaluators/llama.py at 802229f",
    departs=(
        "the original cannot shorten a prompt: its README advises to take an example or two less",
    ),
)
_COT = replace(
    _OFFICIAL,
    mode="cot",
    cue="答案：让我们一步一步思考，\n1.",
    example="答案：让我们一步一步思考，\n{explanation}\n所以答案是{answer}。\n\n",
    answers=(),
    scoring="generate",
    max_new_tokens=512,
    stop=("让我们一步一步思考",),
    extraction="reasoned",
    departs=(
        *_OFFICIAL.departs,
        "the original draws at temperature 0.8 and top-p 0.95; "
        "here the most likely token is taken, for equal runs",
        "the original also takes a choice's words for its letter; here only a letter counts",
    ),
)
_CUT_LEFT = (
    "the original cuts tokens from the left of a prompt that is too long; "
    "here whole examples fall off"
)
_LM_EVAL = Profile(
    name="lm_eval",
    task="ceval",
    header="以下是中国关于{chinese}的单项选择题，请选出其中的正确答案。\n\n",
    question="{stripped}\n" + _FOUR,
    cue="答案：",
    example="答案： {answer}\n\n",
    answers=_SPACED,
    average="micro",
    source="lm-eval 0.4.13, tasks/ceval/_default_ceval_yaml version 2.0, "
    "with --num_fewshot as shots",
    whole_vocabulary=True,
    split_may_differ=True,
    departs=(_CUT_LEFT,),
)
_MMLU_LM_EVAL = replace(
    _LM_EVAL,
    task="mmlu",
    header=_ENGLISH,
    **_ENGLISH_ANSWER,
    source="lm-eval 0.4.13, tasks/mmlu/default version 1.0, with --num_fewshot as shots",
)
_CMMLU_HEADER = "以下是关于{chinese}的单项选择题，请直接给出正确答案的选项。\n\n"
_CMMLU_LM_EVAL = replace(
    _LM_EVAL,
    task="cmmlu",
    header=_CMMLU_HEADER,
    source="lm-eval 0.4.13, tasks/cmmlu version 1.0, with --num_fewshot as shots",
)
_CMMLU_OFFICIAL = Profile(
    name="official",
    task="cmmlu",
    header=_CMMLU_HEADER,
    question="题目：{question}\n" + _FOUR,
    cue="答案是：",
    example="答案是：{answer}\n\n",
    answers=_PLAIN,
    average="macro",
    source="github.com/haonan-li/CMMLU, src/mp_utils.py at 154f1c3 "
    "and src/hf_causal_model.py at 0b27e9f",
    departs=(
        "the original leaves out the longest examples where a prompt is too long, then its header; "
        "here the last ones",
        "the original reads cells such as None as missing; here they are text",
    ),
)
_BOOLQ_LM_EVAL = replace(
    _LM_EVAL,
    task="boolq",
    header="",
    question="{passage}\nQuestion: {question}?\n",
    **_ENGLISH_ANSWER,
    answers=(" no", " yes"),
    source="lm-eval 0.4.13, tasks/super_glue/boolq/default.yaml version 2.0",
    shots=0,
    departs=(
        _CUT_LEFT,
        "the original draws examples from train at random; here they are its first rows",
    ),
)
_OPENCOMPASS = Profile(
    name="opencompass",
    task="ceval",
    header="",
    question=_HEADER + _QUESTION,  # the header stands before every question
    cue="答案:",
    example="答案: {answer}",
    answers=_SPACED,  # "答案: " and "A" make one text, whose tokens are ":" and " A"
    average="macro",
    source="github.com/open-compass/opencompass, configs/datasets/ceval/ceval_ppl_578f8d.py "
    "at 3ce9b0a, with HuggingFaceBaseModel, which puts nothing between the parts of a prompt",
    departs=(
        "the original computes the perplexity of the whole text four times; "
        "only the answer's part differs",
    ),
)
_MMLU_OFFICIAL = Profile(
    name="official",
    task="mmlu",
    header=_ENGLISH.replace("about ", "about  "),  # two blanks, as the original writes
    question=_QUESTION,
    **_ENGLISH_ANSWER,
    answers=_SPACED,
    average="micro",
    source="github.com/hendrycks/test, evaluate.py at 0f23bce, split test",
    departs=(
        "the original reads cells such as None as missing and asks about nan; here they are text",
    ),
)
_VENDOR = replace(
    _MMLU_OFFICIAL,
    name="vendor",
    task="ceval",
    answers=(),
    source="Ascend atb_speed_sdk, precision test, with its default seq_len_out of 32",
    scoring="generate",
    max_new_tokens=32,
    extraction="first_letter",
    most_tokens=2000,
    least_shots=1,
    bugs=(
        "C-Eval's questions stand in MMLU's English frame",
        "the first letter of any word is the answer: T for 'The answer is B'",
        "a prompt may have 2000 tokens whatever the window, "
        "and a question is never asked without an example",
    ),
    departs=(
        "the original drops questions that are too long, unseen; "
        "here they are shown and count as wrong",
        "newer editions divide the hard questions answered rightly by all questions; "
        "here by the hard ones",
        "the original goes on with the answers of any earlier run; "
        "here only of the same model and rules",
    ),
)
PROFILES = (
    _OFFICIAL,
    _COT,
    _LM_EVAL,
    _OPENCOMPASS,
    _VENDOR,
    _MMLU_OFFICIAL,
    _MMLU_LM_EVAL,
    replace(_VENDOR, task="mmlu", bugs=_VENDOR.bugs[1:]),
    _CMMLU_OFFICIAL,
    _CMMLU_LM_EVAL,
    _BOOLQ_LM_EVAL,
)


def get_profile(
    name: str | None, task: str, mode: str = "answer_only", shots: int | None = None
) -> Profile:
    """The row of a name (None: the task's first) and mode, with `shots` examples; 0 is zero-shot.

    Without `shots` the profile has its own number. Raises SettingsError for a name or mode that the
    task does not have, with those it has.
    """
    rows = [p for p in PROFILES if p.task == task]
    name = name or rows[0].name
    _known("profile", name, [p.name for p in rows], task)
    _known("mode", mode, [p.mode for p in rows if p.name == name], f"profile {name} of {task}")
    row = next(p for p in rows if (p.name, p.mode) == (name, mode))
    row = row if shots is None or shots < 0 else replace(row, shots=shots)
    if row.shots < row.least_shots:
        least = f"profile {name} asks no question with less than {row.least_shots}"
        raise SettingsError(f"shots is {row.shots}; {least}")
    return row


def _known(what: str, given: str, known: list[str], where: str) -> None:
    known = list(dict.fromkeys(known))
    if given not in known:
        hint = did_you_mean(given, known)
        raise SettingsError(
            f"{what} {given!r} is not known for {where}{hint}; known: {', '.join(known)}"
        )
