"""Make loaded weights resident: copy mapped weights into private memory, in huge pages.

A background thread does this after a load. Mapped weights can be used at once, but the kernel may
evict their pages between two tokens. Huge pages (2 MB on most CPUs) save most TLB misses. Memory
first touched here is allocated in huge pages. Memory that the load has filled is collapsed into
them afterwards, since that can take long and would delay the load.
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

from neoxlib.checkpoint.file_states import FileStates
from neoxlib.checkpoint.tensor_file import pages
from neoxlib.model.gpt_neox import GPTNeoX

log = logging.getLogger("neoxlib")

HUGE_PAGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
MADV_HUGEPAGE = 14  # linux/mman.h: back memory touched from now on by huge pages
MADV_COLLAPSE = 25  # since Linux 6.1: collapse small pages, as they are, into huge ones
COLLAPSE_BYTES = 16 << 20  # per call; meanwhile other threads that need a new page may have to wait


class Residency:
    """Use `mapped` tensors, by name, as a model's parameters until their copies are ready.

    After `start` a background thread runs `tasks`, which fill the parameters' own memory, and then
    puts that in place. Until it has ended, a write to a parameter would be lost, and so would be
    the weights if another program writes to `files`: `check_files` finds that.
    """

    def __init__(
        self,
        model: GPTNeoX,
        mapped: dict[str, Tensor],
        tasks: Iterable[Callable[[], int]],
        files: FileStates,
    ) -> None:
        self.model = model
        self.tasks = tasks
        self.files = files
        self.is_safe = not mapped
        self.is_cancelled = False
        self.own = {name: model.get_parameter(name).data for name in mapped}
        self._put(mapped)
        self.thread = Thread(target=self._run, name="neoxlib-resident", daemon=True)

    def start(self) -> None:
        """Start the thread. Call this when nothing else changes the model."""
        atexit.register(self.end)  # Python must not exit while a thread runs inside a library
        self.thread.start()

    def check_files(self) -> None:
        """Raise WeightsError if a file was written to while weights of it were mapped or read.

        Before a call, since a page of a file that was cut ends the process (SIGBUS). A file that
        is deleted, or replaced by another one, does no harm. What is not found: a file that is cut
        during the call, and a writer that puts the time of the file back.
        """
        if not self.is_safe:
            self.files.refuse_changed()

    def wait(self) -> None:
        """Wait until the thread has ended."""
        if self.thread.is_alive():
            self.thread.join()

    def end(self) -> None:
        """Cancel the rest and wait: the model is no longer needed."""
        self.is_cancelled = True
        self.wait()

    def _run(self) -> None:
        with suppress(OSError):  # systems whose threads have no priority of their own
            # Lowest priority: requests to the model come first.
            os.setpriority(os.PRIO_PROCESS, get_native_id(), 19)
        if self._copy() and self.model.storage is not None:
            collapse_into_huge_pages(self.model.storage, lambda: self.is_cancelled)
        atexit.unregister(self.end)

    def _copy(self) -> bool:
        """Copy the mapped weights. Returns whether all weights are now in private memory."""
        if self.own and self.model.storage is not None:
            allow_huge_pages(self.model.storage)
        try:
            for task in self.tasks:
                if self.is_cancelled:
                    return False
                task()
        except Exception as error:  # the model continues with the mapped pages
            log.warning(
                "the weights stay mapped from their files, since they could not be copied: %s",
                error,
            )
            return False
        self._put(self.own)
        self.is_safe = not self.files.changed()  # else what was copied is not what was loaded
        if self.own and self.model.executor:
            self.model.executor.reload_pointers()
        pages.cache_clear()
        return True

    def _put(self, tensors: dict[str, Tensor]) -> None:
        """Set the tensors as new parameters.

        Setting `.data` would free the old memory while another thread computes with it.
        """
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))


def allow_huge_pages(block: Tensor) -> int:
    """Let memory of a CPU tensor that was not touched yet come in huge pages.

    Returns the number of bytes for which the kernel allows it.
    """
    return _advise(block, MADV_HUGEPAGE, block.nbytes, lambda: False)


def collapse_into_huge_pages(
    block: Tensor, is_cancelled: Callable[[], bool] = lambda: False
) -> int:
    """Collapse a CPU tensor's memory into huge pages, as far as the kernel can.

    Values and address stay the same. Returns the number of bytes in huge pages.
    """
    return _advise(block, MADV_COLLAPSE, COLLAPSE_BYTES, is_cancelled)


def _advise(block: Tensor, advice: int, step: int, is_cancelled: Callable[[], bool]) -> int:
    """Call madvise for all huge pages inside `block`, `step` bytes at a time.

    Stops at the first refusal. Returns the number of bytes that the kernel accepted.
    """
    try:
        size = int(HUGE_PAGE_SIZE.read_text())
        madvise = ctypes.CDLL(None).madvise
    except (OSError, ValueError, AttributeError):  # not Linux, or a kernel without huge pages
        return 0
    step = max(step, size)
    first = -(-block.data_ptr() // size) * size
    last = (block.data_ptr() + block.nbytes) // size * size
    done = 0
    for start in range(first, last, step):
        part = ctypes.c_size_t(min(step, last - start))
        if is_cancelled() or madvise(ctypes.c_void_p(start), part, advice):
            break
        done += part.value
    return done
