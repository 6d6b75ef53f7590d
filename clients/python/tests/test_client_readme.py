"""What the README says of clients runs as it stands there, but for the port."""

import pathlib
import re
import subprocess
import sys

import pytest
from peers import RustServer, STEP_SECONDS_MAX

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"
CLIENTS = README.read_text().split("## Clients", 1)[1].split("**SIGTERM.**", 1)[0]  # Those are in `test_terminate`.
EXAMPLES = re.findall(r"```python\n(.*?)```", CLIENTS, re.DOTALL)


#: What each prints.
PRINTS = {
    "threads": "it works",
    "asyncio": "970299",
    "streams": "well\ntell\nme\nmore",
    "tensors": "(224, 224, 3) 0.0\n<class 'bytes'> 147",
    "errors": "app:bad_input {'field': 'width'} True",
    "topics": "prices.tea None 2.8\norders 2 one cake",
}


def test_there_are_as_many():
    assert len(EXAMPLES) == len(PRINTS)


@pytest.mark.parametrize("example, prints", list(zip(EXAMPLES, PRINTS.values())), ids=PRINTS)
def test_an_example(example, prints):
    server = RustServer()
    code = example.replace('("bench")', f'("bench", port={server.port})')
    # A line that is an expression and says what it gives has to give that.
    code = re.sub(r"(?m)^( +)(client\.send_request.*?\S) +# (.*)$", r"\1assert \2 == \3, \2", code)
    assert code.count("assert ") == (3 if "client.send_request(\"echo\", {" in code else 0)
    run = [sys.executable, "-c", code]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=STEP_SECONDS_MAX)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip() == prints
    server.stop()
