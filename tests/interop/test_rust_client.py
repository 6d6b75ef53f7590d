"""The Rust client and the command line against the published server: Rust tests, started here because they need this
environment."""

import os
import pathlib
import subprocess
import sys
import unittest

REPO = pathlib.Path(__file__).resolve().parent.parent.parent


class RustClient(unittest.TestCase):
    def test_it_works_with_the_published_server(self):
        self.run_tests("client::published")

    def test_its_commands_work_with_the_published_server(self):
        self.run_tests("commands::published")

    def run_tests(self, name):
        # As tests/run has built them.
        built = ["--locked", "--workspace", "--all-features", "--test", "it"]
        command = ["cargo", "test", *built, "--", "--ignored", name]
        environment = dict(os.environ, IPC_PYTHON=sys.executable)
        tests = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
        self.assertEqual(tests.returncode, 0, f"{tests.stdout}\n{tests.stderr}")
        # Cargo does not fail if a filter matches no test.
        self.assertNotIn("running 0 tests", tests.stdout)


if __name__ == "__main__":
    unittest.main()
