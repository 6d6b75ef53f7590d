"""Runs the examples of the documents, README.md and docs/: `python3 tests/documents.py [page or folder…]`.

Every fenced block of Rust, Python, JavaScript and shell is run as it stands there, on localhost:8888. The blocks of a
page run one after another in a folder of its own, beside a fresh `ipc serve --demo`. Pages run side by side in network
namespaces of their own; on a machine that does not allow these, one after another, with port 8888 free.

`→ text` at the end of a line of a block says that the block prints this line; several appear in this order. Words
behind the language say more:

    not-run         The block is not run: it installs something, or is a fragment. `NOT_RUN` has their number.
    packaged        The block is run by packaging/check, where the package that it is about is installed. `--packaged`
                    lists these blocks, and packaging/check compares them with those that it has run.
    background      The block goes on until the page ends. The next one is run once this one has printed something.
    server          The same, in place of the server that ran before. The next one is run once port 8888 is open.
    file=NAME       The block is written to this file and not run. This is for any language.
    needs=PROGRAM   The block is run where this program is installed, and otherwise named as left out.

It needs the program (`cargo build --features cli`), the environment of tests/python.py, and clients/node as `npm ci`
leaves it. Anything else that a block needs is a fault of the document.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tests" / "interop"))

from processes import programs_port  # noqa: E402

TARGET = REPO / "target"
WORK = TARGET / "documents"
IPC = pathlib.Path(os.environ.get("IPC_BIN", TARGET / "debug" / "ipc"))
PYTHON = TARGET / f"python-venv-{os.environ.get('IPC_PYTHON_PROFILE', 'dev')}" / "bin"
PORT = 8888
#: Seconds after which a block hangs. A model may take its time to be trained beside other tests.
SECONDS_MAX = 240
#: The page whose blocks packaging/check runs.
PACKAGES = REPO / "docs" / "packages.md"
#: Blocks that are not run. A change of their number is deliberate: change it here as well.
NOT_RUN = 4
RUN = ("js", "python", "rust", "sh")
DATA = ("html", "ini", "json", "text", "toml", "ts", "yaml")
WORDS = ("not-run", "packaged", "background", "server")
#: Crates that a Rust block may name besides this one.
CRATES = ("ipc_framework", "mio", "serde", "serde_json")


@dataclasses.dataclass(frozen=True)
class Block:
    page: pathlib.Path
    line: int
    language: str
    words: tuple[str, ...]
    code: str
    #: The last heading before it.
    heading: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPO)}:{self.line}"

    @property
    def name(self) -> str:
        return re.sub(r"\W", "_", self.place).lower()

    def value(self, key: str) -> str | None:
        return next((word[len(key) + 1 :] for word in self.words if word.startswith(f"{key}=")), None)

    @property
    def is_run(self) -> bool:
        is_left = "not-run" in self.words or "packaged" in self.words
        return self.language in RUN and not is_left and self.value("file") is None

    @property
    def prints(self) -> list[str]:
        """The lines that it says it prints."""
        return [line.split("→", 1)[1].strip() for line in self.code.splitlines() if "→" in line]


def blocks(page: pathlib.Path) -> list[Block]:
    found = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^( *)```(\S+)(.*)\n((?:.*\n)*?)\1```$", text, re.MULTILINE):
        indent, language, info, code = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        words = tuple(re.sub(r"\[.*\]", "", info).split())
        code = "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        headings = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)
        found.append(Block(page, line, language, words, code, headings[-1] if headings else ""))
    return found


def faults(found: list[Block]) -> list[str]:
    """Faults of the blocks that are seen before any of them is run."""
    faults = []
    for block in found:
        if block.language not in RUN + DATA:
            faults.append(f"{block.place}: the language is none of {RUN + DATA}")
        unknown = [word for word in block.words if word not in WORDS and not re.match("(file|needs)=.", word)]
        if unknown:
            faults.append(f"{block.place}: {unknown} means nothing")
    checks = "\n".join(check.read_text(encoding="utf-8") for check in REPO.glob("packaging/*/check"))
    # As the checks ask for them: the first block of a language below a heading.
    calls = re.findall(r"block (?:'(.*?)'|(\S+)) (\w+)", checks)
    asked = {(quoted or word, language) for quoted, word, language in calls}
    for block in found:
        if "packaged" not in block.words:
            continue
        if block.page != PACKAGES or (block.heading, block.language) not in asked:
            faults.append(f"{block.place}: no packaging/*/check runs it: `block '{block.heading}' {block.language}`")
        asked.discard((block.heading, block.language))
    left = [block.place for block in found if "not-run" in block.words]
    if len(left) != NOT_RUN:
        faults.append(f"{len(left)} blocks are not run, and NOT_RUN is {NOT_RUN}:\n" + "\n".join(left))
    return faults


def compile_rust(found: list[Block]) -> None:
    """Makes one program of all Rust blocks. Each is a module on the lines that it has in its page."""
    rust = [block for block in found if block.language == "rust" and block.is_run]
    if not rust:
        return
    build = ["cargo", "build", "--quiet", "--locked", "--features", "cli", "--message-format", "json"]
    built = subprocess.run(build, cwd=REPO, stdout=subprocess.PIPE, check=True, text=True)
    libraries = {}
    for artifact in map(json.loads, built.stdout.splitlines()):
        name = artifact.get("target", {}).get("name", "").replace("-", "_")
        files = [file for file in artifact.get("filenames", ()) if file.endswith(".rlib")]
        if files:
            # Another build may put another library in the place of this one, but not under its own name.
            own = (TARGET / "debug" / "deps").glob(f"lib{name}-*.rlib")
            libraries[name] = next((str(file) for file in own if file.samefile(files[0])), files[0])
    arms = []
    for block in rust:
        (WORK / f"{block.name}.rs").write_text("\n" * block.line + block.code.replace("fn main()", "pub fn main()"))
        arms.append(f'        "{block.name}" => finish({block.name}::main()),\n')
    modules = "".join(f'#[path = "{block.name}.rs"]\nmod {block.name};\n' for block in rust)
    (WORK / "rust.rs").write_text(
        f"{modules}fn finish<E: std::fmt::Debug>(result: Result<(), E>) {{\n    result.unwrap()\n}}\nfn main() {{\n"
        f"    match &*std::env::args().nth(1).unwrap() {{\n{''.join(arms)}        _ => unreachable!(),\n    }}\n}}\n"
    )
    externs = [option for crate in CRATES for option in ("--extern", f"{crate}={libraries[crate]}")]
    options = ["--edition", "2024", "-D", "warnings", "-L", f"dependency={TARGET / 'debug' / 'deps'}"]
    compiler = ["rustc", *options, *externs, "-o", str(WORK / "rust"), str(WORK / "rust.rs")]
    if subprocess.run(compiler).returncode != 0:
        sys.exit("the Rust blocks do not compile: their lines are those of the pages.")


def command(block: Block, folder: pathlib.Path) -> list[str]:
    if block.language == "rust":
        return [str(WORK / "rust"), block.name]
    if block.language == "sh":
        # In a clone `cargo ipc` builds the program first.
        return ["bash", "-euo", "pipefail", "-c", 'cargo() { shift; ipc "$@"; }\n' + block.code]
    ending = "py" if block.language == "python" else "cjs" if "require(" in block.code else "mjs"
    program = folder / f"{block.name}.{ending}"
    program.write_text(block.code, encoding="utf-8")
    return [str(PYTHON / "python"), str(program)] if ending == "py" else ["node", str(program)]


class Failure(Exception):
    pass


class Running:
    def __init__(self, block: Block | None, arguments: list[str], folder: pathlib.Path):
        self.block = block
        self.output = folder / f"{block.name if block else 'server'}.output"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("IPC_")}
        environment["PATH"] = f"{IPC.parent}:{PYTHON}:{environment['PATH']}"
        environment.update(PYTHONUNBUFFERED="1", PYTHONNOUSERSITE="1", NO_COLOR="1")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                arguments, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )

    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def fail(self, what: str) -> Failure:
        return Failure(f"{self.block.place if self.block else 'ipc serve --demo'}: {what}\n{self.printed()}")

    def wait_until(self, what: str, condition) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not condition():
            if self.process.poll() is not None:
                raise self.fail(f"ended with {self.process.returncode} instead of having {what}")
            if time.monotonic() > deadline:
                raise self.fail(f"has not {what} for {SECONDS_MAX} s")
            time.sleep(0.01)

    def finish(self) -> None:
        """Waits for its end, which is that of a program that did what it should."""
        try:
            code = self.process.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise self.fail(f"has not ended for {SECONDS_MAX} s") from None
        if code != 0:
            raise self.fail(f"ended with {code}")
        self.check()

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def check(self) -> None:
        lines = iter(line.strip() for line in self.printed().splitlines())
        for line in self.block.prints if self.block else ():
            if line not in lines:
                raise self.fail(f"does not print, or not in this order, {line!r}; it prints")


def is_open() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def run_page(found: list[Block]) -> list[str]:
    """Runs the blocks of a page. Returns those that need a program that is not there."""
    folder = WORK / re.sub(r"\W", "_", str(found[0].page.relative_to(REPO)))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    left_out: list[str] = []
    running: list[Running] = []
    server: Running | None = None

    def serve(block: Block | None, arguments: list[str]) -> Running:
        if server:
            server.stop()
            running.remove(server)
            server.check()
        if is_open():
            raise Failure(f"port {PORT} is in use: end the program that listens on it.")
        started = Running(block, arguments, folder)
        running.append(started)
        started.wait_until("opened its port", is_open)
        return started

    try:
        for block in found:
            needed = block.value("needs")
            file = block.value("file")
            if file is not None:
                (folder / file).write_text(block.code, encoding="utf-8")
            elif not block.is_run:
                continue
            elif needed is not None and shutil.which(needed) is None:
                left_out.append(f"{block.place}: there is no {needed}")
            elif "server" in block.words:
                server = serve(block, command(block, folder))
            else:
                if server is None:
                    server = serve(None, [str(IPC), "serve", "--demo"])
                one = Running(block, command(block, folder), folder)
                running.append(one)
                if "background" in block.words:
                    one.wait_until("printed anything", one.printed)
                else:
                    one.finish()
        for one in running:
            if one.process.poll():
                raise one.fail(f"ended with {one.process.returncode} while others were run")
    finally:
        for one in reversed(running):
            one.stop()
    for one in running:
        one.check()
    return left_out


def open_loopback() -> None:
    """Switches the loopback interface of a new network namespace on."""
    with socket.socket() as control:
        request = struct.pack("16sH14x", b"lo", 0x1)  # IFF_UP
        fcntl.ioctl(control, 0x8914, request)  # SIOCSIFFLAGS


def namespace() -> list[str]:
    """The command that gives a program a network of its own, or nothing where that is not allowed."""
    for unshare in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            if subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode == 0:
                return unshare
        except FileNotFoundError:
            break
    return []


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        if sys.argv[3] == "isolated":
            open_loopback()
        try:
            print("\n".join(run_page(blocks(pathlib.Path(sys.argv[2])))))
            return 0
        except Failure as failure:
            print(failure)
            return 1
    pages = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
    pages = [page for page in pages if "node_modules" not in page.parts]
    by_page = {page: found for page in pages if (found := blocks(page))}
    everything = [block for found in by_page.values() for block in found]
    wrong = faults(everything)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    if sys.argv[1:] == ["--packaged"]:
        print("\n".join(block.place for block in everything if "packaged" in block.words))
        return 0
    chosen = [pathlib.Path(name).resolve() for name in sys.argv[1:]] or [REPO]
    by_page = {page: found for page, found in by_page.items() if any(page.is_relative_to(one) for one in chosen)}
    WORK.mkdir(parents=True, exist_ok=True)
    modules = WORK / "node_modules"
    shutil.rmtree(modules, ignore_errors=True)
    modules.mkdir()
    (modules / "ipc-framework").symlink_to(REPO / "clients" / "node")
    (modules / "express").symlink_to(REPO / "clients" / "node" / "node_modules" / "express")
    compile_rust([block for found in by_page.values() for block in found])

    unshare = namespace()

    def run_one(page: pathlib.Path) -> subprocess.CompletedProcess:
        one = [sys.executable, __file__, "--one", str(page), "isolated" if unshare else "shared"]
        return subprocess.run([*unshare, *one], stdout=subprocess.PIPE, text=True)

    to_run = [page for page, found in by_page.items() if any(one.is_run for one in found)]
    # Other tests need the port as well.
    with contextlib.nullcontext() if unshare else programs_port():
        with concurrent.futures.ThreadPoolExecutor(4 if unshare else 1) as threads:
            done = list(threads.map(run_one, to_run))
    for page in done:
        if page.stdout.strip():
            print(page.stdout.strip(), file=sys.stderr if page.returncode else sys.stdout)
    failed = sum(page.returncode != 0 for page in done)
    ran = [block for found in by_page.values() for block in found if block.is_run]
    counts = ", ".join(f"{sum(block.language == language for block in ran)} of {language}" for language in RUN)
    print(f"{len(ran)} blocks ({counts}) on {len(done)} pages; {failed} pages failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
