#!/usr/bin/python
"""Ansible module: PiBot's part of a host's ufw, in one pass and in an order that can't lock anybody out.

Why not community.general.ufw:

* It applies state, default, rule and logging in that order, so one task with ``state: enabled`` and a rule enables the
  firewall before it allows SSH. Separate tasks avoid that, but each costs an SSH round trip on a slow Pi.
* ``default`` runs on every run, even if nothing differs, and can drop the connection that Ansible came in on
  (community.general issue 1843). This module runs ufw only where something differs.
* It does not know which rules are ours. A rule whose task is gone would stay open for ever; here a comment marks ours,
  and those that are no longer wanted are removed.
* Its check mode fails on a fresh host, where ufw is not installed yet.
"""

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
  - Allows SSH first, then PiBot's callers, then denies all other incoming traffic, and enables the firewall last.
  - PiBot's rules are those whose comment starts with C(pibot). Those that are no longer wanted are removed. All others
    are the owner's and stay. PiBot adds no rule that the owner has already.
  - Changes ufw only where something differs, since ufw's own commands interrupt connections.
options:
  state:
    description: V(absent) removes PiBot's rules, and disables the firewall if PiBot enabled it.
    choices: [present, absent]
    default: present
    type: str
  ssh_ports:
    description: Ports of SSH, which stay open to everybody.
    type: list
    elements: int
    default: []
  rules:
    description: What to allow. Each has C(from) (an address or network), C(port) and C(why).
    type: list
    elements: dict
    default: []
  marker:
    description: File that records that PiBot enabled the firewall.
    type: path
    default: /var/lib/pibot/firewall-switched-on
author: [PiBot (@pibot)]
"""

EXAMPLES = r"""
- name: Let only the master reach a worker
  pibot_ufw:
    ssh_ports: [22]
    rules: [{from: 192.168.10.113, port: 5000, why: tasks from the master}]
"""

RETURN = r"""
commands:
  description: The ufw commands that ran, or would run in check mode.
  returned: always
  type: list
  elements: str
"""

DEFAULTS_FILE = Path("/etc/default/ufw")


@dataclass(frozen=True)
class Firewall:
    """The state of a host's ufw.

    Attributes:
        active: whether it is enabled.
        incoming: the policy for incoming traffic that no rule names: deny, reject or allow.
        rules: each rule's comment by its text, which ufw prints the same way whether it is enabled or not.
    """

    active: bool
    incoming: str
    rules: dict[str, str]

    @classmethod
    def parse(cls, status: str, added: str, defaults: str) -> Firewall:
        """Parse the output of ``ufw status verbose`` and ``ufw show added``, and /etc/default/ufw; empty if missing."""
        rules = {}
        for line in added.splitlines():
            match = re.match(r"ufw (.+?)(?: comment '(.*)')?$", line)
            if match:
                rules[match.group(1)] = match.group(2) or ""
        printed = re.search(r"Default: (\w+) \(incoming\)", status)
        configured = re.search(r'^DEFAULT_INPUT_POLICY="?(\w+)', defaults, re.MULTILINE)
        if printed:
            incoming = printed.group(1)
        elif configured:  # an inactive ufw does not print its policy
            incoming = {"DROP": "deny", "REJECT": "reject"}.get(configured.group(1), "allow")
        else:
            incoming = "deny"
        return cls("Status: active" in status, incoming, rules)


def allowing(source: str, port: int) -> str:
    """Return the rule that lets ``source``, an address or a network, reach ``port``, as ufw will print it.

    Raises:
        ValueError: ``source`` is neither.
    """
    network = ipaddress.ip_network(source.strip(), strict=False)
    if network.prefixlen == 0:
        return f"allow {port}/tcp"
    origin = network.network_address if network.prefixlen == network.max_prefixlen else network
    return f"allow from {origin} to any port {port} proto tcp"


def owner_keeps_ssh(firewall: Firewall, port: int) -> bool:
    """Return whether the owner's rules already keep SSH open, so that PiBot needs none.

    A rule for some addresses alone is enough if the owner's firewall is enabled and denies: it let in the connection
    that this runs over. It does not replace a rule of PiBot's, which may have let it in instead.
    """
    owners = [rule for rule, comment in firewall.rules.items() if not comment.startswith("pibot")]
    profile = "|{}OpenSSH" if port == 22 else ""
    enough = [rf"{port}(/tcp)?{profile.format('')}"]
    ours = firewall.rules.get(f"allow {port}/tcp", "").startswith("pibot")
    if firewall.active and firewall.incoming in ("deny", "reject") and not ours:
        enough.append(rf".*\bto \S+ (port {port}{profile.format('app ')})( proto tcp)?")
    return any(re.fullmatch(f"(allow|limit) ({'|'.join(enough)})", rule) for rule in owners)


def plan(firewall: Firewall, ssh_ports: list[int], rules: list[dict[str, Any]]) -> list[list[str]]:
    """Return the commands, in order: allow SSH, add rules, remove old ones, deny the rest, enable."""
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
    """Return the commands that undo PiBot's part: disable, restore the policy, remove PiBot's rules, SSH's last.

    Args:
        firewall: the state now.
        switched_on: whether PiBot enabled the firewall.
        had_allowed: whether the policy was "allow" before PiBot.
    """
    commands = []
    if switched_on and firewall.active:
        commands.append(["--force", "disable"])
    if had_allowed:
        commands.append(["default", "allow", "incoming"])
    ours = [rule for rule, comment in firewall.rules.items() if comment.startswith("pibot")]
    for rule in sorted(ours, key=lambda rule: firewall.rules[rule] == "pibot: SSH"):
        if firewall.rules[rule] == "pibot: SSH" and not switched_on:
            continue  # the owner's firewall stays on, and this may be the only rule for SSH
        commands.append(["--force", "delete", *rule.split()])
    return commands


def ufw_of(module: Any) -> Callable[..., str] | None:
    """Return a function that runs ufw and returns its output; None if ufw is not installed."""
    program = module.get_bin_path("ufw", opt_dirs=["/usr/sbin"])
    if program is None:
        return None

    def ufw(*arguments: str) -> str:
        words = {"LC_ALL": "C", "LANGUAGE": "C"}
        _, out, _ = module.run_command([program, *arguments], check_rc=True, environ_update=words)
        return str(out)

    return ufw


def main() -> None:
    # Not at the top, so that tests can import the planning without Ansible.
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
        module.fail_json(msg="ufw is not installed on this host; run the role pibot_base first")
    if present and not module.params["ssh_ports"]:
        module.fail_json(msg="ssh_ports is empty, which would lock everybody out; name the port of SSH")
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
            marker.write_text("PiBot enabled ufw; an uninstall disables it.\n")
        if present and firewall.incoming == "allow":
            had_allowed.write_text("ufw allowed incoming traffic by default; an uninstall restores that.\n")
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
