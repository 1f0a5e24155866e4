#!/usr/bin/python
"""Ansible module: PiBot's part of a host's ufw, in one pass and in an order that can't lock anybody out."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

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


class Firewall:
    """ufw as it is, and the commands that would make it as it should be."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._ufw = module.get_bin_path("ufw", opt_dirs=["/usr/sbin"])
        self.installed = self._ufw is not None
        self.commands: list[list[str]] = []
        status = self._read("status", "verbose")
        self.active = "Status: active" in status
        incoming = re.search(r"Default: (\w+) \(incoming\)", status)
        self.incoming = incoming.group(1) if incoming else self._configured_policy()
        # {the rule: its comment}, in ufw's own words, which are the same whether it is on or off.
        self.rules: dict[str, str] = {}
        for line in self._read("show", "added").splitlines():
            match = re.match(r"ufw (.+?)(?: comment '(.*)')?$", line)
            if match:
                self.rules[match.group(1)] = match.group(2) or ""

    def _read(self, *arguments: str) -> str:
        if self._ufw is None:
            return ""
        _, out, _ = self._module.run_command(
            [self._ufw, *arguments], check_rc=True, environ_update={"LC_ALL": "C", "LANGUAGE": "C"}
        )
        return str(out)

    @staticmethod
    def _configured_policy() -> str:
        try:
            match = re.search(r'^DEFAULT_INPUT_POLICY="?(\w+)', DEFAULTS_FILE.read_text(), re.MULTILINE)
        except OSError:
            return "deny"
        return {"DROP": "deny", "REJECT": "reject"}.get(match.group(1), "allow") if match else "deny"

    def want(self, *arguments: str) -> None:
        self.commands.append(["ufw", *arguments])

    def run(self) -> None:
        for command in self.commands:
            self._module.run_command([self._ufw, *command[1:]], check_rc=True, environ_update={"LC_ALL": "C"})


def plan(firewall: Firewall, ssh_ports: list[int], rules: list[dict[str, str]]) -> None:
    """SSH, then the rules, then the old ones away, then deny, then on."""
    wanted = {}
    for port in ssh_ports:
        if f"limit {port}/tcp" not in firewall.rules and f"allow {port}" not in firewall.rules:
            wanted[f"allow {port}/tcp"] = "pibot: SSH"
        if port == 22 and {"allow OpenSSH", "limit OpenSSH", "allow 22"} & set(firewall.rules):
            wanted.pop("allow 22/tcp", None)
    for rule in rules:
        wanted[f"allow from {rule['from']} to any port {rule['port']} proto tcp"] = f"pibot: {rule['why']}"
    for rule, comment in wanted.items():
        if rule not in firewall.rules:
            firewall.want(*rule.split(), "comment", comment)
    for rule, comment in firewall.rules.items():
        if comment.startswith("pibot") and rule not in wanted:
            firewall.want("--force", "delete", *rule.split())
    if firewall.incoming not in ("deny", "reject"):
        firewall.want("default", "deny", "incoming")
    if not firewall.active:
        firewall.want("--force", "enable")


def plan_removal(firewall: Firewall, switched_on: bool) -> None:
    """The firewall off if PiBot had switched it on, and PiBot's rules away, with SSH's last."""
    if switched_on and firewall.active:
        firewall.want("--force", "disable")
    ours = [rule for rule, comment in firewall.rules.items() if comment.startswith("pibot")]
    for rule in sorted(ours, key=lambda rule: firewall.rules[rule] == "pibot: SSH"):
        if firewall.rules[rule] == "pibot: SSH" and not switched_on:
            continue  # the owner's firewall stays on, and this may be the only door
        firewall.want("--force", "delete", *rule.split())


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["present", "absent"], "default": "present"},
            "ssh_ports": {"type": "list", "elements": "int", "default": []},
            "rules": {"type": "list", "elements": "dict", "default": []},
            "marker": {"type": "path", "default": "/var/lib/pibot/firewall-switched-on"},
        },
        supports_check_mode=True,
    )
    firewall = Firewall(module)
    if not firewall.installed and not module.check_mode and module.params["state"] == "present":
        module.fail_json(msg="ufw is not installed: the role pibot_base comes before this one")
    marker = Path(module.params["marker"])
    switched_on = marker.exists()
    before = sorted(f"{rule} # {comment}" for rule, comment in firewall.rules.items())
    if module.params["state"] == "present":
        if not module.params["ssh_ports"]:
            module.fail_json(msg="ssh_ports is empty: without SSH nobody could come back")
        plan(firewall, module.params["ssh_ports"], module.params["rules"])
    else:
        plan_removal(firewall, switched_on)
    lines = [" ".join(command) for command in firewall.commands]
    if not module.check_mode:
        if module.params["state"] == "present" and not firewall.active:
            marker.write_text("PiBot has switched ufw on; an uninstall switches it off again.\n")
        firewall.run()
    module.exit_json(
        changed=bool(lines),
        commands=lines,
        diff={"before": "\n".join(before) + "\n", "after": "\n".join([*before, *lines]) + "\n"} if lines else {},
    )


if __name__ == "__main__":
    main()
