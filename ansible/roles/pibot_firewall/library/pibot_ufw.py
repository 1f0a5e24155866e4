#!/usr/bin/python
"""Ansible module: PiBot's part of a host's ufw, in one pass and in an order that can't lock anybody out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCUMENTATION = r"""
module: pibot_ufw
short_description: Keep PiBot's part of the uncomplicated firewall
description:
  - Allows SSH first, then PiBot's own rules, then denies what else comes in, and switches the firewall on last.
  - Rules of PiBot are those whose comment starts with C(pibot). One that is no longer wanted is removed. All others are
    the owner's and stay, and one of the owner's that says the same makes PiBot's unnecessary.
  - Runs ufw only where something differs, since ufw's own commands interrupt what is connected.
options:
  state:
    description: V(absent) removes PiBot's rules, and switches the firewall off if PiBot had switched it on.
    choices: [present, absent]
    default: present
    type: str
  ssh_ports:
    description: The ports of SSH, which stay open to everybody.
    type: list
    elements: int
    default: []
  rules:
    description: What to allow, each with C(from) (an address or network), C(port) and C(why).
    type: list
    elements: dict
    default: []
  marker:
    description: The file that tells that PiBot has switched the firewall on.
    type: path
    default: /var/lib/pibot/firewall-switched-on
author: [PiBot (@pibot)]
"""

EXAMPLES = r"""
- name: A worker that takes tasks from its master alone
  pibot_ufw:
    ssh_ports: [22]
    rules: [{from: 192.168.10.113, port: 5000, why: tasks from the master}]
"""

RETURN = r"""
commands:
  description: What was run, or would be in check mode.
  returned: always
  type: list
  elements: str
"""

DEFAULTS_FILE = Path("/etc/default/ufw")


@dataclass(frozen=True)
class Firewall:
    """ufw as it is."""

    active: bool
    incoming: str  # what happens to what no rule names: deny, reject or allow
    rules: dict[str, str]  # a rule in ufw's own words, which are the same whether it is on or off, and its comment

    @classmethod
    def parse(cls, status: str, added: str, defaults: str) -> Firewall:
        """Read what ``ufw status verbose`` and ``ufw show added`` print, and /etc/default/ufw. Empty without ufw."""
        rules = {}
        for line in added.splitlines():
            match = re.match(r"ufw (.+?)(?: comment '(.*)')?$", line)
            if match:
                rules[match.group(1)] = match.group(2) or ""
        told = re.search(r"Default: (\w+) \(incoming\)", status)
        configured = re.search(r'^DEFAULT_INPUT_POLICY="?(\w+)', defaults, re.MULTILINE)
        if told:
            incoming = told.group(1)
        elif configured:  # an inactive ufw doesn't tell
            incoming = {"DROP": "deny", "REJECT": "reject"}.get(configured.group(1), "allow")
        else:
            incoming = "deny"
        return cls("Status: active" in status, incoming, rules)


def allowing(source: str, port: int) -> str:
    """The rule that lets ``source`` (an address or a network) reach ``port``, in the words in which ufw will show it.

    Raises:
        ValueError: it is neither.
    """
    network = ipaddress.ip_network(source.strip(), strict=False)
    if network.prefixlen == 0:
        return f"allow {port}/tcp"
    origin = network.network_address if network.prefixlen == network.max_prefixlen else network
    return f"allow from {origin} to any port {port} proto tcp"


def owner_keeps_ssh(firewall: Firewall, port: int) -> bool:
    """Whether the owner's rules keep SSH open already, so that one of PiBot's is not needed.

    A rule for some addresses alone is enough where the owner's firewall is on and denies: it has let in the connection
    that this runs over. It does not push out a rule of PiBot's that may have done that instead.
    """
    owners = [rule for rule, comment in firewall.rules.items() if not comment.startswith("pibot")]
    profile = "|{}OpenSSH" if port == 22 else ""
    enough = [rf"{port}(/tcp)?{profile.format('')}"]
    ours = firewall.rules.get(f"allow {port}/tcp", "").startswith("pibot")
    if firewall.active and firewall.incoming in ("deny", "reject") and not ours:
        enough.append(rf".*\bto \S+ (port {port}{profile.format('app ')})( proto tcp)?")
    return any(re.fullmatch(f"(allow|limit) ({'|'.join(enough)})", rule) for rule in owners)


def plan(firewall: Firewall, ssh_ports: list[int], rules: list[dict[str, Any]]) -> list[list[str]]:
    """The commands, in order: SSH, then the rules, then the old ones away, then deny, then on."""
    wanted = {}
    for port in ssh_ports:
        if not owner_keeps_ssh(firewall, port):
            wanted[f"allow {port}/tcp"] = "pibot: SSH"
    for rule in rules:
        wanted[allowing(rule["from"], rule["port"])] = f"pibot: {rule['why']}"
    commands = [[*rule.split(), "comment", why] for rule, why in wanted.items() if rule not in firewall.rules]
    commands += [
        ["--force", "delete", *rule.split()]
        for rule, comment in firewall.rules.items()
        if comment.startswith("pibot") and rule not in wanted
    ]
    if firewall.incoming not in ("deny", "reject"):
        commands.append(["default", "deny", "incoming"])
    if not firewall.active:
        commands.append(["--force", "enable"])
    return commands


def plan_removal(firewall: Firewall, switched_on: bool, had_allowed: bool = False) -> list[list[str]]:
    """The commands, in order: off and open as it was before PiBot, and PiBot's rules away, with SSH's last."""
    commands = []
    if switched_on and firewall.active:
        commands.append(["--force", "disable"])
    if had_allowed:
        commands.append(["default", "allow", "incoming"])
    ours = [rule for rule, comment in firewall.rules.items() if comment.startswith("pibot")]
    for rule in sorted(ours, key=lambda rule: firewall.rules[rule] == "pibot: SSH"):
        if firewall.rules[rule] == "pibot: SSH" and not switched_on:
            continue  # the owner's firewall stays on, and this may be the only door
        commands.append(["--force", "delete", *rule.split()])
    return commands


def ufw_of(module: Any) -> Callable[..., str] | None:
    """A function that runs ufw and returns what it printed; None where there is no ufw."""
    program = module.get_bin_path("ufw", opt_dirs=["/usr/sbin"])
    if program is None:
        return None

    def ufw(*arguments: str) -> str:
        words = {"LC_ALL": "C", "LANGUAGE": "C"}
        _, out, _ = module.run_command([program, *arguments], check_rc=True, environ_update=words)
        return str(out)

    return ufw


def main() -> None:
    # Not at the top, so that the planning can be imported where there is no Ansible.
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["present", "absent"], "default": "present"},
            "ssh_ports": {"type": "list", "elements": "int", "default": []},
            "rules": {"type": "list", "elements": "dict", "default": []},
            "marker": {"type": "path", "default": "/var/lib/pibot/firewall-switched-on"},
        },
        supports_check_mode=True,
    )
    present = module.params["state"] == "present"
    ufw = ufw_of(module)
    if ufw is None and present and not module.check_mode:
        module.fail_json(msg="ufw is not installed: the role pibot_base comes before this one")
    if present and not module.params["ssh_ports"]:
        module.fail_json(msg="ssh_ports is empty: without SSH nobody could come back")
    firewall = Firewall.parse(
        ufw("status", "verbose") if ufw else "",
        ufw("show", "added") if ufw else "",
        DEFAULTS_FILE.read_text() if DEFAULTS_FILE.exists() else "",
    )
    marker = Path(module.params["marker"])
    had_allowed = marker.with_name("firewall-had-allowed")
    if present:
        try:
            commands = plan(firewall, module.params["ssh_ports"], module.params["rules"])
        except ValueError as exc:
            module.fail_json(msg=f"the firewall was left as it is: {exc}; see pibot_lan and pibot_address")
    else:
        commands = plan_removal(firewall, marker.exists(), had_allowed.exists())
    if ufw and not module.check_mode:
        if present and not firewall.active:
            marker.write_text("PiBot has switched ufw on; an uninstall switches it off again.\n")
        if present and firewall.incoming == "allow":
            had_allowed.write_text("ufw let in what no rule names; an uninstall has it do so again.\n")
        for command in commands:
            ufw(*command)
    before = sorted(f"{rule} # {comment}" for rule, comment in firewall.rules.items())
    lines = [" ".join(["ufw", *command]) for command in commands]
    module.exit_json(
        changed=bool(lines),
        commands=lines,
        diff={"before": "\n".join(before) + "\n", "after": "\n".join([*before, *lines]) + "\n"} if lines else {},
    )


if __name__ == "__main__":
    main()
