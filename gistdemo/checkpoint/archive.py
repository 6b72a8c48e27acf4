"""Whole checkpoints as zip files: packed, taken in with distrust, and deleted. No torch.

An archive is named after the checkpoint, as its manifest gives the name, and holds one folder of that name with the manifest, the
card, the figures kept beside it, and the files the manifest lists. Weights are safetensors; nothing in an archive can be code.
Which names are free and who uses a checkpoint is known one layer up: see `gistdemo.services`.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from gistdemo.checkpoint.manifest import NAME, NAME_RULE, Manifest, read_json, read_manifest
from gistdemo.checkpoint.registry import EVALUATION_FILE
from gistdemo.errors import CheckpointError, first_line

WEIGHTS, TEXTS = ".safetensors", (".json", ".md", ".txt")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile inflates the others without a bound: a kilobyte could fill the memory
MOST_ENTRIES = 200
MOST_BYTES = 2 * 2**30  # of all files together, counted while they are read: a header may lie
MOST_TEXT_BYTES = 64 * 2**20  # of a file that is read whole, as the manifest is; marks of 50,000 rows take less than 1 MB
CHUNK = 2**20
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: equal folders give equal archives
UNREADABLE = (  # what zipfile and zlib raise over bytes that are not a whole zip
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError,
)  # fmt: skip


def pack(folder: Path, into: Path) -> Path:
    """Write NAME.zip into a folder that exists and return its path; an older one is replaced in one move. Nothing is compressed:
    weights hardly shrink, and the bytes do not depend on a version of zlib.

    Raises: CheckpointError: the checkpoint is broken (see `read_manifest`) or has no proper name, or the archive cannot be written.
    """
    manifest = read_manifest(folder)
    _check_name(manifest.name, folder.name)
    path = into / f"{manifest.name}.zip"
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=into) as building:
            written = Path(building) / path.name
            _write(written, folder, manifest)
            os.replace(written, path)
    except OSError as error:
        raise CheckpointError(
            f"Checkpoint '{manifest.name}' cannot be packed into '{into}' ({first_line(error)}). Free disk space, or choose another folder."
        ) from error
    return path


def unpack(path: Path, into: Path, taken: Collection[str], most_bytes: int = MOST_BYTES) -> str:
    """Take the checkpoint of an archive into a folder, whole or not at all. taken: names that are in use. Returns its name.

    most_bytes: of all its files, unpacked. Raises: CheckpointError: no such file, not a zip; encrypted or packed by a rare method;
    a file of another kind, outside its folder, hidden, a link, twice, too many or too much; no manifest or a broken one; a name
    that is not allowed or is taken. Nothing is left behind then.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file '{path}'. Give the path of a checkpoint's zip.")
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=into) as building:
            folder = Path(building) / "checkpoint"
            _extract(path, folder, most_bytes)
            name = _name_of(folder, path.name)
            if name in taken or (into / name).exists():
                raise CheckpointError(
                    f"'{path.name}' holds a checkpoint '{name}', but there is one of that name already, or a job that writes it. "
                    'Delete that one first, or change "name" in manifest.json of the new one.'
                )
            folder = folder.rename(folder.with_name(name))
            read_manifest(folder)
            os.replace(folder, into / name)
    except OSError as error:
        raise CheckpointError(f"'{path.name}' cannot be unpacked ({first_line(error)}). Free disk space, or export it again.") from error
    return name


def delete(name: str, own: Path, shipped: Path, users: Collection[str] = ()) -> None:
    """Remove a checkpoint made or taken in here, a broken one too. own, shipped: folders of those and of gistdemo's.

    users: titles of the jobs that need it. Raises: CheckpointError: it came with gistdemo, is not there, is in use, or cannot be removed.
    """
    if name in _folders(shipped):
        raise CheckpointError(f"Checkpoint '{name}' came with gistdemo and stays. Only those made or imported here can be deleted.")
    here = _folders(own)
    if name not in here:  # a name out of a listing holds no path
        raise CheckpointError(
            f"No checkpoint '{name[:80]}' was made or imported here. Those that were: {', '.join(sorted(here)) or 'none'}."
        )
    if users:
        titles = ", ".join(f"'{title}'" for title in users)
        raise CheckpointError(f"Checkpoint '{name}' is in use by job {titles}. Wait for its end or stop it, then delete the checkpoint.")
    try:
        (own / name).unlink() if (own / name).is_symlink() else shutil.rmtree(own / name)
    except OSError as error:
        raise CheckpointError(
            f"Checkpoint '{name}' cannot be deleted whole ({first_line(error)}). See to that and delete it again."
        ) from error


def _folders(parent: Path) -> set[str]:
    return {path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")} if parent.is_dir() else set()


def _write(path: Path, folder: Path, manifest: Manifest) -> None:
    names = {"manifest.json", *manifest.files}
    names |= {name for name in ("README.md", EVALUATION_FILE) if (folder / name).is_file()}
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(f"{manifest.name}/{name}", EPOCH)
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # 3: Unix, on every system
            entry.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file, archive.open(entry, "w") as packed:
                shutil.copyfileobj(file, packed, CHUNK)


def _extract(path: Path, folder: Path, most_bytes: int) -> None:
    """Unpack the files of an archive into a new folder, without the one folder they may lie in."""
    source, left = path.name, most_bytes
    try:
        with zipfile.ZipFile(path) as archive:
            files = _checked(archive.infolist(), source)
            top = _top(files, source)
            for name, entry in files.items():
                target = folder / name.relative_to(top)
                target.parent.mkdir(parents=True, exist_ok=True)
                most = left if name.suffix.lower() == WEIGHTS else min(left, MOST_TEXT_BYTES)
                with archive.open(entry) as packed, target.open("xb") as file:
                    size = _copy(packed, file, most)
                if size > most:
                    raise CheckpointError(
                        f"'{source}': {str(name)[:80]!r} unpacks to too much; allowed are {most_bytes >> 20:,} MiB for a checkpoint, "
                        f"{MOST_TEXT_BYTES >> 20} MiB for one of its texts. Nothing was taken in."
                    )
                left -= size
    except UNREADABLE as error:
        raise CheckpointError(
            f"'{source}' is not a zip file that can be read ({first_line(error)}). Export the checkpoint again."
        ) from error


def _copy(packed: IO[bytes], file: IO[bytes], most: int) -> int:
    """Copy a file out of an archive until it ends or is more than `most` bytes. Returns how many there were until then."""
    count = 0
    while count <= most and (chunk := packed.read(CHUNK)):
        count += len(chunk)
        file.write(chunk)
    return count


def _checked(entries: Sequence[zipfile.ZipInfo], source: str) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of an archive by their paths, once every entry is what it may be."""
    if len(entries) > MOST_ENTRIES:
        raise CheckpointError(f"'{source}' has {len(entries):,} entries; a checkpoint has at most {MOST_ENTRIES}. Nothing was taken in.")
    files, seen = {}, set()
    for entry in entries:
        path, shown = PurePosixPath(entry.filename), repr(entry.filename[:80])
        if problem := _problem(entry, path):
            raise CheckpointError(f"'{source}': {shown} {problem} Nothing was taken in.")
        if entry.filename.endswith("/"):  # a folder; those that files need are made with them
            continue
        key = str(path).casefold()  # some file systems take A.txt and a.txt for one
        if key in seen:
            raise CheckpointError(f"'{source}' has {shown} twice. Nothing was taken in.")
        seen.add(key)
        files[path] = entry
    return files


def _problem(entry: zipfile.ZipInfo, path: PurePosixPath) -> str | None:
    """Why an entry is not allowed in an archive."""
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or any(sign in name for sign in "\\:\0"):
        return "leads out of the checkpoint."
    if any(part.startswith(".") for part in path.parts):
        return "is hidden; zip the checkpoint's folder without hidden files."
    if kind not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG):
        return "is a link or a device; only files and folders are allowed."
    if not name.endswith("/") and path.suffix.lower() not in (WEIGHTS, *TEXTS):
        return f"is not allowed; a checkpoint has {', '.join((WEIGHTS, *TEXTS))} files only."
    if entry.flag_bits & 1:
        return "is encrypted; zip the checkpoint without a password."
    if entry.compress_type not in METHODS:
        return f"is compressed by method {entry.compress_type}; zip the checkpoint by the usual one, deflate."
    return None


def _top(files: Collection[PurePosixPath], source: str) -> PurePosixPath:
    """The folder all files lie in; "." where the manifest is at the top."""
    found = [path.parent for path in files if path.name == "manifest.json"]
    if len(found) != 1 or len(found[0].parts) > 1 or not all(path.is_relative_to(found[0]) for path in files):
        raise CheckpointError(f"'{source}' has no manifest.json at its top or in its one folder. Zip the checkpoint's folder itself.")
    return found[0]


def _name_of(folder: Path, source: str) -> str:
    """The name in a manifest that is not checked yet."""
    try:
        name = read_json(folder / "manifest.json")["name"]
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"'{source}': manifest.json cannot be read ({first_line(error)}). Export the checkpoint again.") from error
    _check_name(name, source)
    return str(name)


def _check_name(name: object, source: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise CheckpointError(
            f"'{source}': {str(name)[:80]!r} is not a name for a checkpoint; allowed are {NAME_RULE}. Change \"name\" in manifest.json."
        )
