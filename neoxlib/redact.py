"""Removal of secrets, home paths and names of people and machines from texts that others read.

Rather too much is removed than too little. What is left: addresses of networks, paths outside of
homes, and everything that does not look like a secret.
"""

import io
import json
import os
import pwd
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

GONE = "[removed]"
USER = "[user]"
HOST = "[host]"
HOME = "~"
SHORTEST = 6  # characters of a value that is removed wherever it stands

# Parts of a name that make its value a secret: always, unless it is a number or a switch, or (the
# weak ones) only as the last part, since there are tokens of texts and keys of attention.


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALWAYS = _words("password passwd passphrase passwort secret secrets")
STRONG = ALWAYS | _words(
    "pass pwd credential credentials auth authorization bearer cookie apikey accesskey secretkey "
    "privatekey jwt signature sas otp pin"
)
WEAK = _words("token key sig pat")
INSIDE = _words("password passwd passphrase secret credential apikey accesskey privatekey")
ENDS = re.compile(r"\w(?<!by)(?<!com)(?<!sur)(?:pass|pwd)$|\wtoken$")
WHOLE_LINE = _words("cookie authorization")
NOT_SECRET = _words("PWD OLDPWD SSH_AUTH_SOCK XAUTHORITY")
# Names of users that are no persons, and words that folders in /home are called by.
COMMON = _words(
    "root user users admin test nobody ubuntu jovyan data work model models shared share common "
    "public local home HwHiAiUser runner docker torch python neoxlib rank logs localhost host node "
    "npu cpu gpu server ascend debian"
)

SHAPES = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    # The end of a key whose beginning was cut off: lines of its letters only.
    r"(?<![^\n])(?:[A-Za-z0-9+/=]{1,100}\r?\n){1,400}-----END [A-Z ]*PRIVATE KEY-----",
    r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",  # JSON web token
    r"\b(?:npm|glpat|dckr_pat|sk|rk|pk|xox[a-z]|pypi|ya29|AIza|hvs)[_.-]?(?=[\w-]*\d)[\w-]{16,}",
    r"\b(?:hf|gh[pousr]|github_pat)_\w{8,}",
    r"\b(?:AKIA|ASIA|LTAI)[0-9A-Za-z]{12,}",  # access keys of clouds
    r"hooks\.slack\.com/services/[\w/]+",
    r"\bssh-(?:rsa|ed25519|dss) [A-Za-z0-9+/=]{20,}(?: \S+)?",
    r"(?<=-u )\S+:\S+|(?<=--user )\S+:\S+|(?<=sshpass -p )\S+",
    r"(?i)(?<=\bbearer )[A-Za-z0-9._~+/=-]{6,}|(?<=\bbasic )(?=\S*\d|\S{20})[A-Za-z0-9+/=]{6,}",
)
LOGIN = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://([^\s/\"'<>@]{1,300}:[^\s/\"'<>@]+)@")
IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://)[^\s/\"'<>]{0,300}@", re.I)
MAIL = re.compile(r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,}\b")
PROMPT = re.compile(r"(?<![\w.-])[\w.-]{1,64}@[\w.-]{1,64}(?=:[~/])")
HOMES = re.compile(
    r"(?:/[\w.-]{1,64}){0,6}?/(?:home|Users|users)/(?P<user>[^/\s:;,\"'<>()\[\]]+)"
    r"|[A-Za-z]:\\{1,2}Users\\{1,2}(?P<windows>[^\\\s\"']+)"
)
ROOT_HOME = re.compile(r"(?<![\w.-])/root(?=[/\s:;,\"'<>)\]]|$)")
# A name with such a part, and the gap between it and its value: = : => or, behind --name, a space.
NAME = re.compile(
    r"(?<![\w.-])(?P<dashes>--?)?(?P<name>\w[\w.-]{0,60}?)"
    r"(?P<gap>\\?[\"']?\]?[ \t]*(?:=>|[=:])[ \t]*(?:\r?\n[ \t]+)?|[ \t]+)(?=\S)"
)
VALUE = re.compile(
    r"\\?\"(?:[^\"\\\n]|\\[^\"\n])*\\?\"|'[^'\n]*'|[^\s,;&|}\])\"']+|[\"'][^\s,;&|}\])]*"
)
UNQUOTED = re.compile(r"\S+")
QUOTE = re.compile(r"\\?[\"']")  # kept, so that JSON stays JSON


# How quotes are written in HTML: left as they are, by Python and by Jinja.
QUOTES: tuple[dict[str, str], ...] = (
    {},
    {'"': "&quot;", "'": "&#x27;"},
    {'"': "&#34;", "'": "&#39;"},
)
PATH = re.compile(r"(?:/[\w.@-]+){2,}/?")  # of a key's file, for example
# Characters of a secret that `scrub` removes wherever it stands, if it is of one word of letters.
LONGEST_WORD = 12


@dataclass(frozen=True)
class Known:
    """What is to be removed wherever it stands: values, homes and names."""

    values: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def known_here(env: Mapping[str, str] = os.environ) -> Known:
    """Collect the secret values, homes and names of this process's environment and machine."""
    secret = [value.strip() for name, value in env.items() if is_secret(name, value)]
    words = [word for value in secret for word in value.split() if len(word) > 11 and _mixed(word)]
    values = {value for value in (*secret, *words) if len(value) >= SHORTEST}
    try:
        entry = pwd.getpwuid(os.getuid())
        account, home = entry.pw_name, entry.pw_dir
    except KeyError:  # a user without an entry, in a container
        account, home = "", ""
    names = {env.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    host = socket.gethostname()
    hosts = {name for name in (host, host.partition(".")[0]) if len(name) > 1} - COMMON
    homes = {path for path in (env.get("HOME", ""), home) if len(path) > 1}
    return Known(*map(_long_first, (values, homes, _persons({*names, account}), hosts)))


def shown(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables for others to read: without secrets and without homes."""
    return {
        name: GONE if is_secret(name, value) else scrub(value) for name, value in variables.items()
    }


def scrub(text: str) -> str:
    """Remove from a text the secrets and the home folder of this process, however they are escaped.

    Quick, and changes nothing else: for everything that is written for others. `redact` removes
    whatever looks like a secret, too.
    """
    forms, homes = _told_apart(tuple(os.environ.items()))
    for form in forms:
        if form in text and len(form) >= LONGEST_WORD:
            text = text.replace(form, GONE)
        elif form in text:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])", GONE, text)
    for home in homes:
        if home in text:
            text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", HOME, text)
    return text


@lru_cache(maxsize=4)
def _told_apart(env: tuple[tuple[str, str], ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The secrets of an environment that no other text is mistaken for, escaped; and the homes."""
    known = known_here(dict(env))
    logins = [found for value in dict(env).values() for found in LOGIN.findall(value)]
    passwords = [part for login in logins for part in (login, login.partition(":")[2])]
    values = {*known.values, *filter(None, passwords)} - set(filter(PATH.fullmatch, known.values))
    sure = [value for value in values if len(value) >= LONGEST_WORD or _mixed(value)]
    return _long_first({form for value in sure for form in _escaped(value)}), known.homes


def _escaped(value: str) -> Iterator[str]:
    """A text as it stands in plain text, in HTML, in JSON, and in HTML inside JSON."""
    from xml.sax.saxutils import escape  # brings urllib, which the help need not wait for

    for text in {value, *(escape(value, quotes) for quotes in QUOTES)}:
        yield text
        for ascii_only in (True, False):
            yield json.dumps(text, ensure_ascii=ascii_only)[1:-1]
            yield json.dumps(json.dumps(text, ensure_ascii=ascii_only)[1:-1])[1:-1]


class _Lossy(io.FileIO):
    """A file that drops what cannot be written, for example to a disk that is full."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class Scrubbed(io.TextIOWrapper):
    """A text file; `scrub` is called on every piece that is written to it, and no error raised."""

    @classmethod
    def on(cls, descriptor: int) -> "Scrubbed":
        """The file that is open as `descriptor`, which stays open."""
        file = io.BufferedWriter(_Lossy(descriptor, "wb", closefd=False))
        return cls(file, encoding="utf-8", errors="replace", line_buffering=True)

    def write(self, text: str) -> int:
        super().write(scrub(text))
        return len(text)


def with_names_of(known: Known, texts: Iterable[str]) -> Known:
    """Add the users whose homes the texts name."""
    found = {match["user"] or match["windows"] for text in texts for match in HOMES.finditer(text)}
    return replace(known, users=_long_first({*known.users, *_persons(found)}))


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable holds a secret, by its name or by the look of its value."""
    if name in NOT_SECRET or not value.strip():
        return False
    parts = set(_parts(name))
    if parts & (STRONG | WEAK):
        return not _harmless(parts, value)
    return _looks_secret(value) or _without_shapes(value) != value


def redact(text: str, known: Known) -> str:
    """Return the text without secrets, homes, mail addresses, and the names that are known."""
    for value in known.values:
        text = text.replace(value, GONE)
    text = "".join(_without_values(_without_shapes(text)))
    for home in known.homes:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", HOME, text)
    text = ROOT_HOME.sub(HOME, HOMES.sub(HOME, text))
    text = MAIL.sub(GONE, PROMPT.sub(f"{USER}@{HOST}", text))
    for names, word in ((known.users, USER), (known.hosts, HOST)):
        for name in names:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", word, text)
    return text


def _without_shapes(text: str) -> str:
    for shape in SHAPES:
        text = re.sub(shape, GONE, text, flags=re.S)
    return IN_URL.sub(rf"\1{GONE}@", text)


def _without_values(text: str) -> Iterator[str]:
    """Give the text in pieces, with the values of secret names replaced."""
    at = 0
    for name in NAME.finditer(text):
        if name.start() < at:  # inside a value that is gone
            continue
        end = _end_of_secret(text, name)
        if end is not None:
            quote = QUOTE.match(text, name.end())
            closed = quote[0] if quote and text.endswith(quote[0], at, end) else ""
            yield f"{text[at : name.end()]}{closed}{GONE}{closed}"
            at = end
    yield text[at:]


def _end_of_secret(text: str, name: re.Match[str]) -> int | None:
    """Return where the value behind a name ends if it is a secret, else None."""
    parts = list(_parts(name["name"]))
    kinds = set(parts)
    if not kinds & (STRONG | WEAK) or name["name"] in NOT_SECRET:
        return None
    value = VALUE.match(text, name.end())
    if value is None or GONE in value[0] or _harmless(kinds, value[0].strip("\\\"'")):
        return None
    if name["gap"].isspace() and not (name["dashes"] or kinds & ALWAYS - {"secret", "secrets"}):
        return None
    if not kinds & STRONG and not _named_secret(name, parts, value[0]):
        return None
    if kinds & WHOLE_LINE and not name["gap"].isspace() and not QUOTE.match(value[0]):
        line_end = text.find("\n", value.end())
        return line_end if line_end >= 0 else len(text)
    if kinds & STRONG and not QUOTE.match(value[0]):
        return UNQUOTED.match(text, name.end()).end()  # a password may hold a comma
    return value.end()


def _named_secret(name: re.Match[str], parts: list[str], value: str) -> bool:
    """Whether a name with a weak part, such as api_key or HF_TOKEN, is that of a secret."""
    if name["name"].isupper() or name["dashes"]:
        return True
    assigned = parts == ["token"] and "=" in name["gap"] and len(value) >= SHORTEST
    return parts[-1] in WEAK and (len(parts) > 1 or assigned or _mixed(value))


def _parts(name: str) -> Iterator[str]:
    """Split a name at underscores, dashes, dots and changes of case; PGPASSWORD is a password."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    for part in re.split(r"[_.\-]+", spaced.lower()):
        if part:
            yield part
            yield from (word for word in INSIDE if word in part and word != part)
            if ENDS.search(part):
                yield "pass" if part.endswith(("pass", "pwd")) else "token"


def _harmless(parts: set[str], value: str) -> bool:
    """Whether a value can be no secret: a switch, or a small number that is no password."""
    if re.fullmatch(r"(?i)true|false|none|null|yes|no|on|off|", value):
        return True
    return not parts & ALWAYS and bool(re.fullmatch(r"\d{1,5}(?:\.\d+)?", value))


def _mixed(value: str) -> bool:
    return len(value) >= SHORTEST and bool(re.search(r"\d", value) and re.search("[A-Za-z]", value))


def _looks_secret(value: str) -> bool:
    """Whether a value is one long word of mixed letters and digits, and no path or version."""
    kinds = [re.search(kind, value) for kind in ("[a-z]", "[A-Z]", r"\d")]
    return bool(re.fullmatch(r"[A-Za-z0-9+=_-]{20,}", value)) and all(kinds)


def _persons(names: Iterable[str]) -> set[str]:
    return {name for name in names if len(name) > 2} - COMMON


def _long_first(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(values, key=lambda value: (-len(value), value)))
