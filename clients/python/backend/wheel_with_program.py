"""The build backend of the wheel: maturin's, which builds the native module, and the `ipc` program beside it.

Maturin packs the module of one crate, or its programs, but not both. It does pack a folder of scripts as it finds it,
so the program is put into that folder first. With IPC_PYTHON_PROGRAM=none the wheel has no program, and is built in
half the time.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import maturin
from maturin import (  # noqa: F401  A build frontend looks for these hooks here.
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

#: The folder with pyproject.toml, in a clone and in an unpacked source distribution.
PROJECT = pathlib.Path(__file__).resolve().parents[1]
#: What `tool.maturin.data` in pyproject.toml names.
SCRIPTS = PROJECT / "build" / "scripts"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    put_program()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    put_program()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    empty_scripts()
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_sdist(sdist_directory, config_settings=None):
    empty_scripts()
    return maturin.build_sdist(sdist_directory, config_settings)


def put_program():
    empty_scripts()
    if os.environ.get("IPC_PYTHON_PROGRAM") != "none":
        shutil.copy(built_program(), SCRIPTS)


def empty_scripts():
    """The folder has to exist, even for what packs nothing of it."""
    shutil.rmtree(SCRIPTS, ignore_errors=True)
    SCRIPTS.mkdir(parents=True)


def built_program():
    """Builds the program without symbols, with those of maturin's options that concern it too, and returns its path."""
    options = argparse.ArgumentParser(allow_abbrev=False)
    options.add_argument("--profile", default="release")
    options.add_argument("--target")
    for name in ("--frozen", "--locked", "--offline"):
        options.add_argument(name, action="store_true")
    given, _ = options.parse_known_args(shlex.split(os.environ.get("MATURIN_PEP517_ARGS", "")))
    command = ["cargo", "rustc", "--manifest-path", str(workspace()), "--package", "ipc-framework", "--bin", "ipc"]
    command += ["--features", "cli", "--profile", given.profile, "--message-format", "json-render-diagnostics"]
    command += ["--target", given.target] if given.target else []
    command += [f"--{name}" for name in ("frozen", "locked", "offline") if getattr(given, name)]
    print("Running:", shlex.join(command), file=sys.stderr, flush=True)
    told = subprocess.run([*command, "--", "-C", "strip=symbols"], check=True, stdout=subprocess.PIPE, text=True).stdout
    (program,) = filter(None, (json.loads(line).get("executable") for line in told.splitlines()))
    return program


def workspace():
    """The manifest of the workspace, which is in the same folder as the one lock file."""
    return next(folder / "Cargo.toml" for folder in (PROJECT, *PROJECT.parents) if (folder / "Cargo.lock").exists())
