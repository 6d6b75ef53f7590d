"""Runs the tests of the Python package: `python3 tests/python.py [pytest arguments]`.

Makes a virtual environment under target/, installs clients/python into it by pip alone, and hands
over to pytest. It needs the published package where `tests/interop/run.py` puts it. The native
module is built without optimisation; IPC_PYTHON_PROFILE=release builds it as users get it.
"""

import os
import pathlib
import subprocess
import sys
import venv

REPO = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = REPO / "clients" / "python"
PROFILE = os.environ.get("IPC_PYTHON_PROFILE", "dev")
VENV = REPO / "target" / f"python-venv-{PROFILE}"
PYTHON = VENV / "bin" / "python"


def main() -> int:
    if not PYTHON.exists() or not (VENV / "installed").exists():
        venv.create(VENV, clear=True, with_pip=True)
    environment = dict(os.environ, MATURIN_PEP517_ARGS=f"--profile {PROFILE} --locked", PYTHONNOUSERSITE="1")
    environment.pop("PYTHONPATH", None)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{PACKAGE}[test]"]
    if subprocess.run(pip, env=environment).returncode != 0:
        print("the package could not be built or installed: see pip's words above.", file=sys.stderr)
        return 1
    (VENV / "installed").touch()
    return subprocess.run([PYTHON, "-m", "pytest", *sys.argv[1:]], env=environment, cwd=PACKAGE).returncode


if __name__ == "__main__":
    sys.exit(main())
