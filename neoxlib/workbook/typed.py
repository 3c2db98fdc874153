"""Values given with -p or in a preset, read as the type that the notebook declares.

A text stays as it was typed: digits, `yes`, `null`, `~`, `# x`, `a: b`, quotes, blanks and line
breaks included. For a list of texts, a value that begins with [ is the list, with its texts in
quotes; anything else is one text.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

# What PyYAML raises for a text that is not YAML, or not of the type that its tag or look says.
UNREADABLE = (
    yaml.YAMLError,
    ValueError,  # also of a date with a month 13
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
)
NULL = "tag:yaml.org,2002:null"
MOST_VALUES = 10_000  # in a preset or a value


def read_text(kind: str, item: str, text: str) -> Any:
    """Read a value of the command line by the name of its type; `item` is that of a list's items.

    A text that is not such a value is returned unchanged; the check of types refuses it.
    """
    if kind == "str":
        return text
    if kind in ("int", "float"):
        return _number(text)
    if kind == "list":
        return _list(item, text)
    value = _literal(text)
    return _yes_or_no(value) if kind == "bool" else value


def _yes_or_no(value: Any) -> Any:
    return bool(value) if value in (0, 1) else value


def _number(text: str) -> int | float | str | None:
    """Read a number as Python does: YAML 1.1 reads 1e-3 as a text, 010 as 8 and 1:30 as 90."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text.lower() in ("none", "null") else text


def _list(item: str, text: str) -> Any:
    if not text.lstrip().startswith("["):
        return [text] if text else []
    if item == "str":
        return _texts(text)
    value = _literal(text)
    return value if isinstance(value, list) else text


def _texts(text: str) -> list[str] | str:
    """Read a list of texts: JSON, or a line of YAML whose items are taken literally."""
    try:
        found = json.loads(text, strict=False)  # line breaks are allowed in strings
        if all(isinstance(one, str) for one in found):
            return found
    except (ValueError, RecursionError):
        pass
    try:
        items = [one for one in yaml.parse(text) if isinstance(one, yaml.ScalarEvent)]
    except UNREADABLE:
        return text
    spans = [slice(one.start_mark.index, one.end_mark.index) for one in items]
    rest = list(text)
    for span in reversed(spans):
        rest[span] = []
    # Besides its items a list may only have brackets and commas, not what YAML drops: comments,
    # tags and anchors.
    plain = re.fullmatch(r"\s*\[[\s,]*\]\s*", "".join(rest)) and not any(
        one.tag or one.anchor for one in items
    )
    folded = any("\n" in text[span] for span in spans)
    return [one.value for one in items] if plain and not folded else text


def _literal(text: str) -> Any:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        return None if node is None else _construct(node)
    except UNREADABLE:
        return text


def read_yaml(text: str) -> dict[str, yaml.Node]:
    """Return a preset's values by name, as nodes without a type.

    Raises ValueError if the text is not YAML, not a mapping, or has a name twice.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is None or root.tag == NULL:
            return {}
        if not isinstance(root, yaml.MappingNode):
            found = _type_of(root)
            raise ValueError(f"holds {found}, expected lines of the form name: value")
        return dict(_names(root))
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _type_of(node: yaml.Node) -> str:
    try:
        return type(_construct(node)).__name__
    except UNREADABLE:
        return "another value"


def _names(root: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    seen: dict[str, int] = {}
    for key, _ in root.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"has no name in line {line}, expected name: value")
        if key.value in seen:
            raise ValueError(
                f"has {key.value} in line {seen[key.value]} and in line {line}; keep one of them"
            )
        seen[key.value] = line
    if "<<" in seen:
        _refuse_bomb(root)
        yaml.SafeLoader("").flatten_mapping(root)  # merges the values of `<<`
    return ((key.value, value) for key, value in root.value)


def read_node(kind: str, item: str, node: yaml.Node) -> Any:
    """Read a preset's value as -p does: a text is taken literally, also a number, a date or yes.

    A null stays None, which is the default. Raises ValueError for a null in place of a text, and
    for a node that YAML cannot read.
    """
    if kind == "str" and node.tag == NULL:
        return _no_null(node)
    try:
        if node.tag != NULL and isinstance(node, yaml.ScalarNode) and _is_plain(node):
            return _scalar(kind, item, node)
        if kind == "list" and item == "str" and isinstance(node, yaml.SequenceNode):
            return [one.value if _is_text(one) else _construct(one) for one in node.value]
        return _construct(node)
    except UNREADABLE as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"cannot be read: {why}") from error


def _scalar(kind: str, item: str, node: yaml.ScalarNode) -> Any:
    if kind == "str":
        return node.value
    if kind in ("int", "float") and node.style is None:
        return _number(node.value)
    if kind == "list" and item == "str":
        return [node.value]
    value = _construct(node)
    return _yes_or_no(value) if kind == "bool" else value


def _is_plain(node: yaml.Node) -> bool:
    return node.tag.startswith("tag:yaml.org,2002:")


def _is_text(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and _is_plain(node)


def _no_null(node: yaml.ScalarNode) -> str:
    """Return the empty text for an empty value; refuse `~` and `null`, which are ambiguous."""
    if node.value:
        cure = f"write '' for the empty one, or '{node.value}' in quotes for that text"
        raise ValueError(f"found {node.value}, expected a text; {cure}")
    return ""


def _construct(node: yaml.Node) -> Any:
    _refuse_bomb(node)
    return yaml.SafeLoader("").construct_document(node)


def _refuse_bomb(root: yaml.Node) -> None:
    """Raise ValueError if the node has too many values, each counted wherever an alias repeats it.

    A node that contains itself, which YAML's anchors allow, has no end of them.
    """
    counts: dict[int, float] = {}

    def count(node: yaml.Node) -> float:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in counts:
            counts[id(node)] = math.inf  # until its parts are counted: it may be one of them
            pairs = isinstance(node, yaml.MappingNode)
            parts = [part for pair in node.value for part in pair] if pairs else node.value
            counts[id(node)] = 1 + sum(map(count, parts))
        return counts[id(node)]

    if (found := count(root)) == math.inf:
        raise ValueError("contains itself: an alias stands inside of what its anchor names")
    if found > MOST_VALUES:
        raise ValueError(f"has {found:,} values where its aliases are; at most {MOST_VALUES:,}")
