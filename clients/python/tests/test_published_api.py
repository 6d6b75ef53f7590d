"""Every public name of the published package is here, and can be called and read as it is there."""

import inspect
import json
import subprocess

from peers import PUBLISHED_PYTHON

import ipc_framework
import ipc_framework.core
import ipc_framework.exceptions

#: Run by the published package's Python, and here.
DESCRIBE = '''
# What its documentation overrides or calls, although the names say otherwise.
DOCUMENTED = {"__init__", "_handle_publish"}

def describe():
    import enum, inspect, ipc_framework, ipc_framework.core, ipc_framework.exceptions

    def parameters(function):
        given = inspect.signature(function).parameters.values()
        default = lambda one: None if one.default is inspect.Parameter.empty else [repr(one.default)]
        return [[one.name, default(one)] for one in given]

    described = {}
    for module in (ipc_framework, ipc_framework.core, ipc_framework.exceptions):
        for name in dir(module):
            value = getattr(module, name)
            if not inspect.isclass(value) or not value.__module__.startswith("ipc_framework"):
                continue
            members = {}
            for member in dir(value):
                found = getattr(value, member)
                public = not member.startswith("_") or member in DOCUMENTED
                if name == "FrameworkClient":
                    public = public or member == "_send_message"
                if public and inspect.isroutine(found) and not issubclass(value, (enum.Enum, BaseException)):
                    members[member] = parameters(found)
            bases = [base.__name__ for base in value.__mro__ if base.__module__.startswith("ipc_framework")]
            described[module.__name__ + "." + name] = {"members": members, "bases": bases}
    made = {
        "FrameworkClient": ipc_framework.FrameworkClient("app"),
        "FrameworkServer": ipc_framework.FrameworkServer(),
        "Channel": ipc_framework.Channel("channel", "app"),
        "Application": ipc_framework.Application("app"),
        "ConnectionManager": ipc_framework.core.ConnectionManager(),
    }
    attributes = {name: [one for one in vars(value) if not one.startswith("_")] for name, value in made.items()}
    return {"classes": described, "attributes": attributes, "all": ipc_framework.__all__}
'''
PRINT = "\nimport json\nprint(json.dumps(describe()))"


def test_every_name_signature_and_attribute():
    program = [PUBLISHED_PYTHON, "-I", "-c", DESCRIBE + PRINT]
    there = json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    scope = {}
    exec(DESCRIBE, scope)
    here = scope["describe"]()
    assert sorted(here["all"]) == sorted(there["all"])
    assert len(there["classes"]) > 20
    missing = []
    for name, published in there["classes"].items():
        ours = here["classes"].get(name)
        if ours is None or ours["bases"] != published["bases"]:
            missing.append((name, ours and ours["bases"], published["bases"]))
            continue
        for member, parameters in published["members"].items():
            found = ours["members"].get(member)
            # What is added comes behind, and may be left out.
            count = len(parameters)
            if found is None or found[:count] != parameters or not all(default for _, default in found[count:]):
                missing.append((name, member, found, parameters))
    assert missing == []
    made = {"FrameworkClient": ipc_framework.FrameworkClient("app"), "FrameworkServer": ipc_framework.FrameworkServer()}
    for name, attributes in there["attributes"].items():
        ours = made.get(name)
        found = dir(ours) if ours is not None else here["attributes"][name]
        assert set(attributes) <= set(found), name
    assert inspect.isclass(ipc_framework.core.ConnectionManager)
