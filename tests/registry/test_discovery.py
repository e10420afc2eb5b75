from __future__ import annotations

import importlib
import os
import shutil
import sys
from importlib import machinery
from pathlib import Path

import pytest

from ally_plugins.catalog.discovery.packages import Found, discover
from ally_plugins.contract.manifest import MAX_MANIFEST_BYTES
from tests.kit.sites import Site

GOOD = 'description = "good"\n[permissions]\ntools = { reason = "to offer" }\n'


def only(name: str) -> Found:
    """Return the one plugin, and hold that the healthy neighbour was found whatever the other one is."""
    discovery = discover()
    neighbour = discovery.get("neighbour")
    assert neighbour is not None
    assert neighbour.problem is None
    assert neighbour.manifest is not None
    found = discovery.get(name)
    assert found is not None
    assert "\n" not in (found.problem or "")
    return found


@pytest.fixture(autouse=True)
def neighbour(site: Site) -> None:
    site.plugin("neighbour", GOOD)


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (b"\x00\x01\x02\x03", "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (MAX_MANIFEST_BYTES + 1), f"more than {MAX_MANIFEST_BYTES} bytes"),
        (b"a = " + b"[" * 20_000, "nested too deeply"),
        (b'requires_host = ">=2"', "needs host API >=2, this host has 1.0"),
        (b"descripton = 'x'", "did you mean 'description'?"),
    ],
    ids=["binary", "utf-16", "huge", "deep", "newer host", "typing error"],
)
def test_a_wrong_manifest_is_one_line_and_the_others_are_found(site: Site, manifest: bytes, problem: str) -> None:
    site.add("bad", {"bad": "bad:Plugin"}, {"bad/__init__.py": "", "bad/ally-plugin.toml": manifest})
    assert problem in (only("bad").problem or "")


def test_a_missing_manifest_says_where_it_was_expected(site: Site) -> None:
    site.add("bad", {"bad": "bad:Plugin"}, {"bad/__init__.py": ""})
    assert f"expected {site.path / 'bad' / 'ally-plugin.toml'}" in (only("bad").problem or "")


@pytest.mark.parametrize("value", ["a:C", "p:C", "p.inner.deep:C", "space.part:C"])
@pytest.mark.usefixtures("site")
def test_a_plugin_inside_a_zip_is_said_to_be_one(tmp_path: Path, value: str) -> None:
    zipped = Site(tmp_path / "zipped")
    zipped.add("a", {"a": value}, {"a.py": "", "a.ally-plugin.toml": "", "p/__init__.py": "", "p/ally-plugin.toml": "",
                                 "p/inner/deep.py": "", "space/part/ally-plugin.toml": "",
                                 "space/part/__init__.py": ""})  # fmt: skip
    archive = shutil.make_archive(str(tmp_path / "app"), "zip", zipped.path)
    sys.path.append(archive)
    importlib.invalidate_caches()
    assert only("a").problem == (
        f"its code lies in {archive!r}, and plugins inside a zip are not supported; install 'a' into a folder"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege there")
def test_a_loop_of_links_and_a_dangling_one_are_problems(site: Site) -> None:
    for name, target in (("loop", "ally-plugin.toml"), ("dangling", "nowhere.toml")):
        site.add(name, {name: f"{name}:Plugin"}, {f"{name}/__init__.py": ""})
        (site.path / name / "ally-plugin.toml").symlink_to(target)
    assert "cannot be read" in (only("loop").problem or "")
    assert "is not there" in (only("dangling").problem or "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(site: Site) -> None:
    site.add("pipe", {"pipe": "pipe:Plugin"}, {"pipe/__init__.py": ""})
    os.mkfifo(site.path / "pipe" / "ally-plugin.toml")
    assert "not a regular file" in (only("pipe").problem or "")


def test_a_directory_in_the_place_of_a_manifest_is_a_problem(site: Site) -> None:
    site.add("bad", {"bad": "bad:Plugin"}, {"bad/__init__.py": "", "bad/ally-plugin.toml/x": ""})
    assert "not a regular file" in (only("bad").problem or "")


@pytest.mark.parametrize("value", ["gone:Plugin", "gone.away:Plugin", "neighbour.gone:Plugin", "neighbour.a.b:P"])
def test_a_module_that_is_not_there_is_a_problem(site: Site, value: str) -> None:
    site.add("bad", {"bad": value})
    problem = only("bad").problem or ""
    assert repr(value.partition(":")[0]) in problem
    assert "is not there" in problem


@pytest.mark.parametrize("value", ["neighbour", "two words:X", ":X", "neighbour:", "..:X", "a-b:X", "neighbour..x:Y"])
def test_a_malformed_entry_point_is_a_problem(site: Site, value: str) -> None:
    site.add("bad", {"bad": value})
    assert "not of the form MODULE:CLASS" in (only("bad").problem or "")


@pytest.mark.parametrize("name", ["Bad", "two words", "-dash", "+plus", "none", "host", "b\x1b[2J", "x" * 200])
def test_a_name_that_no_plugin_may_have_is_told_with_its_distribution(site: Site, name: str) -> None:
    site.add("bad", {name: "neighbour:Plugin"})
    discovery = discover()
    assert [found.name for found in discovery.found] == ["neighbour"]
    assert len(discovery.problems) == 1
    assert discovery.problems[0].startswith("bad 1.0 names a plugin ")
    assert discovery.problems[0].isprintable()


@pytest.mark.parametrize("content", [b"\xff\xfe[ally.plugins]\nx = y:z", b"[ally.plugins]\nno equals sign\n"])
def test_unreadable_entry_points_are_told_and_the_others_are_found(site: Site, content: bytes) -> None:
    info = site.add("bad", {"bad": "bad:Plugin"})
    (info / "entry_points.txt").write_bytes(content)
    discovery = discover()
    assert discovery.get("neighbour") is not None
    assert all("bad" in problem for problem in discovery.problems)
    assert len(discovery.problems) <= 1


@pytest.mark.parametrize("name", ["RECORD", "direct_url.json"])
def test_a_damaged_file_of_the_metadata_is_one_line_and_the_others_are_found(site: Site, name: str) -> None:
    info = site.plugin("bad", GOOD)
    (info / name).write_bytes(b"\xff\xfe")
    assert "cannot be read: UnicodeDecodeError" in (only("bad").problem or "")


class Finder:
    """A finder of somebody's that is broken."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.startswith("bad"):
            raise RuntimeError(name)


@pytest.mark.parametrize("value", ["bad:Plugin", "neighbour.bad:Plugin"])
def test_a_finder_that_fails_is_one_line_and_the_others_are_found(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    site.add("bad", {"bad": value}, {"bad.py": ""})
    assert "is not there" in (only("bad").problem or "")


def test_metadata_without_a_name_is_told_and_the_others_are_found(site: Site) -> None:
    info = site.add("bad", {"bad": "bad:Plugin"})
    (info / "METADATA").unlink()
    discovery = discover()
    assert discovery.get("neighbour") is not None
    assert len(discovery.problems) == 1
    assert "bad" in discovery.problems[0]


def test_two_distributions_with_one_plugin_name_are_a_problem_that_names_both(site: Site) -> None:
    site.plugin("other", GOOD)
    site.add("thief", {"other": "other:Plugin"}, version="9.9")
    found = only("other")
    assert found.problem == "other 1.0 and thief 9.9 both offer the plugin 'other'; uninstall one of them"
    assert found.manifest is None


def test_one_distribution_that_offers_a_name_twice_is_a_problem(site: Site) -> None:
    site.add("bad", "bad = neighbour:Plugin\nbad = neighbour:Other\n")
    assert "2 times" in (only("bad").problem or "")


def test_two_versions_in_one_directory_are_told(site: Site) -> None:
    site.plugin("twice", GOOD)
    site.add("twice", {"twice": "twice:Plugin"}, version="2.0")
    discovery = discover()
    assert discovery.get("neighbour") is not None
    assert discovery.get("twice") is None
    assert len(discovery.problems) == 1
    assert "installed twice" in discovery.problems[0]
    assert "twice-1.0.dist-info and twice-2.0.dist-info" in discovery.problems[0]


def test_of_two_versions_on_the_path_the_first_counts_as_for_an_import(site: Site, tmp_path: Path) -> None:
    first = type(site)(tmp_path / "first")
    first.plugin("twice", 'description = "newer"', version="2.0")
    site.plugin("twice", 'description = "older"', version="1.0")
    sys.path.insert(0, str(first.path))
    found = only("twice")
    assert (found.version, found.problem) == ("2.0", None)
    assert found.manifest is not None
    assert found.manifest.description == "newer"


def test_a_newer_version_without_plugins_hides_the_older_one(site: Site, tmp_path: Path) -> None:
    first = type(site)(tmp_path / "first")
    info = first.add("twice", {}, version="2.0")
    (info / "entry_points.txt").unlink()
    site.plugin("twice", GOOD)
    sys.path.insert(0, str(first.path))
    assert discover().get("twice") is None


def test_nothing_of_a_plugin_is_imported(site: Site) -> None:
    code = "raise SystemExit('imported')"
    files = {
        "trap/__init__.py": code,
        "trap/inner/__init__.py": code,
        "trap/inner/deep.py": code,
        "trap/inner/deep.ally-plugin.toml": GOOD,
    }
    site.add("trap", {"trap": "trap.inner.deep:Plugin"}, files)
    before = set(sys.modules)
    found = only("trap")
    assert found.problem is None
    assert not [name for name in set(sys.modules) - before if name.startswith("trap")]


@pytest.mark.parametrize(
    ("value", "files", "manifest"),
    [
        ("p:P", ["p/__init__.py"], "p/ally-plugin.toml"),
        ("p:P", ["p.py"], "p.ally-plugin.toml"),
        ("p:P [extra, other]", ["p/__init__.py"], "p/ally-plugin.toml"),
        ("p.sub.mod:P.Inner", ["p/__init__.py", "p/sub/__init__.py", "p/sub/mod.py"], "p/sub/mod.ally-plugin.toml"),
        ("p.sub.mod:P", ["p/__init__.py", "p/sub/__init__.py", "p/sub/mod.py"], "p/sub/ally-plugin.toml"),
        ("p.sub.mod:P", ["p/__init__.py", "p/sub/__init__.py", "p/sub/mod.py"], "p/ally-plugin.toml"),
        ("p.sub:P", ["p/__init__.py", "p/sub/__init__.py"], "p/sub/ally-plugin.toml"),
        ("space.p:P", ["space/p/__init__.py"], "space/p/ally-plugin.toml"),
        ("space.mod:P", ["space/mod.py"], "space/mod.ally-plugin.toml"),
        ("space.deep.mod:P", ["space/deep/mod.py"], "space/deep/mod.ally-plugin.toml"),
        ("space:P", ["space/other.txt"], "space/ally-plugin.toml"),
        ("p.plain.mod:P", ["p/__init__.py", "p/plain/mod.py"], "p/ally-plugin.toml"),
    ],
)
def test_the_manifest_is_found_beside_the_code(site: Site, value: str, files: list[str], manifest: str) -> None:
    site.add("p", {"p": value}, dict.fromkeys(files, "") | {manifest: GOOD})
    found = only("p")
    assert found.problem is None
    assert found.manifest_path == str(site.path / manifest)
    assert found.entry_point == value


def test_the_nearest_of_several_manifests_counts(site: Site) -> None:
    files = {"p/__init__.py": "", "p/mod.py": "", "p/ally-plugin.toml": "", "p/mod.ally-plugin.toml": GOOD}
    site.add("p", {"p": "p.mod:A", "q": "p:B"}, files)
    assert (only("p").manifest_path or "").endswith("mod.ally-plugin.toml")
    assert (only("q").manifest_path or "").endswith("p/ally-plugin.toml".replace("/", os.sep))


def test_a_namespace_over_several_directories_is_searched_in_all(site: Site, tmp_path: Path) -> None:
    first = type(site)(tmp_path / "first")
    first.write("space/other/__init__.py", "")
    site.add("p", {"p": "space.p:P"}, {"space/p/__init__.py": "", "space/p/ally-plugin.toml": GOOD})
    sys.path.insert(0, str(first.path))
    assert only("p").problem is None


@pytest.mark.parametrize("suffix", [*machinery.EXTENSION_SUFFIXES, *machinery.BYTECODE_SUFFIXES])
def test_of_two_files_of_one_module_the_one_that_an_import_would_load_counts(site: Site, suffix: str) -> None:
    site.add("p", {"p": "space.mod:P"}, {"space/mod.py": "", "space/mod.ally-plugin.toml": GOOD})
    before = only("p").content_digest()
    added = site.write(f"space/mod{suffix}", "nobody agreed to this")
    loaded = machinery.PathFinder.find_spec("space.mod", [str(site.path / "space")])
    assert loaded is not None
    assert only("p").root == loaded.origin
    assert (only("p").content_digest() != before) is (loaded.origin == str(added))


def test_a_top_level_module_that_hides_the_distribution_is_what_counts(site: Site, tmp_path: Path) -> None:
    site.plugin("hidden", GOOD)
    first = type(site)(tmp_path / "first")
    first.write("hidden.py", "class Plugin: pass")
    sys.path.insert(0, str(first.path))
    assert str(first.path) in (only("hidden").problem or "")


def test_the_digest_changes_with_the_code_and_not_with_what_compiling_adds(site: Site) -> None:
    info = site.plugin("p", GOOD)
    before = only("p").digest
    record = info / "RECORD"
    record.write_text(f"{record.read_text()}\np/__pycache__/__init__.cpython-311.pyc,,\np-1.0.dist-info/INSTALLER,,\n")
    assert only("p").digest == before
    record.write_text(record.read_text().replace("p/__init__.py,sha256=", "p/__init__.py,sha256=1"))
    assert only("p").digest != before


def test_a_folder_that_stands_on_the_path_twice_is_one(site: Site) -> None:
    site.plugin("p", GOOD)
    sys.path.insert(0, str(site.path))
    assert only("p").problem is None
    assert discover().problems == ()


def test_the_content_digest_sees_a_file_that_was_edited_in_place(site: Site) -> None:
    site.plugin("p", GOOD)
    found = only("p")
    before = found.content_digest()
    (site.path / "p" / "__pycache__").mkdir()
    site.write("p/__pycache__/x.pyc", "compiled")
    assert found.content_digest() == before
    site.write("p/__init__.py", "class Plugin: 1")
    assert found.digest == only("p").digest
    assert found.content_digest() != before


def test_code_without_a_record_is_watched_file_by_file(site: Site) -> None:
    files = {"p/__init__.py": "1", "p/deep/mod.py": "1", "p/ally-plugin.toml": GOOD}
    site.add("p", {"p": "p:P"}, files, record=False)
    before = only("p")
    assert before.editable
    site.write("p/deep/mod.py", "22")
    assert only("p").digest != before.digest
    assert not only("neighbour").editable


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege there")
def test_a_package_with_a_link_to_itself_ends(site: Site) -> None:
    site.add("p", {"p": "p:P"}, {"p/__init__.py": "", "p/ally-plugin.toml": GOOD}, record=False)
    (site.path / "p" / "again").symlink_to(site.path / "p")
    assert only("p").problem is None
    assert only("p").content_digest()
