"""Programs in interpreters that have loaded PyTorch and nothing of the library.

To load PyTorch takes two seconds, and dozens of tests want an interpreter of their own. One process
loads it; each program runs in a fork of that process, as ``python -c PROGRAM`` would run it.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import gc, json, os, sys, types
import torch
if any(name.partition(".")[0] == "mabm" for name in sys.modules):
    sys.exit("PyTorch has loaded mabm")
gc.freeze()  # and no fork looks through all of PyTorch when it ends
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
os.chdir(request["folder"])
os.environ.update(request["environment"])
for stream, path in enumerate([os.devnull, *request["outputs"]]):
    os.dup2(os.open(path, os.O_RDWR), stream)
main = sys.modules["__main__"] = types.ModuleType("__main__")
exec(request["program"], vars(main))
"""


def run_program(
    program: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a folder, with more in its environment; no status is an error here."""
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch, name) for name in ("output", "errors")]
        for path in outputs:
            path.touch()
        request = {
            "program": program,
            "folder": str(folder or Path.cwd()),
            "environment": environment,
            "outputs": [str(path) for path in outputs],
        }
        server = _server()
        server.stdin.write(f"{json.dumps(request)}\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(program, status, *(p.read_text() for p in outputs))


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """Ends when this process does, which closes its standard input."""
    return subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
