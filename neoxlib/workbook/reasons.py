"""The reasons why a headless run failed, in a few lines for the terminal."""

from pathlib import Path
from typing import Any

from neoxlib.workbook.arguments import near
from neoxlib.workbook.kernel import KERNEL_LOG

LAST_LINES = 12  # of an error, on the terminal
SILENT = ("DeadKernelError", "RuntimeError")  # of a kernel that died or did not start


def reasons(results: dict[str, Any], folder: Path) -> list[str]:
    """Return the lines that say why a run failed and where to read more; [] if it is ok."""
    if results["status"] in ("ok", "noisy"):
        return []
    error = results["error"] or _checks_error(results)
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


def _checks_error(results: dict[str, Any]) -> dict[str, Any]:
    """The checks that failed, or, if none did, those that cannot be judged, as an error."""
    failed = [check for check in results["checks"] if check["passed"] is False]
    found = failed or [check for check in results["checks"] if check["passed"] is None]
    message = "; ".join(f"{check['name']}: {check['detail']}" for check in found)
    return {"type": "CheckFailed" if failed else "NotJudged", "cell": 0, "message": message}
