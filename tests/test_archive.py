"""Checkpoints as zip files: what goes out comes back equal; what is not a checkpoint is refused and leaves nothing behind."""

from __future__ import annotations

import json
import stat
import zipfile

import pytest
from scripted import write_two_checkpoints

from gistdemo.checkpoint.archive import delete, pack, unpack
from gistdemo.cli import main
from gistdemo.errors import CheckpointError
from gistdemo.jobs.queue import Jobs
from gistdemo.jobs.uses import users_of
from gistdemo.ui.checkpoints_tab import CheckpointsTab


@pytest.fixture
def home(settings):
    return write_two_checkpoints(settings)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def packed(home, tmp_path):
    (tmp_path / "out").mkdir(exist_ok=True)
    return pack(home.shipped_checkpoints_dir / "instruct", tmp_path / "out")


def rewritten(path, change, name="changed.zip"):
    """The archive with its (name, bytes) entries passed through `change`."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    target = path.with_name(name)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in change(entries):
            archive.writestr(entry, data)
    return target


def test_what_is_packed_comes_back_equal(home, tmp_path):
    path = packed(home, tmp_path)
    into = tmp_path / "in"
    into.mkdir()
    assert unpack(path, into, ()) == "instruct" and [p.name for p in into.iterdir()] == ["instruct"]
    assert content(into / "instruct") == content(home.shipped_checkpoints_dir / "instruct")
    first = path.read_bytes()
    assert packed(home, tmp_path).read_bytes() == first, "equal folders give equal archives"


def test_a_manifest_at_the_top_is_taken_as_well(home, tmp_path):
    flat = rewritten(packed(home, tmp_path), lambda entries: [(name.split("/", 1)[1], data) for name, data in entries])
    (tmp_path / "in").mkdir()
    assert unpack(flat, tmp_path / "in", ()) == "instruct"


def link(name, to):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return (info, to.encode())


def renamed(entries, name):
    found = []
    for entry, data in entries:
        if entry.endswith("manifest.json"):
            data = json.dumps(json.loads(data) | {"name": name}).encode()
        found.append((entry, data))
    return found


HOSTILE = {
    "a path outside": (lambda e: [*e, ("../evil.json", b"{}")], "leads out of the checkpoint"),
    "a path outside within": (lambda e: [*e, ("instruct/../../evil.json", b"{}")], "leads out of the checkpoint"),
    "an absolute path": (lambda e: [*e, ("/tmp/evil.json", b"{}")], "leads out of the checkpoint"),
    "a drive": (lambda e: [*e, ("C:evil.json", b"{}")], "leads out of the checkpoint"),
    "a backslash": (lambda e: [*e, ("instruct\\..\\evil.json", b"{}")], "leads out of the checkpoint"),
    "a hidden file": (lambda e: [*e, ("instruct/.bashrc.txt", b"{}")], "hides a file"),
    "a link": (lambda e: [*e, link("instruct/link.json", "/etc/passwd")], "is a link or a device"),
    "code": (lambda e: [*e, ("instruct/run.py", b"import os")], "is not allowed; a checkpoint has .safetensors"),
    "a pickle": (lambda e: [*e, ("instruct/weights.bin", b"x")], "is not allowed"),
    "a second folder": (lambda e: [*e, ("other/note.txt", b"x")], "no manifest.json at its top or in its one folder"),
    "no manifest": (lambda e: [one for one in e if "manifest" not in one[0]], "no manifest.json at its top"),
    "a file missing": (lambda e: [one for one in e if not one[0].endswith("gist.safetensors")], "gist.safetensors is missing"),
    "a file changed": (lambda e: [(n, d + b"x" if n.endswith("gist.safetensors") else d) for n, d in e], "truncated or replaced"),
    "a broken manifest": (lambda e: [(n, b"{" if n.endswith("manifest.json") else d) for n, d in e], "manifest.json cannot be read"),
    "a name that leads away": (lambda e: renamed(e, "../x"), "is not a name for a checkpoint"),
    "a name that is none": (lambda e: renamed(e, 3), "is not a name for a checkpoint"),
    "too many files": (lambda e: [*e, *((f"instruct/{n}.txt", b"") for n in range(201))], "has 20. entries|at most 200"),
    "a file twice": (lambda e: [*e, e[0]], "twice"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_a_checkpoint_is_refused_and_nothing_is_left(home, tmp_path, case):
    change, words = HOSTILE[case]
    path = rewritten(packed(home, tmp_path), change)
    into = tmp_path / "in"
    into.mkdir()
    before = content(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        unpack(path, into, ())
    assert list(into.iterdir()) == [] and content(tmp_path) == before


def test_a_bomb_is_stopped_while_it_unpacks(home, tmp_path):
    path = rewritten(packed(home, tmp_path), lambda entries: [*entries, ("instruct/zeros.txt", bytes(60 * 2**20))])
    assert path.stat().st_size < 2**20
    (tmp_path / "in").mkdir()
    with pytest.raises(CheckpointError, match=r"unpacks to more than 0\.0 GiB"):
        unpack(path, tmp_path / "in", (), most_bytes=20 * 2**20)
    assert list((tmp_path / "in").iterdir()) == []


def test_a_name_that_is_taken_and_a_file_that_is_no_zip_are_refused(home, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(CheckpointError, match="There is a checkpoint 'instruct' already"):
        unpack(packed(home, tmp_path), tmp_path / "in", ("instruct",))
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(CheckpointError, match="is not a zip file that can be read"):
        unpack(tmp_path / "x.zip", tmp_path / "in", ())
    assert list((tmp_path / "in").iterdir()) == []


def test_only_what_was_made_here_and_is_not_in_use_is_deleted(home, tmp_path):
    own = home.checkpoint_dirs[-1]
    own.mkdir(parents=True)
    unpack(rewritten(packed(home, tmp_path), lambda e: renamed(e, "mine")), own, ())
    jobs = Jobs(home.runs_dir, at_once=0)
    job = jobs.submit("evaluate", {"checkpoints": ["mine"], "data": "x"}, "measuring it")
    assert [one.title for one in users_of("mine", jobs)] == ["measuring it"] and users_of("instruct", jobs) == []
    tab = CheckpointsTab(home, jobs)
    assert "cannot be brought back" in tab.remove("mine", False)[0]
    assert "in use by job &#x27;measuring it&#x27;" in tab.remove("mine", True)[0] and (own / "mine").is_dir()
    jobs.stop(job.id)
    assert "Deleted" in tab.remove("mine", True)[0] and list(own.iterdir()) == []
    for name in ("instruct", "gone", "..", "a/b"):
        with pytest.raises(CheckpointError, match="those that come with gistdemo stay"):
            delete(name, own)
    assert (home.shipped_checkpoints_dir / "instruct").is_dir()


def test_the_tab_packs_takes_in_and_says_what_is_wrong(home, tmp_path):
    tab = CheckpointsTab(home, Jobs(home.runs_dir, at_once=0))
    button, status = tab.packed("instruct")
    assert "instruct.zip is ready" in status and zipfile.is_zipfile(
        button.value["path"] if isinstance(button.value, dict) else button.value
    )
    assert "No checkpoint is chosen" in tab.packed(None)[1]
    path = rewritten(packed(home, tmp_path), lambda e: renamed(e, "copy"))
    assert "Imported &#x27;copy&#x27;" in tab.take_in(str(path)) and "copy" in tab.names()
    assert "already" in tab.take_in(str(path))
    listing, _ = tab.refresh("copy")
    assert listing.count("gd-ck") > 0


def test_the_command_line_does_the_same(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gistdemo.cli.Settings.from_env", lambda: home)
    assert main(["checkpoints", "export", "instruct", "--out", str(tmp_path)]) == 0
    path = rewritten(tmp_path / "instruct.zip", lambda e: renamed(e, "copy"))
    assert main(["checkpoints", "import", str(path)]) == 0 and capsys.readouterr().out.splitlines()[-1] == "copy"
    assert main(["checkpoints", "delete", "copy"]) == 0 and main(["checkpoints", "delete", "copy"]) == 2
    assert main(["checkpoints"]) == 0 and "instruct" in capsys.readouterr().out
    assert main(["checkpoints", "export", "instruct", "--out", str(tmp_path / "gone")]) == 2
