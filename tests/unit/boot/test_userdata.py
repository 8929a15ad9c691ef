"""The user-data, run for real in a tree."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from pileus import boot
from pileus.errors import ConfigError
from pileus.models import BootTarget

from .conftest import AUTHORIZED_KEY, PRIVATE_KEY, PUBLIC_KEY, Tree, running


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_makes_a_tree_ready(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    done = tree.boot()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    key = tree.path("etc/ssh/ssh_host_ed25519_key")
    assert (key.read_text(), mode(key)) == (PRIVATE_KEY, 0o600)
    assert (key.with_suffix(".pub").read_text(), mode(key.with_suffix(".pub"))) == (f"{PUBLIC_KEY}\n", 0o644)
    assert tree.path("reloads").read_text() == PRIVATE_KEY
    keys = tree.path("home/me/.ssh/authorized_keys")
    assert (keys.read_text(), mode(keys), mode(keys.parent)) == (f"{AUTHORIZED_KEY}\n", 0o600, 0o700)
    assert "user_allow_other" in tree.path("etc/fuse.conf").read_text().splitlines()
    assert tree.path("etc/hostname").read_text() == "lab-1\n"
    assert mode(tree.path("etc/hostname")) == mode(tree.path("etc/fuse.conf")) == 0o644
    assert mode(tree.path("run/pileus/ready")) == 0o644
    assert mode(tree.path("run/pileus")) == 0o755
    assert {path.name for path in tree.path("run/pileus").iterdir()} == {"ready", "step"}  # no lease was wanted


def test_it_can_run_twice(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    for _ in range(2):
        assert tree.boot().returncode == 0
    assert tree.path("home/me/.ssh/authorized_keys").read_text() == f"{AUTHORIZED_KEY}\n"
    assert tree.path("etc/fuse.conf").read_text().count("user_allow_other") == 1


@pytest.mark.parametrize(
    "name", ["with space", "it's", 'double"quote', "ünïcode-☁", "new\nline", "$(touch stolen)`x`", "-dash", "*?[a]\\"]
)
def test_a_root_may_have_any_characters(tree_in_each_shell: Tree, name: str) -> None:
    tree = tree_in_each_shell
    tree.root = tree.root / name
    tree.root.mkdir()
    assert tree.boot(lease_s=600).returncode == 0
    assert tree.path("run/pileus/ready").exists()
    assert tree.run(boot.renew_lease(tree.target, 9000)).returncode == 0
    assert tree.run(boot.make_host_key(tree.target)).stdout == b"public-1\n"
    assert tree.run(boot.switch_host_key(tree.target)).stdout == b"public-1\n"
    assert not list(tree.root.parent.rglob("stolen"))
    assert {path.name for path in tree.root.parent.iterdir()} == {name}


def test_a_root_that_is_not_utf8_is_found_too(tree: Tree) -> None:
    tree.root = Path(os.fsdecode(os.fsencode(tree.root) + b"/caf\xe9"))
    tree.root.mkdir()
    assert tree.boot().returncode == 0
    assert tree.path("run/pileus/ready").exists()


def test_values_may_have_any_characters(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    tree.boot(authorized_key='ssh-ed25519 AAAA it\'s "$(touch stolen)" -\\n%s', user_name="o'neil user")
    keys = tree.path("home/o'neil user/.ssh/authorized_keys")
    assert keys.read_text() == 'ssh-ed25519 AAAA it\'s "$(touch stolen)" -\\n%s\n'
    assert not list(tree.root.rglob("stolen"))


def test_keys_that_were_authorized_before_stay(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    keys = tree.path("home/me/.ssh/authorized_keys")
    keys.parent.mkdir(parents=True)
    keys.write_text("ssh-rsa AAAA somebody")  # without a newline at its end
    tree.boot()
    assert keys.read_text() == f"ssh-rsa AAAA somebody\n{AUTHORIZED_KEY}\n"


def test_a_key_that_is_part_of_another_line_is_not_taken_for_ours(tree: Tree) -> None:
    keys = tree.path("home/me/.ssh/authorized_keys")
    keys.parent.mkdir(parents=True)
    keys.write_text(f"# {AUTHORIZED_KEY}\n")
    tree.boot()
    assert keys.read_text().splitlines()[-1] == AUTHORIZED_KEY


def test_a_comment_in_fuse_conf_is_not_taken_for_the_setting(tree: Tree) -> None:
    tree.path("etc").mkdir()
    tree.path("etc/fuse.conf").write_text("# as shipped\n#user_allow_other")
    tree.boot()
    assert "user_allow_other" in tree.path("etc/fuse.conf").read_text().splitlines()


def test_requiretty_is_turned_off_where_sudo_is_configured(tree_in_each_shell: Tree) -> None:
    tree = tree_in_each_shell
    tree.path("etc/sudoers.d").mkdir(parents=True)
    assert tree.boot().returncode == 0
    assert [path.name for path in tree.path("etc/sudoers.d").iterdir()] == ["pileus"]
    assert tree.path("etc/sudoers.d/pileus").read_text() == "Defaults !requiretty\n"
    assert mode(tree.path("etc/sudoers.d/pileus")) == 0o440


def test_a_fuse_device_in_the_tree_is_opened_to_all(tree: Tree) -> None:
    tree.path("dev").mkdir()
    tree.path("dev/fuse").touch(mode=0o600)
    tree.boot()
    assert mode(tree.path("dev/fuse")) == 0o666


@pytest.mark.parametrize(
    ("configured", "result"),
    [
        ("Port 22\n#HostKey /etc/ssh/ssh_host_ed25519_key\n", None),
        ("  hostkey /etc/ssh/ssh_host_ed25519_key\n", None),
        ("HostKey /etc/ssh/ssh_host_rsa_key\n#HostKey /etc/ssh/ssh_host_ed25519_key\nMatch all\n", "first"),
    ],
)
def test_an_sshd_that_lists_its_keys_is_told_of_ours(tree: Tree, configured: str, result: str | None) -> None:
    tree.path("etc/ssh").mkdir(parents=True)
    file = tree.path("etc/ssh/sshd_config")
    file.write_text(configured)
    assert tree.boot().returncode == 0
    line = f"HostKey {tree.root}/etc/ssh/ssh_host_ed25519_key\n"
    assert file.read_text() == (line + configured if result else configured)


@pytest.mark.parametrize(
    ("obstacle", "step"),
    [
        ("etc/ssh/ssh_host_ed25519_key.new", "host_key"),
        ("home/me/.ssh/authorized_keys", "authorized_key"),
        ("etc/fuse.conf", "fuse"),
        ("etc/hostname", "set_host_name"),
        ("etc/sudoers.d/pileus.new", "sudo_without_terminal"),
        ("var/lib/pileus/watchdog", "lease"),
        ("run/pileus/ready", "prepare"),
    ],
)
def test_a_step_that_fails_is_reported_and_the_others_are_done(
    tree_in_each_shell: Tree, obstacle: str, step: str
) -> None:
    tree = tree_in_each_shell
    tree.path(obstacle).mkdir(parents=True)  # a directory where a file is to be written
    done = tree.boot(lease_s=600)
    assert done.returncode != 0
    assert not tree.path("run/pileus/ready").is_file()
    failures = tree.path("run/pileus/failed").read_text()
    assert failures.startswith(f"{step}: ")
    assert mode(tree.path("run/pileus/failed")) == 0o644
    assert len(failures) > len(step) + 4  # with a reason
    assert f"pileus: boot failed: {step}: " in done.stderr.decode()
    for path, other in (
        ("etc/ssh/ssh_host_ed25519_key", "host_key"),
        ("etc/fuse.conf", "fuse"),
        ("run/pileus/lease", "lease"),
        ("home/me/.ssh/authorized_keys", "authorized_key"),
    ):
        assert tree.path(path).is_file() == (other != step)


def test_a_reload_that_fails_is_reported_in_its_own_words(tree: Tree) -> None:
    target = BootTarget(root=str(tree.root), reload_sshd="echo 'sshd is sulking' >&2; exit 3")
    script = boot.render(boot.BootPlan(target, "h", "me", AUTHORIZED_KEY, PRIVATE_KEY, PUBLIC_KEY))
    tree.path("script").write_bytes(script)
    assert tree.run("sh ./script").returncode == 1
    assert tree.path("run/pileus/failed").read_text() == "host_key: sshd is sulking\n"


def test_the_sentinel_comes_after_everything_else(tree: Tree) -> None:
    """Whatever moment the sentinel is seen at, all the rest is there: the reload is held up, and the sentinel with it."""
    hold = tree.path("hold")
    hold.touch()
    target = BootTarget(
        root=str(tree.root),
        reload_sshd=f"while [ -e '{hold}' ]; do sleep 0.02; done",
    )
    tree.path("script").write_bytes(
        boot.render(boot.BootPlan(target, "h", "me", AUTHORIZED_KEY, PRIVATE_KEY, PUBLIC_KEY))
    )
    running_script = tree.start("sh ./script")
    with pytest.raises(subprocess.TimeoutExpired):
        running_script.wait(0.3)
    assert not tree.path("run/pileus/ready").exists()
    hold.unlink()
    running_script.communicate(timeout=30)
    assert tree.path("run/pileus/ready").exists()
    rendered = boot.render(tree.plan(60)).decode().splitlines()
    steps = [line for line in rendered if line.startswith("step ")]
    assert steps[-1] == "step lease"
    assert rendered.index(steps[-1]) < rendered.index('if [ "$failed" = no ]; then step sentinel; fi')


def test_no_process_has_the_private_key_in_its_arguments_or_environment(tree: Tree) -> None:
    """Every command that the script starts is one of ours first, which writes down what it was given."""
    spies = tree.path("spies")
    spies.mkdir()
    for name in ("mkdir", "chmod", "rm", "mv", "grep", "tail", "sh", "setsid", "cat"):
        spy = spies / name
        spy.write_text(
            f"#!/bin/sh\n{{ printf '%s\\n' \"$0\" \"$@\"; env; }} >>'{tree.root}/seen'\n"
            f'PATH=${{PATH#*:}}; exec {name} "$@"\n'
        )
        spy.chmod(0o755)
    tree.path("script").write_bytes(boot.render(tree.plan(600)))
    done = tree.run(f"PATH={spies}:$PATH; export PATH; /bin/sh ./script")
    assert done.returncode == 0
    seen = tree.path("seen").read_text()
    assert "spies/mkdir" in seen
    assert "secret" not in seen


def test_nothing_outside_of_the_tree_is_written(tree: Tree) -> None:
    """As root this would change the host; the tree is read-only to others, so that as a user it would fail."""
    watched = [
        Path("/etc/ssh"),
        Path("/etc/fuse.conf"),
        Path("/etc/sudoers.d"),
        Path("/etc/hostname"),
        Path("/run/pileus"),
    ]
    watched += [Path("/etc/hosts"), Path("/var/lib/pileus"), Path("/dev/fuse")]

    def state() -> list[object]:
        found: list[object] = []
        for path in watched:
            for each in [path, *(sorted(path.iterdir()) if path.is_dir() else [])]:
                found.append((each, each.stat().st_mtime_ns, each.stat().st_mode) if each.exists() else each)
        return found

    before = state()
    tree.path("etc/sudoers.d").mkdir(parents=True)
    tree.path("var/lib/cloud/scripts/per-boot").mkdir(parents=True)
    assert tree.boot(lease_s=600).returncode == 0
    tree.run(boot.make_host_key(tree.target))
    tree.run(boot.switch_host_key(tree.target))
    assert state() == before


@pytest.mark.parametrize("lease_s", [0, 600])
def test_a_script_for_a_tree_names_no_path_or_command_of_the_host(tree: Tree, lease_s: float) -> None:
    texts = [boot.render(tree.plan(lease_s)).decode()]
    texts += [make(tree.target) for make in (boot.make_host_key, boot.switch_host_key, boot.power_off)]
    for text in texts:
        for word in ("systemctl", "sudo -n", "shutdown", "poweroff", "halt", "chown", "hostnamectl", "service"):
            assert word not in text.replace("powered-off", "")
        ours = text.replace(str(tree.root), "TREE")
        assert not [line for line in ours.splitlines() if ">/" in line and ">/dev/null" not in line]


def test_user_data_is_far_below_what_clouds_take() -> None:
    target = BootTarget(root="/" + "long/" * 40 + "x", power_off="x" * 200, reload_sshd="y" * 200, keygen="z" * 200)
    for each in (target, BootTarget()):
        plan = boot.BootPlan(each, "h" * 63, "u" * 32, "k" * 200, PRIVATE_KEY + "p" * 400, "k" * 200, 60)
        assert len(boot.render(plan)) < 12 * 1024


def test_a_boot_without_a_lease_leaves_no_process(tree: Tree) -> None:
    tree.boot()
    assert running(tree.mark) == []


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"user_name": ""}, "os_user"),
        ({"user_name": "../etc"}, "os_user"),
        ({"user_name": "a:b"}, "os_user"),
        ({"user_name": ".."}, "os_user"),
        ({"host_name": " "}, "host_name"),
        ({"authorized_key": "one\ntwo"}, "authorized_key"),
        ({"host_public_key": ""}, "host_public_key"),
        ({"host_private_key": "\n"}, "host_private_key"),
        ({"host_private_key": "a\0b"}, "host_private_key"),
    ],
)
def test_what_would_break_a_file_is_refused(tree: Tree, changed: dict[str, str], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tree.plan(**changed)
    assert caught.value.setting == setting


@pytest.mark.parametrize("lease_s", [-1, float("nan"), float("inf"), 1e12])
def test_an_impossible_lease_is_refused(tree: Tree, lease_s: float) -> None:
    with pytest.raises(ConfigError):
        tree.plan(lease_s)
    with pytest.raises(ConfigError):
        boot.renew_lease(tree.target, lease_s)


@pytest.mark.parametrize("root", ["relative", "/slash/", "/nul\0"])
def test_a_root_that_is_no_absolute_path_is_refused(root: str) -> None:
    with pytest.raises(ConfigError):
        boot.wait_for_sentinel(BootTarget(root=root))


def test_a_lease_in_a_tree_without_a_way_to_end_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="power_off"):
        boot.BootPlan(BootTarget(root="/x"), "h", "u", "k", "p", "k", 60)


def test_the_private_key_is_not_shown(tree: Tree) -> None:
    assert "secret" not in repr(tree.plan())
