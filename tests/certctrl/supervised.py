"""Run a supervisor in its own process, for tests that kill it.

`python supervised.py FOLDER WHAT HOW`. HOW is "executed" or "forked", which is how the children
start.

Each child writes its name and pid to FOLDER/pids. When it is asked to stop, it writes its name to
FOLDER/stopped.
"""

import signal
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from certctrl.supervisor import Child, Stopped, Supervisor  # noqa: E402

POLITE = """
import os, pathlib, signal, sys
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
def stop(number, frame):
    with open(folder / "stopped", "a") as file:
        file.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with open(folder / "pids", "a") as file:
    file.write(f"{name} {os.getpid()}\\n")
while True:
    signal.pause()
"""
DEAF = """
import os, pathlib, signal, sys
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    name += "'s child"
with open(folder / "pids", "a") as file:
    file.write(f"{name} {os.getpid()}\\n")
while True:
    signal.pause()
"""
PREFORK = """
import ctypes, os, pathlib, signal, sys
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None)
if os.fork() == 0:  # as celery's prefork does
    libc.prctl(1, signal.SIGKILL)
    name += "'s child"
with open(folder / "pids", "a") as file:
    file.write(f"{name} {os.getpid()}\\n")
while True:
    signal.pause()
"""


def main(folder: Path, what: str, how: str) -> None:
    def child(folder: Path, name: str, code: str, patience: float = 60) -> Child:
        module = f"code_of_{name}"
        (folder / f"{module}.py").write_text(code)
        command = [sys.executable, "-m", module, str(folder), name]
        return Child(name, command, folder=folder, patience=patience, forked=how == "forked")

    sys.path.insert(0, str(folder))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    children = {
        "three": [child(folder, name, POLITE) for name in ("redis", "web", "beat")],
        "deaf": [child(folder, "deaf", DEAF, patience=0.3)],
        "very deaf": [child(folder, "deaf", DEAF, patience=60)],
        "prefork": [child(folder, "worker", PREFORK), child(folder, "web", POLITE)],
    }[what]
    with Supervisor(lambda text: print(text, flush=True)) as supervisor:
        try:
            for each in children:
                supervisor.start(each)
            supervisor.run()
        except Stopped:
            print("asked to stop", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
