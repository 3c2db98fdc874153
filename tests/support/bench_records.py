"""Made-up records and results of benchmarks."""


def record(
    name: str, case: str, steps: list[float], precision: str = "bf16", same: int = 3
) -> dict:
    batch = int(case.partition(" ")[0])
    return {
        "name": name,
        "precision": precision,
        "case": case,
        "round": 0,
        "batch": batch,
        "steps_ms": steps,
        "same_tokens": same,
        "tokens": 3,
    }


def result(*records: dict, failures: tuple = ()) -> dict:
    names = dict.fromkeys((r["name"], r["precision"]) for r in records)
    return {
        "machine": {
            "date": "2026-01-02T03:04:05",
            "cpu": "some processor",
            "cores": 2,
            "torch": "2",
            "memory_gb": 24,
            "git": "0123abcd",
        },
        "shape": {"layers": 3, "hidden": 128, "heads": 4, "vocab": 2048, "parameters": 10**6},
        "threads": 2,
        "read_gb_s": [40.0, 50.0],
        "failures": list(failures),
        "records": list(records),
        "others": {
            "load_before": 1.5,
            "load_after": 2.5,
            "busy_cores_mean": 0.1,
            "busy_cores_max": 0.4,
        },
        "contenders": [
            {"name": n, "precision": p, "version": f"{n} 1.0, x", "bytes": 10**8} for n, p in names
        ],
    }
