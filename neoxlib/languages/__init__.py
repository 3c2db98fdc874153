"""Languages for readers: English as it is written in the sources, and the Chinese of zh.po.

Results, files and logs stay in English. A page or a terminal shows what they say in another
language by `said`, which finds each sentence in the catalogue by its words.
"""

from neoxlib.languages.language import (
    LANGUAGES,
    chosen,
    current,
    language_option,
    of_run,
    settled,
    speaking,
)
from neoxlib.languages.pages import page
from neoxlib.languages.sentences import label, padded, said, said_whole, width

__all__ = [
    "LANGUAGES",
    "chosen",
    "current",
    "label",
    "language_option",
    "of_run",
    "padded",
    "page",
    "said",
    "said_whole",
    "settled",
    "speaking",
    "width",
]
