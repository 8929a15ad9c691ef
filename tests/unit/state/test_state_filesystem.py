from __future__ import annotations

import stat
from pathlib import Path

import pytest
from state_helpers import open_store

from pileus.errors import BadResourceNameError, StateError
from pileus.state import filesystem as fs
from pileus.state import key_path, state_path, write_private_key
from pileus.state.holders import holders_in

TABLE = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:25 / /home rw,nosuid shared:7 master:3 - nfs4 server:/home rw,vers=4.2
29 28 0:26 / /home/me/My\\040Disk rw - ext4 /dev/vdb rw
30 27 0:27 / /mnt/both rw - ext4 /dev/vdc rw
31 30 0:28 / /mnt/both rw - fuse.sshfs me@host: rw
32 27 0:29 / /ho rw - cifs //host/share rw
33 27 broken line
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/x.db", "ext4"),
        ("/home/me/x.db", "nfs4"),
        ("/home", "nfs4"),
        ("/homestead/x.db", "ext4"),
        ("/home/me/My Disk/x.db", "ext4"),
        ("/home/me/My Disks/x.db", "nfs4"),
        ("/mnt/both/x.db", "fuse.sshfs"),
        ("/ho/x", "cifs"),
    ],
)
def test_the_longest_mount_point_and_the_last_mount_on_it_count(path, expected):
    assert fs.mounted_type(path, TABLE) == expected


def test_a_table_that_tells_nothing_gives_no_type():
    assert fs.mounted_type("/x", "") == ""


def test_a_state_on_a_network_file_system_is_refused_with_a_way_out(tmp_path, monkeypatch):
    real = fs.mounted_type(str(tmp_path), Path("/proc/self/mountinfo").read_text())
    monkeypatch.setattr(fs, "NETWORK_TYPES", frozenset({real}))  # as if this disk were one
    with pytest.raises(StateError, match=r"network file system") as caught:
        open_store(tmp_path / "a" / "lab.db")
    assert "save_path" in caught.value.hint
    assert "PILEUS_STATE_DIR" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_paths_follow_the_save_path_then_the_environment_then_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("PILEUS_STATE_DIR", str(tmp_path / "s"))
    assert state_path("aws", "my lab") == tmp_path / "s" / "aws.my lab.db"
    assert state_path("aws", "my lab", tmp_path / "saved") == tmp_path / "saved.my lab"
    monkeypatch.delenv("PILEUS_STATE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_path("aws", "lab").is_relative_to(tmp_path)
    assert state_path("aws", "lab", "~/x") == tmp_path / "x.lab"
    monkeypatch.chdir(tmp_path)
    assert state_path("aws", "lab", "x") == tmp_path / "x.lab"


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a\0b"])
def test_a_name_cannot_lead_out_of_the_directory(name):
    with pytest.raises(BadResourceNameError):
        state_path("aws", name)


def test_the_private_key_is_written_whole_and_for_the_owner_only(tmp_path):
    path = key_path(tmp_path / "deep" / "lab.db")
    assert path.name == "lab.db.key"
    write_private_key(path, "first")
    path.chmod(0o644)
    write_private_key(path, b"second\n")
    assert path.read_bytes() == b"second\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["lab.db.key"]


def test_a_private_key_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    target = tmp_path / "key"
    target.mkdir()
    with pytest.raises(StateError, match="cannot be written"):
        write_private_key(target, "pem")
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_erasing_overwrites_what_other_links_still_show(tmp_path):
    file, other, link = tmp_path / "key", tmp_path / "hard", tmp_path / "soft"
    file.write_text("secret")
    other.hardlink_to(file)
    fs.erase(file)
    assert other.read_bytes() == b"\0" * 6
    other.write_text("innocent")
    link.symlink_to(other)
    fs.erase(link)
    fs.erase(link)
    assert other.read_text() == "innocent"
    assert not link.is_symlink()


LOCKS = """\
1: POSIX  ADVISORY  WRITE 500 fe:00:77 120 120
1: -> POSIX  ADVISORY  WRITE 501 fe:00:77 120 120
2: POSIX  ADVISORY  READ 502 fe:00:77 120 120
3: POSIX  ADVISORY  WRITE 503 fe:00:77 121 EOF
4: POSIX  ADVISORY  WRITE 504 fd:01:77 0 EOF
5: FLOCK  ADVISORY  WRITE 505 fe:00:78 0 EOF
"""


def test_the_holder_is_who_has_a_write_lock_on_that_byte_of_that_file():
    assert holders_in(LOCKS, 77, 0xFE, 0, 120) == [500]
    assert holders_in(LOCKS, 77, 0xFE, 0, 200) == [503]
    assert holders_in(LOCKS, 77, 0xFE, 0, 100) == [504]  # no line of that device: the inode decides
    assert holders_in(LOCKS, 79, 0xFE, 0, 120) == []
