"""Runs the tests of the Python package: `python3 tests/python.py [pytest arguments]`.

Builds the wheel of clients/python by pip alone, installs it into a virtual environment under target/, and hands over to
pytest. It needs the published package where `tests/interop/run.py` puts it. A second environment has gevent, eventlet,
servers of web and task frameworks and the kernel of notebooks beside the wheel, because they change what threads and
loops are. The native module is built without optimisation; IPC_PYTHON_PROFILE=release builds it as users get it.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import venv

REPO = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = REPO / "clients" / "python"
PROFILE = os.environ.get("IPC_PYTHON_PROFILE", "dev")
WHEELS = REPO / "target" / f"python-wheels-{PROFILE}"
VENV = REPO / "target" / f"python-venv-{PROFILE}"
PYTHON = VENV / "bin" / "python"
SCHEDULERS_VENV = REPO / "target" / f"python-venv-{PROFILE}-schedulers"
SCHEDULERS_PYTHON = SCHEDULERS_VENV / "bin" / "python"
SCHEDULERS = PACKAGE / "tests" / "schedulers" / "requirements.txt"
PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]


def make(home: pathlib.Path) -> None:
    if not (home / "installed").exists():
        venv.create(home, clear=True, with_pip=True)


def main() -> int:
    environment = dict(os.environ, MATURIN_PEP517_ARGS=f"--profile {PROFILE} --locked", PYTHONNOUSERSITE="1")
    environment.pop("PYTHONPATH", None)
    # What is tested is the module; packaging/python/check tests wheels with the program.
    environment["IPC_PYTHON_PROGRAM"] = "none"
    environment["IPC_SCHEDULERS_PYTHON"] = str(SCHEDULERS_PYTHON)
    make(VENV)
    make(SCHEDULERS_VENV)
    shutil.rmtree(WHEELS, ignore_errors=True)

    def pip(python: pathlib.Path, *arguments: object) -> None:
        subprocess.run([python, *PIP, *map(str, arguments)], env=environment, check=True)

    try:
        pip(PYTHON, "wheel", "--no-deps", "--wheel-dir", WHEELS, PACKAGE)
        (wheel,) = WHEELS.glob("*.whl")
        environment["IPC_WHEEL"] = str(wheel)
        for python in (PYTHON, SCHEDULERS_PYTHON):
            # The version is the same each time, so pip would think that it has it.
            pip(python, "install", "--force-reinstall", "--no-deps", wheel)
        pip(PYTHON, "install", f"{wheel}[test]")
        pip(SCHEDULERS_PYTHON, "install", "--requirement", SCHEDULERS)
    except subprocess.CalledProcessError:
        print("the package could not be built or installed: see pip's words above.", file=sys.stderr)
        return 1
    for home in (VENV, SCHEDULERS_VENV):
        (home / "installed").touch()
    return subprocess.run([PYTHON, "-m", "pytest", *sys.argv[1:]], env=environment, cwd=PACKAGE).returncode


if __name__ == "__main__":
    sys.exit(main())
