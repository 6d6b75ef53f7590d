"""Runs the interop tests: `python3 tests/interop/run.py [unittest arguments]`.

Makes a virtual environment with the published package, then hands over to unittest inside it.
Arguments are passed on, so `run.py test_client.Publishing` runs one class. `run.py --install` makes the environment
only.
"""

import os
import pathlib
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent.parent
REQUIREMENTS = HERE / "requirements.txt"
VENV = REPO / "target" / "interop-venv"
STAMP = VENV / "interop-stamp"
PYTHON = VENV / "bin" / "python"

# The venv's own python runs this check, because only the release that requirements.txt pins may be tested.
CHECK = """
import importlib.metadata, pathlib, sys
import ipc_framework
version = importlib.metadata.version("ipc-framework")
assert version == ipc_framework.__version__ == "1.1.2", f"ipc-framework is {version}, not 1.1.2"
home = pathlib.Path(ipc_framework.__file__).resolve()
assert pathlib.Path(sys.prefix).resolve() in home.parents, f"ipc_framework comes from {home}, not from the venv"
"""


def main() -> int:
    binary = pathlib.Path(os.environ.get("IPC_BIN") or REPO / "target" / "debug" / "ipc").resolve()
    if not os.access(binary, os.X_OK):
        return complain(f"{binary} is missing: run `cargo build --features cli`, or set IPC_BIN to a built `ipc`.")
    # The stamp contains the path of the venv, because its scripts name it: a moved checkout needs a new one.
    wanted = f"{sys.version}\n{VENV}\n{REQUIREMENTS.read_text()}"
    if not STAMP.exists() or STAMP.read_text() != wanted:
        if not install():
            return complain(
                "the published package could not be installed: see pip's words above, check that this machine reaches "
                "its package index, and run again."
            )
        STAMP.write_text(wanted)
    # Without PYTHONPATH and the user's site-packages only the venv can provide `ipc_framework`.
    environment = dict(os.environ, IPC_BIN=str(binary), PYTHONNOUSERSITE="1")
    environment.pop("PYTHONPATH", None)
    if subprocess.run([PYTHON, "-c", CHECK], env=environment).returncode != 0:
        return complain(f"{VENV} does not hold ipc-framework 1.1.2: remove that directory and run again.")
    if sys.argv[1:] == ["--install"]:
        return 0
    arguments = sys.argv[1:] or ["discover", "-s", str(HERE)]
    # The output is buffered, because the published client prints on every connect. A failing test shows its output.
    command = [PYTHON, "-m", "unittest", *arguments, "-v", "-b"]
    return subprocess.run(command, env=environment, cwd=HERE).returncode


def install() -> bool:
    try:
        venv.create(VENV, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"making {VENV} failed: {error}", file=sys.stderr)
        return False
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", REQUIREMENTS]
    return subprocess.run(pip).returncode == 0


def complain(sentence: str) -> int:
    print(f"interop tests: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
