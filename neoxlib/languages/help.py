"""The help of the command line in the language that is spoken."""

import re
from collections.abc import Iterable, Sequence

import click

from neoxlib.errors import ParameterError
from neoxlib.languages.language import chosen, current, speaking
from neoxlib.languages.sentences import padded, said, said_whole, width

BLANK = re.compile(r"\n[ \t]*\n")
AS_TYPED = "\b"  # begins a paragraph whose lines stay as they are, as click has it
MORE = re.compile(r"(.*?)  \[(.*)\]", re.DOTALL)  # help, and a default or a range
LINE = re.compile(r"(\s*(?:\d+\s+)?)(.*)", re.DOTALL)  # a number, and what it means
SENTENCE = re.compile(r".*?(?:。|$)", re.DOTALL)
WIDEST = 30  # columns of the names of options
# click's own words, which need entries as well.
OF_CLICK = ("Options", "Commands", "Show this message and exit.", "default")


class Help(click.HelpFormatter):
    """click's formatter; in another language lines are as wide as they are shown.

    --help is answered before a command has begun, so it looks for the language itself.
    """

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix if current() == "en" else "用法：")

    def write_heading(self, heading: str) -> None:
        super().write_heading(said_whole(heading))

    def write_text(self, text: str) -> None:
        if current() == "en":
            super().write_text(text)
            return
        for number, paragraph in enumerate(BLANK.split(text)):
            self.write("\n" * (number > 0))
            for line in _told(paragraph, self.width - self.current_indent):
                self.write(f"{'':>{self.current_indent}}{line}\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], *args: int, **kwargs: int) -> None:
        if current() == "en":
            super().write_dl(rows, *args, **kwargs)
            return
        first = 2 + min(WIDEST, max(width(name) for name, _ in rows))
        for name, text in rows:
            lines = wrapped(option(text), self.width - self.current_indent - first) or [""]
            if width(name) > first - 2:
                lines.insert(0, "")
            for begin, line in zip((name, *[""] * len(lines)), lines, strict=False):
                told = f"{padded(begin, first)}{line}".rstrip()
                self.write(f"{'':>{self.current_indent}}{told}\n")


class Context(click.Context):
    """A command's context, whose help is in the language of --lang or NEOXLIB_LANG."""

    formatter_class = Help

    def get_help(self) -> str:
        try:
            language = current() if current() != "en" else chosen()
        except ParameterError:  # said by the commands themselves
            language = "en"
        with speaking(language):
            return super().get_help()


class Commands(click.Group):
    """A group whose help, and that of its commands, is in the language that is spoken."""

    context_class = Context

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.context_class = Context
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if current() == "en":
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, short(one.help or "")) for name, one in self.commands.items()]
            )


def option(text: str) -> str:
    """Return the help of an option in the language that is spoken; its default is a value."""
    found = MORE.fullmatch(text)
    if not found:
        return said_whole(text)
    return f"{said_whole(found[1])}  [{said(found[2])}]"


def short(text: str) -> str:
    """Return the first sentence of a command's help in the language that is spoken."""
    return SENTENCE.match(said_whole(" ".join(BLANK.split(text)[0].split())))[0]


def wrapped(text: str, columns: int) -> list[str]:
    """Return the lines of a text, each at most so many columns wide as it is shown."""
    import wcwidth  # which English need not wait for

    return wcwidth.wrap(text, columns)


def _told(paragraph: str, columns: int) -> Iterable[str]:
    if AS_TYPED in paragraph:
        lines = paragraph.replace(AS_TYPED, "").strip("\n").split("\n")
        found = (LINE.fullmatch(line) for line in lines)
        return [f"{one[1]}{said_whole(one[2])}" for one in found]
    return wrapped(said(" ".join(paragraph.split())), columns)
