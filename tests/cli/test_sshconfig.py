from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pileus.cli import sshconfig
from pileus.cli.sshconfig import Files, Target
from pileus.errors import ConfigError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1Yl5DNXfDqN7h2Zr0C2l9Z1m8q3xw0v0iZl3c5o0aB"
LAB = Target("lab-1", "id-1", "127.0.0.1", 2201, "user", (KEY + " a comment",))
OTHER = Target("lab-2", "id-2", "::1", 22, "other user", (KEY, "ecdsa-sha2-nistp256 AAAAE2Vj"))
FILES = Files(Path("/home/x/a b/100%/it's.key"), Path('/home/x/a "b"/known'))

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed here")


def read_by_ssh(text: str, host: str, path: Path) -> dict[str, str]:
    path.write_text(text)
    told = subprocess.run(["ssh", "-G", "-F", str(path), host], capture_output=True, text=True, check=True).stdout
    return dict(line.split(" ", 1) for line in told.splitlines() if " " in line)


@needs_ssh
def test_openssh_reads_every_setting_as_it_is_meant(tmp_path: Path) -> None:
    told = read_by_ssh(sshconfig.config([LAB, OTHER], FILES), "lab-2", tmp_path / "config")
    expected = {
        "hostname": "::1",
        "port": "22",
        "user": "other user",
        "identitiesonly": "yes",
        "hostkeyalias": "id-2",
        "stricthostkeychecking": "true",
        "hostkeyalgorithms": "ssh-ed25519,ecdsa-sha2-nistp256",
        "globalknownhostsfile": "/dev/null",
        "passwordauthentication": "no",
        "identityagent": "none",
    }
    assert {key: told.get(key) for key in expected} == expected
    assert "controlmaster" not in told or told["controlmaster"] == "false"


def test_only_the_known_key_of_the_servers_own_alias_is_accepted() -> None:
    lines = sshconfig.known_hosts([LAB, OTHER]).splitlines()
    assert lines == [f"id-1 {KEY}", f"id-2 {KEY}", "id-2 ecdsa-sha2-nistp256 AAAAE2Vj"]


def test_a_path_that_openssh_cannot_be_told_is_refused() -> None:
    for path in ("/a\nProxyCommand x", "/a${HOME}"):
        with pytest.raises(ConfigError, match="cannot be told"):
            sshconfig.quoted(path)


def test_an_inventory_has_all_hosts_with_their_variables() -> None:
    listed = sshconfig.inventory([LAB, OTHER], FILES, "my lab")
    assert listed["pileus_my_lab"] == {"hosts": ["lab-1", "lab-2"]}
    assert listed["pileus"] == {"children": ["pileus_my_lab"]}
    variables = listed["_meta"]["hostvars"]["lab-1"]
    assert variables["ansible_host"] == "127.0.0.1"
    assert variables["ansible_port"] == 2201
    assert variables["ansible_user"] == "user"
    assert variables["ansible_ssh_private_key_file"] == "/home/x/a b/100%%/it's.key"


@needs_ssh
def test_the_inventorys_arguments_mean_the_same_to_openssh_as_the_configuration(tmp_path: Path) -> None:
    arguments = shlex.split(sshconfig.host_variables(OTHER, FILES)["ansible_ssh_common_args"])
    by_arguments = subprocess.run(
        ["ssh", "-G", "-F", os.devnull, *arguments, "x"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    by_file = read_by_ssh(sshconfig.config([OTHER], FILES), "lab-2", tmp_path / "config")
    for key in ("hostkeyalias", "stricthostkeychecking", "userknownhostsfile", "hostkeyalgorithms", "identitiesonly"):
        assert f"{key} {by_file[key]}" in by_arguments
