"""What the page adds to the engine: nine cells compared in Chromium beside the server, against the same nine cells without a page.

    python scripts/bench_page.py [--rounds 3] [--tokens 96]

Alternately, on this machine: a click on Compare until the grid says it is finished, and `gistdemo.compare.compare` in the same server's
place, in a process of its own that draws nothing. Processor seconds tell who spent them. Needs what `make test` needs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
ALONE = """
import json, sys, threading, time
from gistdemo.checkpoint.pool import ModelPool
from gistdemo.compare import compare
from gistdemo.data.alpaca import read_rows
from gistdemo.conditions import DEFAULT_CONDITIONS
from gistdemo.generation import LIVE, Sampling
from gistdemo.grid import CompareRequest
from gistdemo.memory import keep_freed_memory
from gistdemo.settings import Settings
keep_freed_memory()
settings = Settings.from_env()
example = read_rows(str(settings.examples_file)).examples[int(sys.argv[2]) - 1]
rows, pool = ("base", "base-joint", "instruct"), ModelPool(settings)
for line in sys.stdin:
    began, first = time.perf_counter(), None
    request = CompareRequest(example, rows, DEFAULT_CONDITIONS, 4, Sampling(int(sys.argv[1]), precision=LIVE))
    for snapshot in compare(request, pool, threading.Event()):
        if first is None and any(cell.text for cell in snapshot.cells):
            first = time.perf_counter() - began
    print(json.dumps({"seconds": time.perf_counter() - began, "first": first}), flush=True)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def spent(process: psutil.Process) -> float:
    """Processor seconds of a process and all below it."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


def in_page(page: Page, server: psutil.Process, browser: psutil.Process) -> dict[str, float]:
    before = spent(server), spent(browser)
    page.evaluate(
        """() => { window.firstText = null; const began = performance.now();
        const look = () => { if (document.querySelector('#gd-grid [data-status="running"] .gd-text:not(.gd-none)')) window.firstText = performance.now() - began;
        else setTimeout(look, 20); }; document.querySelector('#gd-compare').click(); look(); }"""
    )
    began = time.perf_counter()
    page.wait_for_selector('#gd-grid [data-finished="false"]', timeout=60_000)
    page.wait_for_selector('#gd-grid [data-finished="true"]', timeout=300_000)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "first": page.evaluate("window.firstText") / 1000,
        "server": spent(server) - before[0],
        "browser": spent(browser) - before[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from gistdemo.ui.compare_tab import OPENING

    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    alone = subprocess.Popen(
        [sys.executable, "-c", ALONE, str(args.tokens), str(OPENING)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1400, "height": 1000})
            for _ in range(240):
                try:
                    page.goto(f"http://127.0.0.1:{port}/?limit={args.tokens}")
                    break
                except Exception:  # not listening yet
                    time.sleep(0.5)
            page.wait_for_selector("#gd-compare")
            browser = next(
                p
                for p in psutil.process_iter(["name", "cmdline"])
                if "--headless" in " ".join(p.info["cmdline"] or ()) and "--type=" not in " ".join(p.info["cmdline"] or ())
            )
            found: dict[str, list[dict[str, float]]] = {"page": [], "alone": []}
            for number in range(args.rounds + 1):  # the first is a warm-up
                found["page"].append(in_page(page, psutil.Process(server.pid), browser))
                assert alone.stdin and alone.stdout
                alone.stdin.write("go\n")
                alone.stdin.flush()
                found["alone"].append(json.loads(alone.stdout.readline()))
                print(f"round {number}: page {found['page'][-1]}; alone {found['alone'][-1]}", flush=True)
                page.reload()
                page.wait_for_selector("#gd-compare")
            middle = {side: median(run["seconds"] for run in runs[1:]) for side, runs in found.items()}
            share = 100 * (middle["page"] / middle["alone"] - 1)
            print(
                f"nine cells of {args.tokens} tokens: page {middle['page']:.2f} s, engine alone {middle['alone']:.2f} s, overhead {share:.0f} %"
            )
    finally:
        server.terminate()
        alone.terminate()


if __name__ == "__main__":
    main()
