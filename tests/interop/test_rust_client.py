"""The Rust client against the published server: a Rust test, started here because it needs this environment."""

import os
import pathlib
import subprocess
import sys
import unittest

REPO = pathlib.Path(__file__).resolve().parent.parent.parent


class RustClient(unittest.TestCase):
    def test_it_works_with_the_published_server(self):
        command = ["cargo", "test", "--locked", "--all-features", "--test", "it"]
        command += ["--", "--ignored", "client::published"]
        environment = dict(os.environ, IPC_PYTHON=sys.executable)
        tests = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
        self.assertEqual(tests.returncode, 0, f"{tests.stdout}\n{tests.stderr}")
        # A filter that finds nothing is no failure to cargo.
        self.assertNotIn("running 0 tests", tests.stdout)


if __name__ == "__main__":
    unittest.main()
