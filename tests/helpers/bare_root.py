"""The steps of a Dockerfile, done without Docker: in a bare root that has this machine's programs and nothing else.

A root is a folder with a read-only view of what /usr and this Python have, and empty folders for the rest. Each stage
of the Dockerfile gets one, and its lines are carried out there as they stand. Other than in a container, system and
Python are the machine's and not the image's, and Python packages are the machine's instead of downloaded ones.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

ROOT = Path(__file__).parents[2]
USERS = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh", "etc/group": "root:x:0:", "etc/shadow": ""}
SYSTEM = ("bin", "sbin", "lib", "lib64", "libexec", "share")  # of /usr; what is under /usr/local belongs to the image
LINKED = ("bin", "sbin", "lib", "lib64")
LOOPBACK = (
    "import fcntl, socket, struct; "
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))"  # SIOCSIFFLAGS: up
)


def possible() -> bool:
    """Whether this machine lets us make such a root: Linux, as root, with namespaces."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    if Path(sys.base_prefix) == Path("/usr/local"):  # where the image puts its own
        return False
    done = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    return done.returncode == 0


def shared_packages() -> list[Path]:
    """The folders that hold the packages which this Python imports."""
    return [Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def steps(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, (word, rest)."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE))
    found = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in found]


@dataclass
class Stage:
    """A root and what the Dockerfile has set so far."""

    root: Path
    environment: dict[str, str]
    folder: str = "/"
    user: str = "0:0"
    told: dict[str, str] = field(default_factory=dict)  # ENTRYPOINT, CMD, HEALTHCHECK
    lines: list[str] = field(default_factory=list)  # of the shell script that does it

    def prepare(self) -> None:
        """Lines that make the root."""
        # Its own Python's folder may lie in one that only root may enter; here everybody may.
        base = Path(sys.base_prefix)
        views = {f"usr/{name}": Path("/usr", name) for name in SYSTEM if Path("/usr", name).is_dir()}
        views |= {f"packages/{n}": path for n, path in enumerate(shared_packages())}
        if not base.is_relative_to("/usr"):
            views[str(base.relative_to("/"))] = base
        for name, source in views.items():
            self.do(f"mkdir -p {self.at(name)}", f"mount --bind -o ro {shlex.quote(str(source))} {self.at(name)}")
        for name in LINKED:
            if Path("/", name).is_symlink():
                self.do(f"ln -s usr/{name} {self.at(name)}")
        self.do(
            *(
                f"mkdir -p {self.at(name)}"
                for name in ("tmp", "dev", "proc", "opt", "home", "programs", "etc", "usr/local/bin")
            )
        )
        self.do(f"chmod 1777 {self.at('tmp')}", *(f"echo {text} > {self.at(name)}" for name, text in USERS.items()))
        self.do(f"mount --rbind /dev {self.at('dev')}", f"mount -t proc proc {self.at('proc')}")
        python = self.at("programs/python")
        call = f'#!/bin/sh\\nexec {Path(sys.executable).resolve()} "$@"\\n'
        self.do(f"printf {shlex.quote(call)} > {python}", f"chmod 755 {python}")

    def at(self, path: str) -> str:
        """A path of the root as the machine sees it, for the shell."""
        return shlex.quote(str(self.root / path.lstrip("/")))

    def do(self, *lines: str) -> None:
        """Add lines to the script."""
        self.lines += lines

    def call(self, words: str, **more: str) -> str:
        """The line that runs a line of a shell in the root."""
        given = [shlex.quote(f"{name}={value}") for name, value in {**self.environment, **more}.items()]
        inside = shlex.quote(f"cd {shlex.quote(self.folder)} && {words}")
        return f"env -i {' '.join(given)} chroot --userspec={self.user} {shlex.quote(str(self.root))} sh -c {inside}"

    def take(self, word: str, rest: str, stages: dict[str, Stage]) -> None:
        """Carry out an instruction."""
        match word:
            case "WORKDIR":
                self.folder = rest
                self.do(f"mkdir -p {self.at(rest)}")
            case "ENV":
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    self.environment[name] = Template(value).substitute(self.environment)
            case "COPY":
                self._copy(rest.split(), stages)
            case "RUN" if "torch==" in rest:  # a download of gigabytes: the machine's own is used
                pass
            case "RUN":
                self.do(self.call(rest))
            case "USER":
                self.user = rest
                self.environment.pop("HOME", None)  # Docker takes it from the user's entry
            case "EXPOSE":
                pass
            case "ENTRYPOINT" | "CMD":
                self.told[word] = shlex.join(json.loads(rest))
            case "HEALTHCHECK":
                self.told[word] = shlex.join(json.loads(rest[rest.index("[") :]))
            case _:
                raise AssertionError(f"an instruction that this does not know: {word} {rest}")

    def _copy(self, words: list[str], stages: dict[str, Stage]) -> None:
        options = [word for word in words if word.startswith("--")]
        *sources, target = [word for word in words if not word.startswith("--")]
        origin = ROOT
        for option in options:
            name, _, value = option.partition("=")
            assert name == "--from", option
            origin = stages[value].root
        goal = target if target.startswith("/") else f"{self.folder}/{target}"
        for source in sources:
            self.do(f"mkdir -p $(dirname {self.at(goal)}x)")
            self.do(f"cp -r --preserve=mode,links {shlex.quote(str(origin / source.lstrip('/')))} {self.at(goal)}")


def built(dockerfile: Path, folder: Path, after: str) -> tuple[Stage, list[str]]:
    """The last stage of a Dockerfile, and the lines of the script that makes all of them.

    Args:
        dockerfile: the file.
        folder: for the roots.
        after: a line of a shell for each environment of Python that a stage has made, which it finds in ``$venv``.
    """
    stages: dict[str, Stage] = {}
    lines = ["set -eu", f"{shlex.quote(sys.executable)} -c {shlex.quote(LOOPBACK)}"]
    stage: Stage | None = None
    for word, rest in steps(dockerfile):
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "last"
            environment = {"PATH": "/programs:/usr/local/bin:/usr/sbin:/usr/bin", "HOME": "/root"}
            # Everything but the package itself is here already.
            environment |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            environment |= {"OMP_NUM_THREADS": "1"}
            stage = stages[name] = Stage(folder / name, environment, lines=lines)
            stage.prepare()
            continue
        assert stage is not None
        stage.take(word, rest, stages)
        if word == "RUN" and "-m venv " in rest:
            venv = stage.at(rest.rpartition(" ")[2])
            lines.append(f"venv={venv}; {after}")
    assert stage is not None
    return stage, lines


def run(lines: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script where its mounts and its network are its own."""
    script = folder / "script.sh"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "bash", str(script)]
    return subprocess.run(words, capture_output=True, text=True, check=False)
