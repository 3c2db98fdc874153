"""The kernel that runs a notebook headless, and how papermill writes its files."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.iorw import LocalHandler, papermill_io

from neoxlib.process import python
from neoxlib.workbook.run_folder import write_text
from neoxlib.workbook.signals import Signals

KERNEL_LOG = "kernel.log"


class WholeFiles(LocalHandler):
    """Writes papermill's files atomically."""

    def write(self, buf: str, path: str) -> None:
        write_text(Path(path), buf)


papermill_io.register("/", WholeFiles())


class ThisPython(AsyncKernelManager):
    """Kernels of this interpreter, not of an installed kernelspec. Their channels are encrypted."""

    signals: ClassVar[Signals]  # of the current report
    transport_encryption = "auto"

    @property
    def kernel_spec(self) -> KernelSpec:
        kernel = python("ipykernel.kernelapp", "launch_new_instance")
        return KernelSpec(**get_kernel_dict() | {"argv": [*kernel, "-f", "{connection_file}"]})

    async def shutdown_kernel(self, *args: Any, **options: Any) -> None:
        """Shut down, but first interrupt a cell that a signal stopped, to end its ranks."""
        if self.signals.came is not None:
            with suppress(RuntimeError):
                await self.interrupt_kernel()
        await super().shutdown_kernel(*args, **options)

    async def start_kernel(self, **options: Any) -> None:
        """Start, and keep the stderr of the process, say of a crash, in the run's logs."""
        log = Path(os.environ["NEOXLIB_RUN_DIR"]) / "logs" / KERNEL_LOG
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as stderr:
            await super().start_kernel(stderr=stderr, **options)
