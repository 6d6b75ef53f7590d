"""Runs the programs of a page with an installed package: `quickstart.py PAGE BIN WORK`.

It does what tests/documents.py does with what is built in the clone. BIN is the folder with the interpreter and `ipc`.
"""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests"))
import documents


def main() -> None:
    page, installed, work = map(pathlib.Path, sys.argv[1:4])
    unshare = documents.namespace()
    if unshare and len(sys.argv) == 4:
        sys.exit(subprocess.run([*unshare, sys.executable, *sys.argv, "isolated"]).returncode)
    if unshare:
        documents.open_loopback()
    documents.PYTHON, documents.IPC = installed, installed / "ipc"
    documents.WORK = work
    os.environ["PYTHONWARNINGS"] = "error"
    try:
        left_out = documents.run_page(documents.blocks(page))
    except documents.Failure as failure:
        sys.exit(str(failure))
    if left_out:
        sys.exit(f"not everything was run: {left_out}")


main()
