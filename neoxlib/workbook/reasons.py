"""The reasons why a headless run failed, in a few lines for the terminal."""

from pathlib import Path
from typing import Any

from neoxlib.workbook.arguments import near
from neoxlib.workbook.kernel import KERNEL_LOG

LAST_LINES = 12  # of an error, on the terminal
SILENT = ("DeadKernelError", "RuntimeError")  # of a kernel that died or did not start


def reasons(results: dict[str, Any], folder: Path) -> list[str]:
    """Return the lines that say why a run failed and where to read more; [] if it is ok."""
    if results["status"] == "ok":
        return []
    failed = {"type": "CheckFailed", "cell": 0, "message": _failed_checks(results)}
    error = results["error"] or failed
    where = f" in cell {error['cell']}" if error["cell"] else ""
    first, *lines = f"{error['type']}{where}: {error['message']}".splitlines()
    shown = lines if len(lines) <= LAST_LINES else ["…", *lines[-LAST_LINES:]]
    logs = [path for path in sorted(folder.glob("logs/*.log")) if path.stat().st_size]
    if error["type"] in SILENT:
        shown += [line for path in logs for line in _end_of(path) if path.name == KERNEL_LOG]
    more = [*(f"log: {near(path)}" for path in logs), f"report: {near(folder / 'report.html')}"]
    return [first, *(f"  {line}" for line in shown), *more]


def _end_of(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]


def _failed_checks(results: dict[str, Any]) -> str:
    failed = (check for check in results["checks"] if not check["passed"])
    return "; ".join(f"{check['name']}: {check['detail']}" for check in failed)
