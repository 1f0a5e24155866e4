"""ansible/filter_plugins/pibot.py derives the fleet from the inventory, and refuses one that can't work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.provisioning.support import ANSIBLE, load

PATH = ANSIBLE / "filter_plugins" / "pibot.py"
pibot = load(PATH)

WORKERS: list[dict[str, Any]] = [
    {"name": "worker-1", "number": 1, "address": "192.168.10.66", "port": 5000},
    {"name": "zero", "number": 9, "address": "zero.lan", "port": 5005},
]

FACTS: dict[str, Any] = {
    "os": "debian 12",
    "family": "debian ",
    "architecture": "arm64",
    "machine": "aarch64",
    "python": "3.11.2",
    "glibc": "2.36",
    "systemd": "252",
    "memory_mb": 430,
    "disk_mb": 9000,
    "skew": 1,
    "netfilter": True,
    "units": None,
    "listening": [22],
}

HOST: dict[str, Any] = {
    "architectures": ["arm64", "armhf", "amd64"],
    "min_python": "3.9",
    "min_memory_mb": 360,
    "min_disk_mb": 500,
    "max_clock_skew": 120,
    "port": 5000,
    "rehearsal_port": 5009,
    "unit": "pibot-worker.service",
}

FLEET: dict[str, Any] = {
    "role": "master",
    "number": 0,
    "masters": ["pibot-master"],
    "master_address": "192.168.10.113",
    "model": "doubao-seed-code",
    "model_key": "sk-1",
    "gateway": True,
    "keys": ["fleet", "one", "nine"],
}


def test_every_filter_is_a_function_of_the_file_under_its_name() -> None:
    filters = pibot.FilterModule().filters()
    assert filters
    assert {f"pibot_{function.__name__}": function for function in filters.values()} == filters


def test_every_filter_that_the_roles_use_exists_and_no_other() -> None:
    files = [path for path in ANSIBLE.rglob("*") if path.suffix in {".yml", ".j2"}]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert set(re.findall(r"(?:\|\s*|map\(')(pibot_\w+)", text)) == set(pibot.FilterModule().filters())


def test_the_file_needs_nothing_but_python() -> None:
    # Ansible imports it with whatever Python Ansible runs on.
    done = subprocess.run([sys.executable, "-I", "-S", str(PATH)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- the fleet's members ---


@pytest.mark.parametrize(
    ("host", "given", "number"),
    [
        ("worker-3", "", 3),
        ("worker-3", None, 3),
        ("worker-3", 7, 7),
        ("worker-3", "7", 7),
        ("zero2w-12", "", 12),
        ("kitchen", "", 0),
        ("kitchen", "four", 0),
    ],
)
def test_a_workers_number_is_the_given_one_or_ends_its_name(host: str, given: object, number: int) -> None:
    assert pibot.number(host, given) == number


def test_a_worker_is_described_by_what_the_inventory_says_of_it() -> None:
    hostvars = {
        "worker-1": {"ansible_host": "192.168.10.66"},
        "worker-2": {},
        "zero": {"pibot_number": 9, "pibot_address": "zero.lan", "ansible_host": "10.0.0.1", "pibot_port": "5005"},
    }
    assert pibot.workers(hostvars, ["worker-1", "worker-2", "zero"]) == [
        WORKERS[0],
        {"name": "worker-2", "number": 2, "address": "worker-2", "port": 5000},
        WORKERS[1],
    ]


# --- keys ---


def test_a_token_comes_from_its_file_unless_the_owner_gave_one(tmp_path: Path) -> None:
    path = f"{tmp_path}/worker_token_"
    files = pibot.token_files(WORKERS, path, ["", "mine"])
    assert files == [f"{path}1", "/dev/null"]
    assert pibot.tokens(WORKERS, ["", "mine"], ["made", "ignored"]) == {1: "made", 9: "mine"}


def test_a_check_makes_no_file_of_a_token(tmp_path: Path) -> None:
    path = f"{tmp_path}/worker_token_"
    Path(f"{path}1").write_text("there")
    assert pibot.token_files(WORKERS, path, ["", ""], True) == [f"{path}1", "/dev/null"]


def test_the_old_keys_of_a_rotation_are_the_files_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "worker_token_9").write_text("old")
    (tmp_path / "api_key").write_text("old")
    (tmp_path / "folder").mkdir()
    assert pibot.files_in(str(tmp_path)) == [f"{tmp_path}/api_key", f"{tmp_path}/worker_token_9"]
    assert pibot.files_in(f"{tmp_path}/missing") == []


# --- the lines of a .env ---


def test_the_masters_env_names_each_worker_with_its_token_and_a_port_that_is_not_the_usual_one() -> None:
    assert pibot.workers_env(WORKERS, {1: "one", 9: "nine"}) == {
        "WORKER_1_IP": "192.168.10.66",
        "WORKER_1_TOKEN": "one",
        "WORKER_9_IP": "zero.lan",
        "WORKER_9_TOKEN": "nine",
        "WORKER_9_PORT": 5005,
    }


def test_the_masters_env_names_old_keys_only_while_there_are_some() -> None:
    assert pibot.previous_env(WORKERS, {}, "", ["", ""]) == {}
    kept = {"api_key": "old", "worker_token_1": "old1", "undrain-worker-1": ""}
    assert pibot.previous_env(WORKERS, kept, "", ["", "vault9"]) == {
        "PIBOT_API_KEY_PREVIOUS": "old",
        "WORKER_1_TOKEN_PREVIOUS": "old1",
        "WORKER_9_TOKEN_PREVIOUS": "vault9",
    }


def test_an_old_key_from_the_vault_wins_over_the_file() -> None:
    assert pibot.previous_env([], {"api_key": "file"}, "vault", []) == {"PIBOT_API_KEY_PREVIOUS": "vault"}


def test_a_workers_env_leaves_out_the_keys_of_people_and_of_a_second_model() -> None:
    env = {"PIBOT_KEY_PHONE": "secret", "PIBOT_FALLBACK_API_KEY": "secret", "PIBOT_TASK_TIMEOUT": "600"}
    assert pibot.without_master_keys(env) == {"PIBOT_TASK_TIMEOUT": "600"}


def test_a_unit_may_read_the_absolute_paths_of_the_settings() -> None:
    env = {"PIBOT_READ_PATHS": "/srv/a, /srv/b  relative", "PIBOT_SKILLS_DIR": "/opt/skills"}
    assert pibot.read_paths(env) == ["/srv/a", "/srv/b", "/opt/skills"]
    assert pibot.read_paths({}) == []


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/home", True),
        ("/home/pi/x", True),
        ("/root/x", True),
        ("/srv/pi/x", True),
        ("/homely/x", False),
        ("/srv/pirate", False),
    ],
)
def test_a_path_in_a_home_is_recognised(path: str, inside: bool) -> None:
    assert pibot.any_in_homes(["/opt", path], "/srv/pi") is inside


# --- releases, certificates, the firewall ---


def test_a_target_is_what_the_wheelhouse_parses() -> None:
    wheelhouse = load(ANSIBLE / "roles" / "pibot_app" / "files" / "wheelhouse.py")
    assert wheelhouse.Target.parse(pibot.target(FACTS)).name == "cp311-aarch64-glibc2.36"


def test_a_host_shows_the_certificate_in_its_own_folder() -> None:
    assert pibot.client_tls("/home/pi/pibot") == {
        "client_cert": "/home/pi/pibot/tls/host.crt",
        "client_key": "/home/pi/pibot/tls/host.key",
        "ca_path": "/home/pi/pibot/tls/ca.crt",
    }


def test_a_certificate_names_addresses_as_addresses_and_each_name_once() -> None:
    names = ["worker-1", "127.0.0.1", "::1", "192.168.10.66", "worker-1"]
    assert pibot.certificate_names(names, more=["extra.lan"]) == [
        "DNS:worker-1",
        "IP:127.0.0.1",
        "IP:::1",
        "IP:192.168.10.66",
        "DNS:extra.lan",
    ]


@pytest.mark.parametrize(
    ("reported", "added"),
    [
        ("pi4", ["DNS:pi4", "DNS:pi4.local"]),
        ("", []),
        ("a.b", []),
        ("-x", []),
        ("10.0.0.1", []),
        ("x\n", []),
    ],
)
def test_a_reported_host_name_is_added_only_if_it_is_one_label(reported: str, added: list[str]) -> None:
    assert pibot.certificate_names(["m"], reported) == ["DNS:m", *added]


def test_the_masters_firewall_lets_in_its_networks_and_the_workers_that_ask_it_for_the_model() -> None:
    rules = pibot.master_rules(["192.168.10.0/24"], WORKERS, port=5001, gateway=True)
    assert rules == [
        {"from": "192.168.10.0/24", "port": 5001, "why": "the API and the dashboard"},
        {"from": "192.168.10.66", "port": 5001, "why": "the model"},
    ]


def test_without_the_gateway_only_the_offline_model_opens_to_workers() -> None:
    assert pibot.master_rules([], WORKERS[:1], port=5000, gateway=False) == []
    assert pibot.master_rules([], WORKERS[:1], port=5000, gateway=False, rehearsal_port=5009) == [
        {"from": "192.168.10.66", "port": 5009, "why": "the offline model"}
    ]


# --- what the preflight refuses ---


def host(facts: dict[str, Any], **settings: Any) -> Any:
    return pibot.host_problems({**FACTS, **facts}, **{**HOST, **settings})


def fleet(workers: list[dict[str, Any]] = WORKERS, **settings: Any) -> Any:
    return pibot.fleet_problems(workers, **{**FLEET, **settings})


def test_a_good_host_and_a_good_inventory_have_no_problem() -> None:
    assert host({}) == []
    assert fleet() == []
    assert fleet(role="worker", number=1, keys=[]) == []


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"os": "fedora 40", "family": "fedora "}, "it runs fedora 40"),
        ({"architecture": "riscv64", "machine": "riscv64"}, "riscv64 on riscv64"),
        ({"architecture": "armhf", "machine": "armv6l"}, "armhf on armv6l"),
        ({"python": "3.8.10"}, "3.8.10"),
        ({"python": ""}, "python3 is missing"),
        ({"memory_mb": 240}, "240 MB of memory"),
        ({"disk_mb": 20}, "20 MB are free"),
        ({"disk_mb": None}, "0 MB are free"),
        ({"skew": 121}, "121 s"),
        ({"systemd": ""}, "no systemd"),
        ({"netfilter": False}, "reboot"),
        ({"listening": [22, 5000]}, "port 5000"),
    ],
)
def test_a_host_that_cant_serve_is_refused_with_the_reason(facts: dict[str, Any], says: str) -> None:
    (problem,) = host(facts)
    assert says in problem


def test_pibots_own_unit_may_listen_on_its_port() -> None:
    assert host({"listening": [5000], "units": ["pibot-worker.service"]}) == []


@pytest.mark.parametrize("version", ["3.9.0", "3.10.1", "3.13.0rc1", "3.14.0+"])
def test_versions_are_compared_by_their_numbers(version: str) -> None:
    assert host({"python": version}) == []


@pytest.mark.parametrize("port", [80, 5009, 70000])
def test_a_port_that_pibot_cant_take_is_refused(port: int) -> None:
    (problem,) = host({}, port=port)
    assert f"pibot_port is {port}" in problem


def test_every_reason_is_given_at_once() -> None:
    assert len(host({"python": "3.7", "memory_mb": 1, "disk_mb": 1})) == 3


@pytest.mark.parametrize("key", pibot.PLACEHOLDER_KEYS)
def test_a_fleet_without_the_models_key_is_refused_unless_it_uses_the_offline_model(key: str) -> None:
    (problem,) = fleet(model_key=key)
    assert "no key for the model" in problem
    assert fleet(model_key=key, model="rehearsal") == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"masters": []}, "0 hosts in [master]"),
        ({"masters": ["a", "b"]}, "2 hosts in [master]"),
        ({"masters": ["zero"]}, "[master] and [workers]"),
        ({"role": "worker", "number": 0}, "pibot_number=4"),
        ({"workers": [{**WORKERS[0], "number": 0}]}, "pibot_number=4"),
        ({"workers": [WORKERS[0], WORKERS[0]]}, "the same number (1, 1)"),
        ({"keys": ["fleet", "one", "one"]}, "pibot_worker_token"),
        ({"keys": ["fleet", "fleet"]}, "pibot_worker_token"),
        ({"master_address": "pibot.local"}, "pibot.local"),
        ({"model": "rehearsal", "gateway": False}, "zero.lan"),
    ],
)
def test_an_inventory_that_cant_work_is_refused_with_the_reason(settings: dict[str, Any], says: str) -> None:
    (problem,) = fleet(**settings)
    assert says in problem


def test_a_workers_run_is_not_refused_for_another_worker_without_a_number() -> None:
    assert fleet([{**WORKERS[0], "number": 0}, WORKERS[1]], role="worker", number=9, keys=[]) == []
