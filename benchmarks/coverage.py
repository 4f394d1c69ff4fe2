"""Run Secateur and Torch-Pruning over every model of a list: who traces, cuts, proves, and in how many seconds.

Every model has a process of its own with one thread, so that a crash, an endless loop or a lack of memory costs one
row. Needs `pip install -e '.[benchmark]'`. Finished rows are added to `rows.jsonl` in the working folder; a rerun goes
on where the last one ended, and the record `benchmarks/records/coverage.json` is made of all rows. Examples:

    python benchmarks/coverage.py --only 'torchvision/resnet*' --mode ours
    python benchmarks/coverage.py --family timm --jobs 2
    python benchmarks/coverage.py --all
    python benchmarks/coverage.py --summary

`benchmarks/coverage_models.py` says which models, `benchmarks/coverage_child.py` what is measured of each.
"""

import argparse
import fnmatch
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from coverage_models import FAMILIES, Subject, subjects
from coverage_summary import combined, summary, verdict_of

from secateur.files import write_text
from secateur.record import environment

HERE = Path(__file__).resolve().parent
RECORD = HERE / "records" / "coverage.json"
MODES = ("ours", "peer", "timing")
PACKAGES = ("torch-pruning", "torchvision", "timm", "transformers", "ultralytics")


class Rows:
    """Finished rows, by (mode, model), in a JSON-lines file; the last line of a pair counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple[str, str], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.endswith("}"):  # a line cut short by a full disk or a crash is measured again
                    row = json.loads(line)
                    self.found[(row["mode"], row["name"])] = row

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row and write it at once."""
        self.found[(row["mode"], row["name"])] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def measure(
    subject: Subject, mode: str, options: argparse.Namespace, running: dict[int, subprocess.Popen[bytes]]
) -> list[dict[str, Any]]:
    """Run one process and return its rows, also where the process dies or does not end."""
    # The peer has two parts of limit-s each and timing three rounds; the rest is for building and plain runs.
    limit_s = {"ours": options.own_limit_s, "peer": 2 * options.limit_s + 120, "timing": 4 * options.limit_s + 240}[
        mode
    ]
    with tempfile.TemporaryDirectory(prefix="coverage") as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, str(HERE / "coverage_child.py"), subject.name, "--mode", mode, "--out", str(out)]
        # Of detectors the peer makes no graph that could be timed, or none in time. Of the others a share that their
        # names decide and nobody chooses.
        drawn = subject.family != "detection" and zlib.crc32(subject.name.encode()) % options.timing_every == 0
        if mode == "ours" and options.with_timing and drawn:
            command += ["--timing-out", str(Path(folder) / "timing.json")]
            limit_s += 4 * options.limit_s
        command += ["--limit-s", str(options.limit_s), "--memory-gib", str(options.memory_gib)]
        places = {"YOLO_CONFIG_DIR": folder, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        start = time.perf_counter()
        with (Path(folder) / "output").open("wb+") as output:
            child = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | places, start_new_session=True
            )
            running[child.pid] = child
            late = False
            try:
                child.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                late = True
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            running.pop(child.pid, None)
            row = {"name": subject.name, "mode": mode, "stage": "start"}
            if out.exists():
                row = json.loads(out.read_text(encoding="utf-8"))
            row["process_s"] = time.perf_counter() - start
            if late:
                row.update(timeout=True, error=f"not done after {limit_s:g} s", failed_at=row["stage"])
            elif child.returncode != 0:
                output.seek(0)
                last = output.read().decode(errors="replace").strip().splitlines()[-1:]
                row.update(error=f"the process ended with {child.returncode}: {' '.join(last)[:300]}")
                row["failed_at"] = row["stage"]
        timing = Path(folder) / "timing.json"
        also = [json.loads(timing.read_text(encoding="utf-8"))] if timing.exists() else []
        return [{**found, "family": subject.family} for found in (row, *also)]


def work_list(options: argparse.Namespace, rows: Rows) -> list[tuple[Subject, str]]:
    """Return what is to be measured, in the order of the list; timing comes last, for it asks how the peer ended."""
    chosen = [
        subject
        for subject in subjects()
        if (not options.family or subject.family in options.family)
        and (not options.only or any(fnmatch.fnmatchcase(subject.name, pattern) for pattern in options.only))
    ]
    modes = MODES if options.mode == "all" else (options.mode,)
    return [
        (subject, mode)
        for mode in modes
        for subject in chosen
        if options.redo or (mode, subject.name) not in rows.found
    ]


def sweep(options: argparse.Namespace, rows: Rows) -> None:
    """Measure all that is missing; Ctrl-C ends the running processes and keeps what is finished."""
    todo = work_list(options, rows)
    print(f"{len(todo)} rows to measure, {len(rows.found)} there already in {rows.path}", flush=True)
    running: dict[int, subprocess.Popen[bytes]] = {}
    waiting: dict[Future[Any], tuple[Subject, str]] = {}
    queue, done = iter(todo), 0
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            while True:
                while len(waiting) < options.jobs and (entry := next(queue, None)) is not None:
                    if entry[1] == "timing" and "graph_s" not in rows.found.get(("peer", entry[0].name), {}):
                        done += 1
                        print(f"[{done}/{len(todo)}] timing {entry[0].name}: the peer has no graph to time", flush=True)
                        continue
                    waiting[pool.submit(measure, *entry, options, running)] = entry
                if not waiting:
                    return
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    subject, mode = waiting.pop(future)
                    row, *also = future.result()
                    for found in (row, *also):
                        rows.add(found)
                    done += 1
                    seconds = row["process_s"]
                    print(f"[{done}/{len(todo)}] {mode} {subject.name}: {verdict_of(row)}, {seconds:.1f} s", flush=True)
        except KeyboardInterrupt:
            for child in list(running.values()):
                os.killpg(child.pid, signal.SIGKILL)
            print(f"stopped; {done} of {len(todo)} rows are kept in {rows.path}", flush=True)
            raise SystemExit(130) from None


def record_of(rows: Rows, options: argparse.Namespace) -> dict[str, Any]:
    """Return the record: every model's rows side by side, sorted by name."""
    return {
        "benchmark": "coverage",
        "threads": 1,
        "peer": f"torch-pruning {importlib.metadata.version('torch-pruning')}",
        "limit_s": options.limit_s,
        "own_limit_s": options.own_limit_s,
        "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
        "environment": asdict(environment(torch.device("cpu"))),
        "machine": platform.machine(),
        "models_in_list": len(subjects()),
        "rows": combined(rows.found),
    }


def main() -> None:
    """Measure, record, sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every model of the list")
    parser.add_argument("--only", action="append", metavar="GLOB", help="models whose family/name matches; repeatable")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="models of one family; repeatable")
    parser.add_argument("--mode", choices=(*MODES, "all"), default="all", help="what to measure (default: all)")
    parser.add_argument(
        "--with-timing", action="store_true", help="with `ours`: time both graphs in the same process as well"
    )
    parser.add_argument("--timing-every", type=int, default=1, metavar="N", help="of one in N models (by name)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default 1; timings want 1)")
    parser.add_argument("--limit-s", type=float, default=60.0, help="seconds for each part of the peer (default 60)")
    parser.add_argument("--own-limit-s", type=float, default=300.0, help="seconds for Secateur in all (default 300)")
    parser.add_argument("--memory-gib", type=float, default=0.0, help="address space per process (default: no limit)")
    parser.add_argument("--redo", action="store_true", help="measure rows again that are there already")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "coverage", help="folder of rows.jsonl")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record (default: benchmarks/records)")
    parser.add_argument("--no-record", action="store_true", help="leave the record as it is")
    parser.add_argument("--summary", action="store_true", help="measure nothing; print the counts and what fails")
    options = parser.parse_args()
    if not (options.all or options.only or options.family or options.summary):
        parser.error("choose models with --all, --only or --family, or ask for --summary")
    if options.jobs < 1 or options.limit_s <= 0 or options.own_limit_s <= 0:
        parser.error("--jobs, --limit-s and --own-limit-s must be above 0")
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no process is left behind
    rows = Rows(options.work / "rows.jsonl")
    if not options.summary:
        if not work_list(options, rows) and not any(rows.found):
            parser.error(f"no model matches {options.only or options.family}; names look like timm/resnet10t")
        sweep(options, rows)
        if not options.no_record:
            write_text(options.out, json.dumps(record_of(rows, options), indent=1) + "\n")
    print(summary(combined(rows.found)))


if __name__ == "__main__":
    main()
