"""Whole checkpoints as zip files: packed, taken in with distrust, and deleted. No torch.

An archive holds one folder of the checkpoint's name with its manifest, its card, the figures kept beside it, and the files its
manifest lists. Weights are safetensors; nothing in an archive can be code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from gistdemo.checkpoint.manifest import read_manifest
from gistdemo.checkpoint.registry import EVALUATION_FILE
from gistdemo.errors import CheckpointError, one_line

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,79}")
SUFFIXES = (".safetensors", ".json", ".md", ".txt")
MOST_FILES = 200
MOST_BYTES = 2 * 2**30  # of all files together, counted while they are read: a header may lie
CHUNK = 2**20
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: equal folders give equal archives


def pack(folder: Path, into: Path) -> Path:
    """Write NAME.zip into a folder and return its path.

    Raises: CheckpointError: the checkpoint is broken (see `read_manifest`), or the archive cannot be written.
    """
    manifest = read_manifest(folder)
    names = {"manifest.json", *manifest.files}
    names |= {name for name in ("README.md", EVALUATION_FILE) if (folder / name).is_file()}
    path = into / f"{folder.name}.zip"
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(names):
                entry = zipfile.ZipInfo(f"{folder.name}/{name}", EPOCH)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, (folder / name).read_bytes())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise CheckpointError(f"'{folder.name}' cannot be packed ({one_line(error)}). Free disk space and try again.") from error
    return path


def unpack(path: Path, into: Path, taken: Collection[str], most_bytes: int = MOST_BYTES) -> str:
    """Take the checkpoint of an archive into a folder, whole or not at all. taken: names that are in use. Returns its name.

    Raises: CheckpointError: not a zip; encrypted; a file of another kind, outside its folder, a link, twice, too many or too much;
    no manifest or a broken one; a name that is taken. Nothing is left behind then.
    """
    building = into / f".import.{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _checked(archive.infolist(), path.name)
            top = _top(entries, path.name)
            building.mkdir(parents=True)
            _extract(archive, entries, top, building, most_bytes, path.name)
        name = _name_of(building, path.name)
        if name in taken:
            raise CheckpointError(f"There is a checkpoint '{name}' already. Delete it first, or rename the one in '{path.name}'.")
        (building / "checkpoint").rename(building / name)
        read_manifest(building / name)
        os.replace(building / name, into / name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"'{path.name}' is not a zip file that can be read ({one_line(error)[:100]}). Export the checkpoint again."
        ) from error
    except OSError as error:
        raise CheckpointError(f"'{path.name}' cannot be taken in ({one_line(error)}). Free disk space and try again.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return name


def delete(name: str, folder: Path, users: Sequence[str] = ()) -> None:
    """Remove a checkpoint that was made or taken in here. folder: holds those. users: titles of what is using it.

    Raises: CheckpointError: it came with gistdemo, is in use, or is not there.
    """
    if not NAME.fullmatch(name) or not (folder / name).is_dir():
        raise CheckpointError(f"'{name[:80]}' is not a checkpoint made or imported here; those that come with gistdemo stay.")
    if users:
        raise CheckpointError(f"Checkpoint '{name}' is in use by {', '.join(users)}. Wait for that, or stop it.")
    shutil.rmtree(folder / name)


def _checked(entries: Sequence[zipfile.ZipInfo], source: str) -> list[zipfile.ZipInfo]:
    """The files of an archive, once every entry is what it may be."""
    files = [entry for entry in entries if not entry.is_dir()]
    if len(entries) > MOST_FILES:
        raise CheckpointError(f"'{source}' has {len(entries):,} entries; a checkpoint has at most {MOST_FILES}.")
    names = [entry.filename for entry in files]
    for entry in files:
        name, mode = entry.filename, entry.external_attr >> 16
        parts = PurePosixPath(name).parts
        if name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in parts or any(p.startswith(".") for p in parts):
            raise CheckpointError(f"'{source}': the path {name[:80]!r} leads out of the checkpoint or hides a file. Nothing was taken in.")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise CheckpointError(f"'{source}': {name[:80]!r} is a link or a device; only files are allowed. Nothing was taken in.")
        if not name.lower().endswith(SUFFIXES):
            raise CheckpointError(f"'{source}': {name[:80]!r} is not allowed; a checkpoint has {', '.join(SUFFIXES)} files only.")
        if entry.flag_bits & 1:
            raise CheckpointError(f"'{source}' is encrypted. Export the checkpoint without a password.")
        if names.count(name) > 1:
            raise CheckpointError(f"'{source}' has {name[:80]!r} twice. Export the checkpoint again.")
    return files


def _top(entries: Sequence[zipfile.ZipInfo], source: str) -> str:
    """The folder all files lie in, with a slash; "" where the manifest is at the top."""
    found = [entry.filename.removesuffix("manifest.json") for entry in entries if PurePosixPath(entry.filename).name == "manifest.json"]
    if len(found) != 1 or not all(entry.filename.startswith(found[0]) for entry in entries) or found[0].count("/") > 1:
        raise CheckpointError(f"'{source}' has no manifest.json at its top or in its one folder. Zip the checkpoint's folder itself.")
    return found[0]


def _extract(archive: zipfile.ZipFile, entries, top: str, building: Path, most_bytes: int, source: str) -> None:
    left = most_bytes
    for entry in entries:
        path = building / "checkpoint" / entry.filename.removeprefix(top)
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as packed, path.open("xb") as file:
            while chunk := packed.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise CheckpointError(f"'{source}' unpacks to more than {most_bytes / 2**30:.1f} GiB, the most that is allowed.")
                file.write(chunk)


def _name_of(building: Path, source: str) -> str:
    try:
        name = json.loads((building / "checkpoint" / "manifest.json").read_text(encoding="utf-8"))["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{source}': manifest.json cannot be read ({one_line(error)[:80]}). Export the checkpoint again.") from error
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise CheckpointError(
            f"'{source}': {str(name)[:80]!r} is not a name for a checkpoint. Letters, digits, '-', '_' and '.' are allowed."
        )
    return name
