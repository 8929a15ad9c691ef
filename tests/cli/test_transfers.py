from __future__ import annotations

from pathlib import Path

import pytest

from pileus.cli import transfers
from pileus.cli.transfers import Pull, Push
from pileus.errors import ConfigError


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "in.txt").write_text("x")
    (tmp_path / "a:b").write_text("x")
    (tmp_path / "data/deep.txt").write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "local", "remote"),
    [
        ("in.txt", "in.txt", "in.txt"),
        ("in.txt:other.txt", "in.txt", "other.txt"),
        ("in.txt:/tmp/", "in.txt", "/tmp/in.txt"),
        ("in.txt:", "in.txt", "in.txt"),
        ("data/deep.txt", "data/deep.txt", "deep.txt"),
        ("data/", "data", "data"),
        (r"a\:b", "a:b", "a:b"),
        (r"a\:b:c\:d:e", "a:b", "c:d:e"),
    ],
)
def test_a_push_names_what_is_sent_and_where_it_goes(text: str, local: str, remote: str) -> None:
    assert transfers.read_push(text) == Push(Path(local), remote)


def test_pushing_the_working_directory_gives_it_its_own_name(work: Path) -> None:
    assert transfers.read_push(".") == Push(Path(), work.name)
    assert transfers.read_push("data/..").remote == work.name


def test_a_push_from_the_home(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(work))
    assert transfers.read_push("~/in.txt:x").local == work / "in.txt"


@pytest.mark.parametrize("text", ["missing.txt", "missing:in.txt", ""])
def test_a_push_of_what_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="push"):
        transfers.read_push(text)


@pytest.mark.parametrize(
    ("text", "remote", "local"),
    [
        ("out.txt", "out.txt", "out.txt"),
        ("results/out.txt", "results/out.txt", "out.txt"),
        ("results/", "results/", "results"),
        ("/var/log/x:log", "/var/log/x", "log"),
        ("out.txt:data", "out.txt", "data/out.txt"),
        ("out.txt:data/", "out.txt", "data/out.txt"),
        ("out.txt:.", "out.txt", "out.txt"),
        ("data", "data", "data"),
        ("~:everything", "~", "everything"),
        (r"c\:d:e", "c:d", "e"),
    ],
)
def test_a_pull_names_what_comes_back_and_where_it_goes(text: str, remote: str, local: str) -> None:
    assert transfers.read_pull(text) == Pull(remote, Path(local))


@pytest.mark.parametrize("text", ["out.txt:missing/out.txt", "out.txt:missing/", "~", "..", "/:data", ""])
def test_a_pull_to_where_nothing_can_be_put_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="pull"):
        transfers.read_pull(text)


def test_results_of_several_servers_get_different_names() -> None:
    assert transfers.read_pull("out.txt", index=2, count=3).local == Path("out.txt.2")
    assert transfers.read_pull("out.txt:data/", index=2, count=3).local == Path("data/out.txt.2")
    assert transfers.read_pull("out.txt:r{index}.txt", index=2, count=3).local == Path("r2.txt")
    assert transfers.read_pull("out.txt:{name}", index=2, count=3, server="lab-1").local == Path("lab-1")


def test_two_results_in_one_place_are_refused() -> None:
    pulls = [transfers.read_pull("a/out.txt"), transfers.read_pull("b/out.txt")]
    with pytest.raises(ConfigError, match="both become"):
        transfers.check_distinct(pulls)
    transfers.check_distinct([*pulls[:1], transfers.read_pull("b/out.txt:other")])
