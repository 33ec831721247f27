#!/usr/bin/env python3
"""Runs every notebook from top to bottom and keeps its outputs.

usage: scripts/run_notebooks.py [RUNS] [--program lpc-pipe] [--cold]

RUNS (by default `runs`) is a folder with what `lpc-pipe demo` wrote in `demo/`. What a notebook's first cell makes with other
commands is made with --program where it is missing. Ends with an error where a cell fails, prints to standard error, or
leaves a path of this machine in its outputs, and where a notebook shows fewer than three tables and pictures.

--cold compiles with an empty cache: the first notebook's first cell is then the cold one, those of the others are warm.
Needs python3 with nbclient and nbformat, and evcxr_jupyter: notebooks/README.md.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
LEAST = 3


def make_missing(cells, runs, program, work):
    """Runs the commands of the first cell whose output folder is not there. The demo is made by the user."""
    (work / "runs").symlink_to(runs)
    for line in cells[0].source.splitlines():
        words = shlex.split(line) if line.startswith("lpc-pipe ") else []
        if "--out" not in words:
            continue
        out = words[words.index("--out") + 1]
        if (work / out / "manifest.json").exists():
            continue
        if not program:
            sys.exit(f"{out} is missing: give --program, or run\n  {line}")
        print(f"$ {line}", flush=True)
        subprocess.run([program, *words[1:], "--quiet"], cwd=work, check=True, stdout=subprocess.DEVNULL)
    (work / "runs").unlink()


def kernels(folder):
    """A kernel of this program's own, so that the user's are left as they are."""
    program = os.environ.get("EVCXR_JUPYTER") or shutil.which("evcxr_jupyter")
    if not program:
        sys.exit("no evcxr_jupyter: cargo install --locked evcxr_jupyter, or name it in EVCXR_JUPYTER")
    spec = folder / "rust"
    spec.mkdir(parents=True)
    argv = [program, "--control_file", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Rust", "language": "rust"}))
    return KernelSpecManager(kernel_dirs=[str(folder)])


def faults(name, cells, private):
    """What must not be in the outputs of an executed notebook."""
    for number, cell in enumerate(cells, 1):
        for output in cell.get("outputs", []):
            text = json.dumps(output, ensure_ascii=False)
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"{name}, cell {number}: {output.get('evalue') or output.get('text')}"
            for word in private:
                if word in text:
                    yield f"{name}, cell {number}: the output holds {word}"
            if re.search(r"<style|<script", text):
                yield f"{name}, cell {number}: an element that a web page strips"


def run(path, manager, private):
    notebook = nbformat.read(path, as_version=4)
    kernel = AsyncKernelManager(kernel_name="rust", kernel_spec_manager=manager)
    client = NotebookClient(
        notebook, km=kernel, timeout=600, record_timing=False, resources={"metadata": {"path": str(NOTEBOOKS)}}
    )
    # The kernel ends with the notebook, also where a cell failed.
    client.owns_km = True
    seconds = []
    begin = {}
    client.on_cell_execute = lambda cell, cell_index: begin.update(at=time.monotonic())
    client.on_cell_executed = lambda cell, cell_index, execute_reply: seconds.append(time.monotonic() - begin["at"])
    # Raises at the first cell that fails. The kernel prints the progress of cargo, which is no output of a cell.
    client.execute(stderr=subprocess.DEVNULL)
    notebook.metadata.language_info.version = ""
    tables = pictures = count = 0
    for cell in notebook.cells:
        cell.metadata = {}
        cell.pop("id", None)
        if cell.cell_type == "code":
            # The kernel counts what it evaluates, a cell of commands twice.
            count += 1
            cell.execution_count = count
        for output in cell.get("outputs", []):
            if "execution_count" in output:
                output.execution_count = count
            if "Chart {" in output.get("data", {}).get("text/plain", ""):
                sys.exit(f"{path.name}: a chart that is shown as text")
            tables += "<table" in output.get("data", {}).get("text/html", "")
            pictures += "image/svg+xml" in output.get("data", {})
    wrong = list(faults(path.name, notebook.cells, private))
    if tables + pictures < LEAST:
        wrong.append(f"{path.name}: {tables} tables and {pictures} pictures, fewer than {LEAST}")
    if wrong:
        sys.exit("\n".join(wrong))
    notebook.nbformat_minor = 4
    nbformat.write(notebook, path)
    later = seconds[1:]
    print(
        f"{path.name}: first cell {seconds[0]:.1f} s, later cells {sum(later) / len(later):.1f} s on average, "
        f"{max(later):.1f} s at most; {tables} tables, {pictures} pictures",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="?", default="runs", type=pathlib.Path)
    parser.add_argument("--program", help="lpc-pipe, for the folders that are missing")
    parser.add_argument("--cold", action="store_true", help="compile with an empty cache")
    given = parser.parse_args()
    runs = given.runs.resolve()
    if not (runs / "demo" / "demo.json").exists():
        sys.exit(f"{given.runs}/demo is not a finished demo: run lpc-pipe demo")
    program = given.program and shutil.which(given.program)
    if given.program and not program:
        sys.exit(f"no program {given.program}")
    program = program and str(pathlib.Path(program).resolve())
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    private = [str(ROOT), str(runs), str(pathlib.Path.home()) + "/", tempfile.gettempdir() + "/", socket.gethostname()]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        os.environ["LPC_PIPE_RUNS"] = str(runs)
        if given.cold:
            os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        manager = kernels(folder / "kernels")
        for path in paths:
            make_missing(nbformat.read(path, as_version=4).cells, runs, program, folder)
            run(path, manager, private)


if __name__ == "__main__":
    main()
