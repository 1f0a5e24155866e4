"""pibot_ufw plans its commands from what ufw prints, in an order that never locks anybody out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.provisioning.support import ROLES, load

pibot_ufw = load(ROLES / "pibot_firewall" / "library" / "pibot_ufw.py")

FROM_MASTER = {"from": "192.168.10.113", "port": 5000, "why": "tasks from the master"}
RULE = "allow from 192.168.10.113 to any port 5000 proto tcp"
ACTIVE = """Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), disabled (routed)
New profiles: skip
"""
INACTIVE = "Status: inactive\n"


def firewall(*added: str, status: str = ACTIVE, defaults: str = 'DEFAULT_INPUT_POLICY="DROP"\n') -> Any:
    heading = "Added user rules (see 'ufw status' for running firewall):\n"
    return pibot_ufw.Firewall.parse(status, heading + "".join(f"ufw {rule}\n" for rule in added), defaults)


def plan(
    state: Any, ssh_ports: tuple[int, ...] = (22,), rules: tuple[dict[str, Any], ...] = (FROM_MASTER,)
) -> list[str]:
    return [" ".join(command) for command in pibot_ufw.plan(state, list(ssh_ports), list(rules))]


def plan_removal(state: Any, *, switched_on: bool) -> list[str]:
    return [" ".join(command) for command in pibot_ufw.plan_removal(state, switched_on)]


def test_the_output_of_ufw_is_parsed() -> None:
    state = firewall("allow 22/tcp comment 'pibot: SSH'", "limit 2222/tcp", "deny from 10.0.0.0/8")
    assert state.active
    assert state.incoming == "deny"
    assert state.rules == {"allow 22/tcp": "pibot: SSH", "limit 2222/tcp": "", "deny from 10.0.0.0/8": ""}


@pytest.mark.parametrize(
    ("defaults", "incoming"),
    [
        ('DEFAULT_INPUT_POLICY="DROP"', "deny"),
        ("DEFAULT_INPUT_POLICY=REJECT", "reject"),
        ("", "deny"),
        ('DEFAULT_INPUT_POLICY="ACCEPT"', "allow"),
    ],
)
def test_the_policy_of_a_disabled_firewall_is_read_from_its_file(defaults: str, incoming: str) -> None:
    assert firewall(status=INACTIVE, defaults=defaults).incoming == incoming


def test_a_check_without_ufw_shows_the_whole_plan() -> None:
    state = pibot_ufw.Firewall.parse("", "", "")
    assert len(plan(state)) == 3
    assert plan_removal(state, switched_on=False) == []


def test_a_fresh_host_gets_ssh_first_and_the_firewall_enabled_last() -> None:
    state = firewall(status=INACTIVE, defaults='DEFAULT_INPUT_POLICY="ACCEPT"')
    assert plan(state, ssh_ports=(2222,)) == [
        "allow 2222/tcp comment pibot: SSH",
        f"{RULE} comment pibot: tasks from the master",
        "default deny incoming",
        "--force enable",
    ]


def test_a_comment_is_one_argument() -> None:
    assert ["allow", "22/tcp", "comment", "pibot: SSH"] in pibot_ufw.plan(firewall(), [22], [])


def test_a_second_run_changes_nothing() -> None:
    assert plan(firewall("allow 22/tcp comment 'pibot: SSH'", f"{RULE} comment 'pibot: tasks from the master'")) == []


@pytest.mark.parametrize("owners", ["allow 22/tcp", "limit 22/tcp", "allow 22", "allow OpenSSH", "limit OpenSSH"])
def test_an_ssh_rule_of_the_owner_makes_ours_unnecessary(owners: str) -> None:
    assert plan(firewall(owners), rules=()) == []


@pytest.mark.parametrize("owners", ["allow OpenSSH", "limit 22/tcp", "allow 22"])
def test_the_owners_rule_for_port_22_does_not_count_for_another_port(owners: str) -> None:
    assert plan(firewall(owners), ssh_ports=(2222,), rules=()) == ["allow 2222/tcp comment pibot: SSH"]


NARROW = [
    "allow from 10.1.0.0/16 to any port 22 proto tcp",
    "limit in on eth0 to any port 22",
    "allow from 10.1.0.5 to any app OpenSSH",
]


@pytest.mark.parametrize("owners", NARROW)
def test_the_owners_limit_of_ssh_to_some_addresses_is_respected(owners: str) -> None:
    assert plan(firewall(owners), rules=()) == []


@pytest.mark.parametrize("owners", NARROW)
def test_a_narrow_ssh_rule_is_not_enough_if_something_else_may_have_let_us_in(owners: str) -> None:
    ssh = "allow 22/tcp comment pibot: SSH"
    assert plan(firewall(owners, status=INACTIVE), rules=()) == [ssh, "--force enable"]
    assert plan(firewall(owners, status=ACTIVE.replace("deny", "allow")), rules=())[0] == ssh
    assert plan(firewall("allow 22/tcp comment 'pibot: SSH'", owners), rules=()) == []
    assert plan(firewall(owners), ssh_ports=(2222,), rules=()) == ["allow 2222/tcp comment pibot: SSH"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("192.168.10.5/24", "allow from 192.168.10.0/24 to any port 5000 proto tcp"),
        ("192.168.10.5/32", "allow from 192.168.10.5 to any port 5000 proto tcp"),
        ("0.0.0.0/0", "allow 5000/tcp"),
        ("fd00::/64", "allow from fd00::/64 to any port 5000 proto tcp"),
    ],
)
def test_a_network_is_written_as_ufw_prints_it_so_that_a_second_run_keeps_the_rule(given: str, shown: str) -> None:
    rule = {"from": given, "port": 5000, "why": "the API"}
    assert plan(firewall("allow 22/tcp"), rules=(rule,)) == [f"{shown} comment pibot: the API"]
    assert plan(firewall("allow 22/tcp", f"{shown} comment 'pibot: the API'"), rules=(rule,)) == []


def test_a_source_that_is_no_address_is_refused_before_any_command_runs() -> None:
    with pytest.raises(ValueError, match=r"worker-1\.local"):
        plan(firewall(), rules=({"from": "worker-1.local", "port": 5009, "why": "x"},))


def test_our_old_rule_is_removed_after_the_new_one_is_added_and_the_owners_stay() -> None:
    old = "allow from 192.168.10.9 to any port 5000 proto tcp"
    state = firewall("allow 22/tcp", f"{old} comment 'pibot: tasks from the master'", "allow 9100/tcp comment 'mine'")
    assert plan(state) == [f"{RULE} comment pibot: tasks from the master", f"--force delete {old}"]


def test_the_owners_reject_policy_stays() -> None:
    assert plan(firewall("allow 22/tcp", RULE, status=ACTIVE.replace("deny", "reject"))) == []


def test_removal_disables_a_firewall_that_we_enabled_before_it_closes_ssh() -> None:
    state = firewall("allow 22/tcp comment 'pibot: SSH'", f"{RULE} comment 'pibot: x'", "allow 9100/tcp comment 'mine'")
    assert plan_removal(state, switched_on=True) == [
        "--force disable",
        f"--force delete {RULE}",
        "--force delete allow 22/tcp",
    ]


def test_removal_restores_the_policy_from_before() -> None:
    state = firewall("allow 22/tcp", f"{RULE} comment 'pibot: x'")
    commands = [" ".join(command) for command in pibot_ufw.plan_removal(state, switched_on=False, had_allowed=True)]
    assert commands == ["default allow incoming", f"--force delete {RULE}"]


def test_removal_leaves_the_owners_firewall_enabled_with_ssh_open() -> None:
    state = firewall("allow 22/tcp comment 'pibot: SSH'", f"{RULE} comment 'pibot: tasks from the master'")
    assert plan_removal(state, switched_on=False) == [f"--force delete {RULE}"]
