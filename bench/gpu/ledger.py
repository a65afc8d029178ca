"""The ledger of GPU kernels, brought up to date with a run: ``python -m bench.gpu.ledger``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.report import seconds

LEDGER = Path(__file__).resolve().parents[1] / "results" / "LEDGER.md"


def update(ledger: str, results: dict) -> str:
    """The ledger's text with the rows replaced of the kernels that a results file is about.

    Parameters
    ----------
    ledger : str
        Markdown with one table; a row begins with the kernel's name.
    results : dict
        As a benchmark of `bench.gpu` writes it.
    """
    lines = []
    for line in ledger.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        new = _row(cells[0], cells[1], results) if len(cells) == 8 else None
        lines.append(line if new is None else "| " + " | ".join(new) + " |")
    return "\n".join(lines) + "\n"


def _row(kernel: str, file: str, results: dict) -> list[str] | None:
    rows = [b for b in results["benchmarks"] if b["extra_info"].get("kernel") == kernel]
    failed = [f for f in results["failed"] if f["name"].startswith(f"{kernel},")]
    if not rows and not failed:
        return None
    commit = results["commit_info"]["id"][:12]
    gpu = results["machine_info"]["gpu"]
    if not rows:
        return [kernel, file, commit, gpu, "", "", "", f"fails: {failed[0]['reason']}"]
    error = max(b["extra_info"]["error"] for b in rows)
    fastest = min(
        (b for b in rows if b["extra_info"]["n"] == 64),
        key=lambda b: b["stats"]["min"] / b["extra_info"]["divisor"],
        default=rows[0],
    )
    info = fastest["extra_info"]
    speed = seconds(fastest["stats"]["min"] / info["divisor"])
    speed += f" per {info['unit']} (n = {info['n']}, B = {info['batch']})"
    share = f"{info['roofline_share']:.1%}" if "roofline_share" in info else "peak unknown"
    state = "verified" if not failed else f"{len(failed)} size(s) fail: {failed[0]['reason']}"
    unit = rows[0]["extra_info"]["error_kind"].split(", ")[-1]
    return [kernel, file, commit, gpu, f"{error:.1e} {unit}", speed, share, state]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    ledger = LEDGER.read_text()
    for path in options.results:
        ledger = update(ledger, json.loads(path.read_text()))
    options.output.write_text(ledger)


if __name__ == "__main__":
    main()
