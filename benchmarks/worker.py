"""A contender in its own process: requests on stdin, answers on stdout, a JSON object a line.

The command line is one JSON object: contender, model_dir, threads, options. The output of a library
goes to stderr.
"""

import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from benchmarks.contenders import KINDS


def main() -> None:
    start = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    contender = None

    def load() -> dict[str, Any]:
        nonlocal contender
        began = time.perf_counter()
        contender = KINDS[start["contender"]](
            Path(start["model_dir"]), start["threads"], **start["options"]
        )
        return contender.about | {"load_s": time.perf_counter() - began}

    if not _say(answers, load):
        return
    for line in sys.stdin:
        if hasattr(contender, "tell_others"):
            contender.tell_others(line)
        request = json.loads(line)
        _say(answers, lambda: asdict(contender.generate(**request)))  # noqa: B023 - called at once


def _say(answers: TextIO, work: Any) -> bool:
    """Answer with what `work` gives, or with why it failed."""
    try:
        answer = work()
    except Exception as error:
        traceback.print_exc()
        answer = {"failed": f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]}
    print(json.dumps(answer), file=answers, flush=True)
    return "failed" not in answer


if __name__ == "__main__":
    main()
