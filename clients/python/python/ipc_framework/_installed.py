"""Notices an installation that the published package ``ipc-framework`` has damaged, or is going to damage.

Both packages put their files into ``ipc_framework/``. The one that is installed last overwrites files of the other, and
uninstalling either removes them for both. No installer prevents that.
"""

import os
import sys
import warnings

_FOLDER = os.path.dirname(__file__)
_MEND = """\
    python -m pip uninstall -y ipc-framework
    python -m pip install --force-reinstall --no-deps ipc-framework-rs

The last argument is the path of the wheel if that is what was installed."""


def warn_of_published() -> None:
    """Warns if the published package has been installed into the same folder, which was before this one: its
    ``__init__`` would run otherwise. A list of one directory tells, in a fraction of the time that
    ``importlib.metadata`` takes to load."""
    try:
        beside = os.listdir(os.path.dirname(_FOLDER))
    except OSError:
        return  # An import from an archive, for example.
    if any(name.startswith("ipc_framework-") and name.endswith((".dist-info", ".egg-info")) for name in beside):
        told = (
            f"ipc-framework and ipc-framework-rs are both installed, and share the files in {_FOLDER}. This is "
            f"ipc-framework-rs, until ipc-framework is upgraded or uninstalled, which breaks it. To keep "
            f"ipc-framework-rs alone, run\n\n{_MEND}\n"
        )
        # The line that imports the package: frames of the import system do not count.
        warnings.warn(told, RuntimeWarning, stacklevel=3)


def check() -> None:
    """Raises an `ImportError` if ``__init__`` is not this package's. The modules that the published package does not
    have call it, because nothing else of this package runs then."""
    if not hasattr(sys.modules[__package__], "_MODULES"):
        raise ImportError(
            f"files of ipc-framework-rs in {_FOLDER} were overwritten or removed, because ipc-framework was installed "
            f"or uninstalled after it. To have ipc-framework-rs whole again, run\n\n{_MEND}\n"
        )
