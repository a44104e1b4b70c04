"""`gcloud` and `bq` for the stand-in: just the commands that our set-up script and checks print, as an owner runs them.

Programs of those names lie in a folder for the PATH. Each hands its arguments and input to the process of the test,
which answers here. What is not known fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from isthmus.testing.standins.bigquery_wire.access import Access, Refused

_PROGRAM = """#!{python} -IS
import json, sys, urllib.request
text = sys.stdin.read() if "query" in sys.argv else ""
asked = json.dumps([{name!r}, sys.argv[1:], text]).encode()
answer = json.load(urllib.request.urlopen(urllib.request.Request({url!r}, asked)))
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""


class Commands:
    """Answers the programs. `ask` runs an SQL text as the owner."""

    def __init__(self, access: Access, ask: Callable[[str], Any]) -> None:
        self._access, self._ask = access, ask
        self._accounts: set[str] = set()

    def answer(self, body: bytes) -> bytes:
        name, arguments, text = json.loads(body)
        try:
            code, out, err = 0, self._run(name, arguments, text), ""
        except (Refused, ValueError) as e:
            code, out, err = 1, "", f"ERROR: {e}\n"
        except Exception as e:  # what the query failed with
            code, out, err = 1, f"Error in query string: {e}\n", ""
        return json.dumps({"code": code, "out": out, "err": err}).encode()

    def _run(self, name: str, arguments: list[str], text: str) -> str:
        options = dict(a[2:].partition("=")[::2] for a in arguments if a.startswith("--"))
        match [name, *(a for a in arguments if not a.startswith("--"))]:
            case ["bq", "query"] if options.get("use_legacy_sql") == "false":
                self._ask(text)
            case ["gcloud", "services", "enable", *_]:
                pass
            case ["gcloud", "iam", "service-accounts", "describe", email]:
                if email not in self._accounts and not self._access.knows(email):
                    raise ValueError(
                        f"(gcloud.iam.service-accounts.describe) NOT_FOUND: Unknown service account {email}"
                    )
            case ["gcloud", "iam", "service-accounts", "create", account]:
                self._accounts.add(f"{account}@{options['project']}.iam.gserviceaccount.com")
            case ["gcloud", "projects", "add-iam-policy-binding", project]:
                self._access.grant(options["role"], self._own(project), _email(options["member"]))
            case ["gcloud", "projects", "remove-iam-policy-binding", project]:
                self._access.revoke(options["role"], self._own(project), _email(options["member"]))
            case ["gcloud", "projects", "get-iam-policy", project]:
                email = _email(options["filter"].partition(":")[2])
                return "".join(
                    f"{r}\n" for r, place in sorted(self._access.roles(email)) if place == self._own(project)
                )
            case command:
                raise ValueError(f"the stand-in knows no {' '.join(command)}")
        return ""

    def _own(self, project: str) -> str:
        if project != self._access.project:
            raise ValueError(f"there is no project {project}")
        return project


def _email(member: str) -> str:
    kind, _, email = member.partition(":")
    if kind != "serviceAccount":
        raise ValueError(f"{member} is no service account")
    return email


def run(script: str, folder: Path, url: str) -> None:
    """Run a script of ours with bash, its gcloud and bq being the stand-in's. Raises RuntimeError if it fails."""
    for name in ("gcloud", "bq"):
        program = folder / name
        with suppress(FileExistsError):
            program.touch(mode=0o755, exist_ok=False)
            program.write_text(_PROGRAM.format(python=sys.executable, name=name, url=url))
    environment = {"PATH": f"{folder}:{os.defpath}", "HOME": str(folder), "LC_ALL": "C"}
    done = subprocess.run(["bash", "-s"], input=script, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the script ended with {done.returncode}:\n{done.stdout}{done.stderr}")
