"""The standard streams of this process: all there, and asked at the end what was lost."""

import codecs
import io
import os
import re
import sys


def need_standard_streams() -> None:
    """Open /dev/null in place of standard streams that the caller has closed.

    Else what is opened next takes the place, and gets what programs print. Standard output is
    buffered also where PYTHONUNBUFFERED is set: `lost_output` asks what could not be written. What
    their encoding does not have is shown by its number: \\u2192.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(getattr(sys.stdout, "buffer", None), io.FileIO):
        kept = {"encoding": sys.stdout.encoding, "errors": sys.stdout.errors}
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(sys.stdout.buffer), line_buffering=True, **kept
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_text(text: str) -> str:
    """Return a JSON document for standard output: in ASCII, unless that is in UTF-8.

    "backslashreplace" alone would make escapes that JSON does not have.
    """
    encoding = sys.stdout.encoding or "utf-8"
    if codecs.lookup(encoding).name == "utf-8":
        return text
    import json  # which help need not wait for

    return re.sub(r"[^\0-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)


def lost_output() -> OSError | None:
    """Flush the standard streams; return why standard output cannot be written to, or None.

    What such a stream still holds is dropped: Python would try again when it ends.
    """
    lost: dict[str, OSError] = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except OSError as error:
            lost[name] = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return lost.get("stdout")
