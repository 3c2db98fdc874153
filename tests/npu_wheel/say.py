"""One line for each thing that a step looked at; verify.py counts them."""


def check(what: str, passed: bool, detail: str = "") -> bool:
    """OK or FAIL. The detail of what passed is a figure, of what failed what was found."""
    print(f"{'OK' if passed else 'FAIL':4}  {what}{detail and f': {detail}'}", flush=True)
    return passed


def skip(what: str, why: str) -> None:
    """A check that was asked for and could not be made."""
    print(f"SKIP  {what}: {why}", flush=True)


def note(what: str, why: str) -> None:
    """A gap that this wheel leaves and that is known: it is told, and is no failure."""
    print(f"NOTE  {what}: {why}", flush=True)
