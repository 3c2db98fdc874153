"""Which host is cut off from the network of the ranks, told by what hosts hear of each other."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from neoxlib.hosts.checks import HERE

log = logging.getLogger("neoxlib")
VOTE_SECONDS = 0.5  # from the first word of a silence on: which host it is takes several words
STRANGERS = (
    "%s has never heard %s over UDP in %s: a cut there will not be noticed before gloo's own "
    "limit; let UDP through between the hosts"
)


@dataclass(frozen=True)
class Cut:
    """A cut in the network of the ranks: the hosts that it leaves out, and what is known of it."""

    hosts: frozenset[str]
    words: str


def find_cut(unheard: Mapping[str, Mapping[str, float]], network: str) -> Cut | None:
    """Find the cut that explains which peers each host does not hear, and for how many seconds.

    A host that every silence has to do with is the one cut off. Two that alone do not hear each
    other are both named, and so are all hosts if there is more than one cut.
    """
    pairs = {frozenset((host, peer)) for host, peers in unheard.items() for peer in peers}
    if not pairs:
        return None
    seconds = max(s for peers in unheard.values() for s in peers.values())
    there = f"in the network of the ranks, {network}: not heard for {seconds:.0f} s"
    in_all = frozenset.intersection(*pairs)
    if len(in_all) == 1:
        (host,) = in_all
        others = _listed(set().union(*pairs) - in_all)
        return Cut(in_all, f"{host} is cut off from {others} {there}")
    told = "; ".join(sorted(f"{_listed(pair)} are cut off from each other" for pair in pairs))
    return Cut(frozenset().union(*pairs), f"{told} {there}")


def _listed(names: "set[str] | frozenset[str]") -> str:
    """Names in words, this machine last."""
    ordered = sorted(names, key=lambda name: (name == HERE, name))
    return f"{', '.join(ordered[:-1])} and {ordered[-1]}" if len(ordered) > 1 else ordered[0]


class Hearing:
    """What the hosts of a session say of each other; `tell` sends words to each of them."""

    def __init__(self, network: str, tell: Mapping[str, Callable[..., None]]) -> None:
        self._network = network
        self._tell = tell
        self._places: dict[str, list[Any]] = {}
        self._unheard: dict[str, dict[str, float]] = {}
        self._since: float | None = None  # when the first word of a silence came
        self._lock = threading.Lock()

    def take(self, host: str, words: Mapping[str, Any]) -> None:
        """Take what a host says: where it listens, whom it does not hear, whom it never heard."""
        if "at" in words:
            with self._lock:
                self._places[host] = words["at"]
                if len(self._places) == len(self._tell):
                    self._begin()
        if "unheard" in words:
            self._unheard[host] = words["unheard"]
            if not any(self._unheard.values()):
                self._since = None
            elif self._since is None:
                self._since = time.monotonic()
        if words.get("strangers"):
            log.warning(STRANGERS, host, ", ".join(words["strangers"]), self._network)

    def cut(self) -> Cut | None:
        """Return the cut that there is, once all hosts have had the time to tell of it."""
        if self._since is None or time.monotonic() < self._since + VOTE_SECONDS:
            return None
        return find_cut(dict(self._unheard), self._network)

    def _begin(self) -> None:
        """Tell every host where the others are, and the key of this session."""
        key = secrets.token_hex()
        for host, tell in self._tell.items():
            tell(own=host, places=self._places, key=key)
