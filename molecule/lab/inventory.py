#!/usr/bin/env python3
"""The lab's inventory: the guide's four machines and one outside host, as Ansible's dynamic inventory.

It is a program because a computer may hold two labs at once (`make up` and `molecule test`), each with a name and a
network of its own:

    PIBOT_LAB          the name (pibot-lab)
    PIBOT_LAB_NETWORK  the first three octets of its /24 network (10.213.10)

The groups and the hosts' names are those of ansible/inventory.ini; the last octets are the guide's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# host: (last octet, Debian release, group). Mixed releases, as a real home has them.
HOSTS = {
    "pibot-master": (113, "trixie", "master"),
    "worker-1": (66, "bookworm", "workers"),
    "worker-2": (67, "bullseye", "workers"),
    "worker-3": (68, "trixie", "workers"),
    # Not of the fleet: another machine in the same house, which must find the workers' doors closed.
    "outside": (200, "bookworm", "outsiders"),
}


def inventory(name: str, network: str) -> dict[str, object]:
    """Return the lab's hosts in the form of `ansible-inventory --list`.

    Args:
        name: the lab's name; the containers are called after it.
        network: the first three octets of its /24 network.
    """
    state = ROOT / ".cache" / "lab" / name
    hostvars = {
        host: {
            "ansible_host": f"{network}.{octet}",
            "lab_container": f"{name}-{host}",
            "lab_release": release,
        }
        for host, (octet, release, _) in HOSTS.items()
    }
    groups = {
        group: {"hosts": [host for host, (_, _, its_group) in HOSTS.items() if its_group == group]}
        for group in dict.fromkeys(group for _, _, group in HOSTS.values())
    }
    return {
        "_meta": {"hostvars": hostvars},
        "all": {
            "children": ["lab"],
            "vars": {"lab_name": name, "lab_network": network, "lab_state": str(state)},
        },
        "lab": {
            "children": list(groups),
            "vars": {
                "ansible_user": "pi",
                "ansible_ssh_private_key_file": f"{state}/id_ed25519",
                # Not the user's own ~/.ssh/config: it must not decide how the lab is reached.
                "ansible_ssh_common_args": f"-F {state}/ssh_config",
                # Connections kept open end with the lab, so none outlives the host it led to.
                "ansible_control_path_dir": f"{state}/cp",
                # The key of this lab's fleet ends with the lab.
                "pibot_secrets_dir": f"{state}/secrets",
                # The offline model: a lab needs no key.
                "pibot_model": "rehearsal",
                "pibot_tls": os.environ.get("PIBOT_LAB_TLS") == "1",
                "pibot_env": {
                    # A worker fetches nothing from the house it stands in, but the lab's page is served there.
                    "PIBOT_WEB_ALLOW": f"{network}.0/24",
                    # A worker that is silent for so long has lost its task; the default has patience with Wi-Fi.
                    "PIBOT_LEASE_SECONDS": "15",
                },
            },
        },
        **groups,
    }


if __name__ == "__main__":
    lab = inventory(os.environ.get("PIBOT_LAB", "pibot-lab"), os.environ.get("PIBOT_LAB_NETWORK", "10.213.10"))
    json.dump(lab, sys.stdout, indent=2)
