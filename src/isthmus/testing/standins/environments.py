"""Where a stand-in's own programs live: an environment each, because their pins exclude one another and ours.

What each needs is pinned beside this file in `requirements/`: `<name>.lock` for Python packages, `<name>/` with a
package-lock.json for npm ones. An environment is made when it is first asked for, and again when its lock changes; the
folder of our own environment keeps them (`.venv/standins`), so that removing that one removes them.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isthmus.testing.standins.launching import program

REQUIREMENTS = Path(__file__).parent / "requirements"
HOME = Path(sys.prefix) / "standins"

PYTHONS: dict[str, str] = {"bigquery": "3.13"}
"""The Python each environment needs, if not the one we run in."""


class Unavailable(Exception):
    """A stand-in cannot be had on this machine: it needs a program that is not here."""


def python(name: str) -> Path:
    """The Python of the environment `name`, made if need be. Raises Unavailable without the Python it wants."""
    lock = REQUIREMENTS / f"{name}.lock"
    wanted = _digest(lock.read_bytes())
    folder = HOME / name
    with _alone(name):
        if not _is_made(folder, wanted):
            base = _interpreter(PYTHONS[name]) if name in PYTHONS else Path(sys.executable)
            shutil.rmtree(folder, ignore_errors=True)
            _call(program("uv"), "--quiet", "venv", "--no-python-downloads", "--python", str(base), str(folder))
            into = ("--python", str(folder / "bin" / "python"))
            _call(program("uv"), "--quiet", "pip", "sync", "--require-hashes", *into, str(lock))
            (folder / ".made").write_text(wanted)
    return folder / "bin" / "python"


def node_program(name: str, command: str) -> Path:
    """The command of an npm package, installed if need be. Raises Unavailable without npm."""
    pins = REQUIREMENTS / name
    wanted = _digest((pins / "package-lock.json").read_bytes())
    folder = HOME / name
    with _alone(name):
        if not _is_made(folder, wanted):
            npm = shutil.which("npm")
            if npm is None:
                raise Unavailable(f"{name} needs Node.js with npm, which is not here")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(pins, folder)
            _call(npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder))
            (folder / ".made").write_text(wanted)
    return folder / "node_modules" / ".bin" / command


def library(package: str, name: str) -> None:
    """Have a system library that a driver wants, and no wheel brings, where the driver is looked for.

    If the system has it, nothing is done. Else it is taken out of the system's own package, without being installed,
    into the `lib` folder of our environment. Raises Unavailable where that cannot be done.
    """
    try:
        ctypes.CDLL(name)
        return
    except OSError:
        target = Path(sys.prefix) / "lib" / name
    with _alone(package):
        if target.exists():
            return
        if sys.platform != "linux" or not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Unavailable(f"the system library {name} is not here: install the package {package}")
        with tempfile.TemporaryDirectory() as folder:
            try:
                _call("apt-get", "-q", "download", package, cwd=folder)
            except RuntimeError:  # nobody has asked what there is yet
                try:
                    _call("apt-get", "-q", "update", cwd=folder)
                    _call("apt-get", "-q", "download", package, cwd=folder)
                except RuntimeError as e:
                    raise Unavailable(f"the package {package} cannot be fetched: install it ({e})") from e
            (archive,) = Path(folder).glob("*.deb")
            _call("dpkg-deb", "-x", str(archive), folder)
            found = next(Path(folder).rglob(name)).resolve()
            shutil.copyfile(found, target.with_suffix(".part"))
            target.with_suffix(".part").rename(target)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_made(folder: Path, wanted: str) -> bool:
    made = folder / ".made"
    return made.exists() and made.read_text() == wanted


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Two test processes that want the same environment take turns."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _interpreter(version: str) -> Path:
    """A Python of that version. A name on the path may be a shim with nothing behind it: each is tried."""
    found = shutil.which(f"python{version}")
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    for candidate in (Path(sys.executable), *([Path(found)] if found else []), *kept):
        asked = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if re.match(rf"Python {re.escape(version)}\b", asked.stdout):
            return candidate
    raise Unavailable(f"Python {version} is not here: install it, so that `python{version}` runs it")


def _call(*arguments: str, cwd: str | None = None) -> None:
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
