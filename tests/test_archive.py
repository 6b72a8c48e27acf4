"""Checkpoints as zip files: what goes out comes back equal; what is not a checkpoint is refused and leaves nothing behind."""

from __future__ import annotations

import json
import random
import stat
import threading
import zipfile
from pathlib import Path

import pytest
from scripted import write_checkpoint, write_two_checkpoints

from gistdemo.checkpoint import archive as archives
from gistdemo.checkpoint.archive import delete, pack, unpack
from gistdemo.checkpoint.registry import EVALUATION_FILE, list_checkpoints
from gistdemo.cli import main
from gistdemo.errors import CheckpointError
from gistdemo.jobs.queue import Jobs
from gistdemo.present.checkpoint_cards import checkpoints
from gistdemo.results.migrations import FORMAT
from gistdemo.services import LOCAL, Services
from gistdemo.ui.checkpoints_tab import CheckpointsTab


@pytest.fixture
def home(settings):
    return write_two_checkpoints(settings)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def packed(home, tmp_path):
    (tmp_path / "out").mkdir(exist_ok=True)
    return pack(home.shipped_checkpoints_dir / "instruct", tmp_path / "out")


def rewritten(path, change, name="changed.zip", method=zipfile.ZIP_DEFLATED):
    """The archive with its (name, bytes) entries passed through `change`."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    target = path.with_name(name)
    with zipfile.ZipFile(target, "w", method) as archive:
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
    assert [p.name for p in path.parent.iterdir()] == ["instruct.zip"]


def test_an_archive_holds_the_files_of_the_checkpoint_and_no_others(home, tmp_path):
    folder = home.shipped_checkpoints_dir / "instruct"
    for name in ("README.md", EVALUATION_FILE, "notes.txt", ".cache"):
        (folder / name).write_text("{}")
    with zipfile.ZipFile(packed(home, tmp_path)) as archive:
        assert archive.namelist() == [f"instruct/{n}" for n in ("README.md", EVALUATION_FILE, "gist.safetensors", "manifest.json")]


def test_an_archive_is_named_as_it_will_be_imported(home, tmp_path):
    """The manifest names a checkpoint; the folder of a run is called `checkpoint`."""
    folder = (home.shipped_checkpoints_dir / "instruct").rename(tmp_path / "checkpoint")
    path = pack(folder, tmp_path)
    assert path.name == "instruct.zip" and unpack(path, tmp_path / "in", ()) == "instruct"


def test_what_is_broken_or_leads_away_is_not_packed_and_an_older_archive_stays(home, tmp_path):
    path = packed(home, tmp_path)
    older, folder = path.read_bytes(), home.shipped_checkpoints_dir / "instruct"
    with (folder / "gist.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="truncated or replaced"):
        pack(folder, path.parent)
    with pytest.raises(CheckpointError, match="is not a name for a checkpoint"):
        pack(write_checkpoint(tmp_path / "away", name="../away"), path.parent)
    with pytest.raises(CheckpointError, match="cannot be packed into"):
        pack(home.shipped_checkpoints_dir / "base", tmp_path / "gone")
    assert path.read_bytes() == older and [p.name for p in path.parent.iterdir()] == ["instruct.zip"]


def test_a_manifest_at_the_top_is_taken_as_well(home, tmp_path):
    flat = rewritten(packed(home, tmp_path), lambda entries: [(name.split("/", 1)[1], data) for name, data in entries])
    (tmp_path / "in").mkdir()
    assert unpack(flat, tmp_path / "in", ()) == "instruct"


def link(name, to):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return (info, to.encode())


def with_fields(entries, **fields):
    """The same entries with other fields in the manifest."""
    return [(n, json.dumps(json.loads(d) | fields).encode() if n.endswith("manifest.json") else d) for n, d in entries]


def renamed(entries, name):
    return with_fields(entries, name=name)


def retitled(entries, title):
    return with_fields(entries, title=title)


HOSTILE = {
    "a path outside": (lambda e: [*e, ("../evil.json", b"{}")], "leads out of the checkpoint"),
    "a path outside within": (lambda e: [*e, ("instruct/../../evil.json", b"{}")], "leads out of the checkpoint"),
    "an absolute path": (lambda e: [*e, ("/evil.json", b"{}")], "leads out of the checkpoint"),
    "a drive": (lambda e: [*e, ("C:evil.json", b"{}")], "leads out of the checkpoint"),
    "a backslash": (lambda e: [*e, ("instruct\\..\\evil.json", b"{}")], "leads out of the checkpoint"),
    "a folder outside": (lambda e: [*e, ("../evil/", b"")], "leads out of the checkpoint"),
    "a hidden file": (lambda e: [*e, ("instruct/.bashrc.txt", b"{}")], "is hidden"),
    "no file name": (lambda e: [*e, (zipfile.ZipInfo("\0"), b"x")], "is not allowed"),
    "a file below a file": (lambda e: [*e, ("instruct/a.txt", b"x"), ("instruct/a.txt/b.txt", b"x")], "cannot be unpacked"),
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
    "a name for no folder": (lambda e: renamed(e, "x" * 300), "is not a name for a checkpoint"),
    "a manifest without end": (lambda e: [(n, b"[" * 10**5 if n.endswith("manifest.json") else d) for n, d in e], "nested too deep"),
    "half a character": (lambda e: retitled(e, "\ud800"), "manifest.json cannot be read"),
    "too many files": (lambda e: [*e, *((f"instruct/{n}.txt", b"") for n in range(199))], "has 201 entries; .* at most 200"),
    "a file twice": (lambda e: [*e, e[0]], "twice"),
    "a file twice by another path": (lambda e: [*e, ("instruct/./GIST.safetensors", b"x")], "twice"),
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
    with pytest.raises(CheckpointError, match=r"'instruct/zeros.txt' unpacks to too much; allowed are 20 MiB"):
        unpack(path, tmp_path / "in", (), most_bytes=20 * 2**20)
    assert list((tmp_path / "in").iterdir()) == []


def test_no_more_than_a_chunk_beyond_the_limit_is_written():
    class Endless:
        given = 0

        def read(self, size):
            self.given += size
            return bytes(size)

    class Counted:
        written = 0

        def write(self, data):
            self.written += len(data)

    source, target = Endless(), Counted()
    assert archives._copy(source, target, 3 * archives.CHUNK) == target.written == source.given == 4 * archives.CHUNK


def test_a_text_too_large_to_be_read_whole_is_refused(home, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_TEXT_BYTES", 2**20)
    (tmp_path / "in").mkdir()
    for name, words in (("instruct/zeros.json", "unpacks to too much"), ("instruct/zeros.safetensors", None)):
        path = rewritten(packed(home, tmp_path), lambda entries, name=name: [*entries, (name, bytes(2**20 + 1))])
        if words is None:
            assert unpack(path, tmp_path / "in", ()) == "instruct"
            continue
        with pytest.raises(CheckpointError, match=words):
            unpack(path, tmp_path / "in", ())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_a_bound_are_refused(home, tmp_path, method):
    path = rewritten(packed(home, tmp_path), lambda entries: entries, method=method)
    with pytest.raises(CheckpointError, match=f"is compressed by method {method}"):
        unpack(path, tmp_path / "in", ())


def test_an_encrypted_archive_is_refused(home, tmp_path):
    path = packed(home, tmp_path)
    data = bytearray(path.read_bytes())
    at = 0
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of every file, in its own header and in the directory
        at = 0
        while (at := data.find(magic, at)) >= 0:
            data[at + flags] |= 1
            at += 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is encrypted"):
        unpack(path, tmp_path / "in", ())
    assert list((tmp_path / "in").iterdir()) == []


def test_damaged_archives_are_refused_in_one_line_and_leave_nothing(home, tmp_path):
    path, into = tmp_path / "damaged.zip", tmp_path / "in"
    whole = rewritten(packed(home, tmp_path), lambda e: [*e, ("instruct/ü.txt", b"x" * 99)]).read_bytes()
    rng, refused = random.Random(0), 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data if rng.random() < 0.8 else data[: rng.randrange(len(data))])
        try:
            delete(unpack(path, into, ()), into, tmp_path / "none")
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
        assert list(into.iterdir()) == []
    assert refused > 100


def test_two_imports_at_once_do_not_meet(home, tmp_path):
    first = packed(home, tmp_path)
    paths = [rewritten(first, lambda e, n=n: renamed(e, f"copy{n}"), name=f"{n}.zip") for n in range(4)]
    threads = [threading.Thread(target=unpack, args=(path, tmp_path / "in", ())) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == [f"copy{n}" for n in range(4)]
    assert all(entry.manifest for entry in list_checkpoints([tmp_path / "in"]))


@pytest.mark.parametrize("value", ["9" * 400, "Infinity", '"\\ud800"', "[" * 10**5, "null", "{}"])
def test_notes_in_an_imported_checkpoint_cannot_spoil_the_listing(home, tmp_path, value, monkeypatch, capsys):
    """Whatever stands where a figure should: the listing is drawn, printed and sent."""
    answers = [{"condition": "gist", "k": 4, "n": 5, "scores": {}, "verdicts": {"healthy": "@", "warning": 1, "degenerate": "@"}}]
    evaluation = json.dumps({"format": FORMAT, "rows": "@", "answers": answers, "recovery": {"instruct": "@"}}).replace('"@"', value)

    def hostile(entries):
        numbers = not value.startswith(("[", '"'))
        fields = {"training": {"steps": 1, "seconds": "@", "device": "cpu"}} if numbers else {}
        changed = [(n, d.replace(b'"@"', value.encode())) for n, d in with_fields(entries, **fields)]
        return [*changed, (f"instruct/{EVALUATION_FILE}", evaluation)]

    assert unpack(rewritten(packed(home, tmp_path), hostile), home.checkpoint_dirs[-1], ()) == "instruct"
    (entry,) = list_checkpoints(home.checkpoint_dirs[-1:])
    assert "Toy instruct" in checkpoints([entry]).encode().decode()
    monkeypatch.setattr("gistdemo.cli.Settings.from_env", lambda: home)
    assert main(["checkpoints"]) == 0 and capsys.readouterr().out.encode()


def test_a_name_that_is_taken_and_a_file_that_is_no_zip_are_refused(home, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(CheckpointError, match="holds a checkpoint 'instruct', but there is one of that name already"):
        unpack(packed(home, tmp_path), tmp_path / "in", ("instruct",))
    with pytest.raises(CheckpointError, match=r"There is no file '.*gone.zip'"):
        unpack(tmp_path / "gone.zip", tmp_path / "in", ())
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
    tab = CheckpointsTab(Services(home, jobs=jobs), LOCAL)
    assert [one.title for one in tab.services.users_of("mine")] == ["measuring it"] and tab.services.users_of("instruct") == []
    assert "cannot be brought back" in tab.remove("mine", False)[0]
    assert "in use by job &#39;measuring it&#39;" in tab.remove("mine", True)[0] and (own / "mine").is_dir()
    jobs.stop(job.id)
    assert "Deleted" in tab.remove("mine", True)[0] and list(own.iterdir()) == []
    for name in ("gone", "..", "a/b", "", "a\0b", "x" * 300):
        with pytest.raises(CheckpointError, match="was made or imported here"):
            delete(name, own, home.shipped_checkpoints_dir)
    with pytest.raises(CheckpointError, match="came with gistdemo and stays"):
        delete("instruct", own, home.shipped_checkpoints_dir)
    assert (home.shipped_checkpoints_dir / "instruct").is_dir()


@pytest.mark.parametrize(
    ("kind", "values", "needs"),
    [
        ("train", {"name": "mine", "backbone": "toy"}, True),
        ("train", {"name": "other", "backbone": "mine"}, True),
        ("train", {"name": "other", "backbone": "{folder}"}, True),
        ("train", {"name": "other", "backbone": "toy"}, False),
        ("evaluate", {"checkpoints": ["instruct", "mine"]}, True),
        ("evaluate", {"checkpoints": ["{folder}"]}, True),
        ("evaluate", {"checkpoints": ["min"]}, False),
        ("dream", {"steps": 1}, False),  # of a version that knows more kinds
    ],
)
def test_a_job_that_waits_holds_on_to_what_it_needs(home, kind, values, needs):
    own = home.checkpoint_dirs[-1]
    folder = write_checkpoint(own / "mine")
    jobs = Jobs(home.runs_dir, at_once=0)
    filled = json.loads(json.dumps(values).replace("{folder}", str(folder)))
    job = jobs.submit(kind, filled, "a title")
    tab = CheckpointsTab(Services(home, jobs=jobs), LOCAL)
    assert [one.title for one in tab.services.users_of("mine", folder)] == ["a title"] * needs
    if needs:
        assert "&#39;mine&#39; is in use by job &#39;a title&#39;" in tab.remove("mine", True)[0] and folder.is_dir()
        jobs.stop(job.id)
    assert "Deleted" in tab.remove("mine", True)[0] and not folder.exists()


def test_a_name_that_a_job_will_write_is_taken(home, tmp_path):
    jobs = Jobs(home.runs_dir, at_once=0)
    jobs.submit("train", {"name": "mine", "backbone": "toy"}, "mine")
    path = rewritten(packed(home, tmp_path), lambda e: renamed(e, "mine"))
    with pytest.raises(CheckpointError, match="a job that writes it"):
        Services(home, jobs=jobs).import_checkpoint(path, LOCAL)
    assert "a job that writes it" in CheckpointsTab(Services(home, jobs=jobs), LOCAL).take_in(str(path))


def test_a_broken_checkpoint_is_deleted_but_not_packed(home, monkeypatch, capsys):
    tab, own = CheckpointsTab(Services(home, jobs=Jobs(home.runs_dir, at_once=0)), LOCAL), home.checkpoint_dirs[-1]
    (write_checkpoint(own / "one +") / "manifest.json").unlink()
    (write_checkpoint(own / "two") / "gist.safetensors").unlink()
    assert {"one +", "two"} <= set(tab.names())
    assert "has no manifest.json" in tab.packed("one +")[1] and "is missing" in tab.packed("two")[1]
    assert "Deleted" in tab.remove("one +", True)[0]
    monkeypatch.setattr("gistdemo.cli.Settings.from_env", lambda: home)
    assert main(["checkpoints", "export", "two"]) == 2 and "gist.safetensors is missing" in capsys.readouterr().err
    assert main(["checkpoints", "delete", "two"]) == 0 and list(own.iterdir()) == []


def test_a_link_to_a_checkpoint_is_deleted_without_what_it_points_to(home, tmp_path):
    folder, own = write_checkpoint(tmp_path / "elsewhere" / "mine"), home.checkpoint_dirs[-1]
    own.mkdir(parents=True)
    (own / "mine").symlink_to(folder)
    delete("mine", own, home.shipped_checkpoints_dir)
    assert list(own.iterdir()) == [] and (folder / "manifest.json").is_file()


def test_the_tab_packs_takes_in_and_says_what_is_wrong(home, tmp_path):
    tab = CheckpointsTab(Services(home, jobs=Jobs(home.runs_dir, at_once=0)), LOCAL)
    button, status = tab.packed("instruct")
    assert "instruct.zip is ready" in status and zipfile.is_zipfile(
        button.value["path"] if isinstance(button.value, dict) else button.value
    )
    assert "No checkpoint is chosen" in tab.packed(None)[1]
    path = rewritten(packed(home, tmp_path), lambda e: renamed(e, "copy"))
    assert "Imported &#39;copy&#39;" in tab.take_in(str(path)) and "copy" in tab.names()
    assert "already" in tab.take_in(str(path))
    listing, dropdown = tab.refresh("copy")
    assert listing.count('class="gd-ck"') == 3 and dropdown.value == "copy"
    assert "Deleted" in tab.remove("copy", True)[0]
    listing, dropdown = tab.refresh("copy")
    assert listing.count('class="gd-ck"') == 2 and dropdown.value is None
    assert "came with gistdemo" in tab.remove("instruct", True)[0] and "No checkpoint is chosen" in tab.remove(None, True)[0]


def test_the_command_line_does_the_same(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gistdemo.cli.Settings.from_env", lambda: home)
    assert main(["checkpoints", "export", "instruct", "--out", str(tmp_path)]) == 0
    path = rewritten(tmp_path / "instruct.zip", lambda e: renamed(e, "copy"))
    assert main(["checkpoints", "import", str(path)]) == 0 and capsys.readouterr().out.splitlines()[-1] == "copy"
    assert main(["checkpoints", "delete", "copy"]) == 0 and main(["checkpoints", "delete", "copy"]) == 2
    assert main(["checkpoints"]) == 0 and "instruct" in capsys.readouterr().out
    assert main(["checkpoints", "--json"]) == 0 and len(json.loads(capsys.readouterr().out)) == 2


def test_the_command_line_refuses_in_one_line(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gistdemo.cli.Settings.from_env", lambda: home)
    Jobs(home.runs_dir, at_once=0).submit("evaluate", {"checkpoints": ["mine"]}, "measuring")
    write_checkpoint(home.checkpoint_dirs[-1] / "mine")
    for arguments, words in (
        (("export", "instruct", "--out", str(tmp_path / "gone")), "is not a folder"),
        (("export", "nobody"), "There is no checkpoint 'nobody'"),
        (("import", str(tmp_path / "gone.zip")), "There is no file"),
        (("import", str(packed(home, tmp_path))), "one of that name already"),
        (("import", str(Path(__file__))), "is not a zip file"),
        (("delete", "instruct"), "came with gistdemo"),
        (("delete", "nobody"), "Those that were: mine."),
        (("delete", "mine"), "is in use by job 'measuring'"),
    ):
        assert main(["checkpoints", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("gistdemo: ") and err.count("\n") == 1 and words in err, err
