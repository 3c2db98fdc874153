"""What follows a load, in the background: weights come into memory of their own, and that into large pages.

Weights that are pages of a file can be used at once, but the kernel may take such pages away between two tokens. Large
pages (2 MB on most CPUs) spare most of the look-ups of addresses. Memory that is first touched here comes in them; what
the load has filled is gathered into them, since to find large pages can take long, and someone waits for a load.
"""

import atexit
import ctypes
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread, get_native_id

from torch import Tensor, nn

from neoxlib.checkpoint.tensor_file import pages
from neoxlib.model.gpt_neox import GPTNeoX

log = logging.getLogger("neoxlib")

LARGE_PAGE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
MADV_HUGEPAGE = 14  # linux/mman.h: let what is touched from now on come in large pages
MADV_COLLAPSE = 25  # since Linux 6.1: gather small pages, as they are, into large ones
AT_ONCE = 16 << 20  # bytes, while other threads that need a new page may have to wait


class Settling:
    """Puts `mapped`, by name, in place of a model's parameters; `tasks` fill what they had, in a thread, after `start`.

    Until it is over a parameter must not be written to: the copy would not have it.
    """

    def __init__(
        self, model: GPTNeoX, mapped: dict[str, Tensor], tasks: Iterable[Callable[[], int]]
    ) -> None:
        self.model = model
        self.tasks = tasks
        self.ended = False
        self.own = {name: model.get_parameter(name).data for name in mapped}
        self._put(mapped)
        self.thread = Thread(target=self._run, name="neoxlib-settle", daemon=True)

    def start(self) -> None:
        """Begin. To be called when nothing else changes the model."""
        atexit.register(
            self.end
        )  # Python must not leave while a thread of its own is inside a library
        self.thread.start()

    def wait(self) -> None:
        """Return when it is over."""
        if self.thread.is_alive():
            self.thread.join()

    def end(self) -> None:
        """Go no further: the model is no longer needed."""
        self.ended = True
        self.wait()

    def _run(self) -> None:
        with suppress(OSError):  # where threads have no priorities of their own
            os.setpriority(
                os.PRIO_PROCESS, get_native_id(), 19
            )  # what the model is asked meanwhile comes first
        if self._copy() and self.model.block is not None:
            use_large_pages(self.model.block, lambda: self.ended)
        atexit.unregister(self.end)

    def _copy(self) -> bool:
        """Whether all weights are now in memory of the model's own."""
        if self.own and self.model.block is not None:
            expect_large_pages(self.model.block)
        try:
            for task in self.tasks:
                if self.ended:
                    return False
                task()
        except Exception as error:  # the model works on, from the pages
            log.warning(
                "the weights stay mapped from their files, since they could not be copied: %s",
                error,
            )
            return False
        self._put(self.own)
        if self.own and self.model.fast:
            self.model.fast.renew()
        pages.cache_clear()
        return True

    def _put(self, tensors: dict[str, Tensor]) -> None:
        """As new parameters: with `.data` the old memory would be freed while another thread computes with it."""
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))


def expect_large_pages(block: Tensor) -> int:
    """Let a CPU tensor's memory, where it was not touched yet, come in large pages; the bytes that may."""
    return _advise(block, MADV_HUGEPAGE, block.nbytes, lambda: False)


def use_large_pages(block: Tensor, ended: Callable[[], bool] = lambda: False) -> int:
    """Gather a CPU tensor's memory into large pages, as far as the kernel can and will; the bytes that came.

    Its bytes stay as they are and where they are.
    """
    return _advise(block, MADV_COLLAPSE, AT_ONCE, ended)


def _advise(block: Tensor, advice: int, at_once: int, ended: Callable[[], bool]) -> int:
    """Tell the kernel about all large pages inside `block`, `at_once` bytes at a time; the bytes that it agreed to."""
    try:
        size = int(LARGE_PAGE.read_text())
        madvise = ctypes.CDLL(None).madvise
    except (OSError, ValueError, AttributeError):  # no Linux, or one without large pages
        return 0
    first = -(-block.data_ptr() // size) * size
    last = (block.data_ptr() + block.nbytes) // size * size
    done = 0
    for start in range(first, last, max(at_once, size)):
        part = ctypes.c_size_t(min(max(at_once, size), last - start))
        if ended() or madvise(ctypes.c_void_p(start), part, advice):
            break
        done += part.value
    return done
