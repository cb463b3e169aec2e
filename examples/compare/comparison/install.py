"""What a run needs: a virtual environment for each peer, and the funcx binary."""
import json
import os
import pathlib
import shutil
import subprocess
import sys


class Unavailable(Exception):
    """Why a system cannot be measured here."""


def default_cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "funcx" / "compare"


def interpreter(spec, cache, log, say):
    """The Python that drives a system. Its environment is made once, and anew when its requirements change."""
    if spec.program and not shutil.which(spec.program):
        raise Unavailable(f"no {spec.program} in PATH")
    if not spec.requirements:
        return sys.executable
    directory = cache / spec.requirements[0].partition("==")[0]
    complete, wanted = directory / "complete", "".join(f"{requirement}\n" for requirement in spec.requirements)
    python = directory / "bin" / "python"
    if complete.exists() and complete.read_text(encoding="utf-8") == wanted:
        return str(python)
    say(f"installing {' '.join(spec.requirements)}")
    shutil.rmtree(directory, ignore_errors=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *spec.requirements]
    for command in ([sys.executable, "-m", "venv", directory], pip):
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode != 0:
            raise Unavailable(f"{' '.join(spec.requirements)} did not install; {log.name} says why")
    complete.write_text(wanted, encoding="utf-8")
    return str(python)


def build(repository, log, say):
    """The release binary, built from this repository."""
    say("building funcx: cargo build --release")
    command = ["cargo", "build", "--release", "-p", "funcx-daemons", "--bins", "--message-format", "json"]
    done = subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, stderr=log, text=True)
    if done.returncode != 0:
        raise Unavailable(f"funcx did not build; {log.name} says why")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "funcx":
            return message["executable"]
    raise Unavailable("cargo built no binary of the name funcx")
