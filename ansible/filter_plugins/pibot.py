"""Ansible filters: what the roles derive from the inventory and from the hosts' answers.

Each filter is a plain function of its arguments, so that tests call it without Ansible. The roles' vars/main.yml name
the results; `roles/pibot_fleet/README.md` lists those that more than one role reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DEFAULT_PORT = 5000
"""PiBot's default port; a worker on it needs no WORKER_N_PORT."""

PLACEHOLDER_KEYS = ("", "your_volc_api_key_here", "your_api_key")
"""Values of the model's key that count as none: the guide's examples have these placeholders."""

# --- the fleet's members ---


def number(host: str, given: object = None) -> int:
    """Return a worker's number: `given` (`pibot_number`), or the digits at the end of its name, or 0."""
    digits = re.search(r"[0-9]+$", host)
    return _int(given or (digits.group() if digits else 0))


def _int(value: object) -> int:
    """Return `value` as an integer, or 0 if it is not one; the problem that names it is reported later."""
    text = str(value).strip()
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else 0


def workers(hostvars: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    """Describe the workers `names` in the inventory's order, each as `{name, number, address, port}`.

    `hostvars` knows what the owner set for each: `pibot_number`, `pibot_address`, `ansible_host`, `pibot_port`.
    """
    found = []
    for name in names:
        known = hostvars[name]
        found.append(
            {
                "name": name,
                "number": number(name, known.get("pibot_number")),
                "address": known.get("pibot_address", known.get("ansible_host", name)),
                "port": _int(known.get("pibot_port", DEFAULT_PORT)),
            }
        )
    return found


def is_ipv4(address: object) -> bool:
    return re.fullmatch(r"[0-9.]+", str(address)) is not None


# --- keys ---


def token_files(
    fleet: Sequence[Mapping[str, Any]], path: str, given: Sequence[object], check: bool = False
) -> list[str]:
    """Return the file that holds each worker's token, in the order of `fleet`; the password lookup makes those missing.

    Args:
        fleet: the workers, as `workers` describes them.
        path: the files' common beginning; a worker's number follows.
        given: the token that the owner gave to each worker, or nothing.
        check: whether this is a check, which must make no file.

    A worker with a token of its owner's gets /dev/null, and so does a missing file during a check: the lookup makes up
    a token then and writes nothing.
    """
    files = []
    for worker, own in zip(fleet, given):
        file = f"{path}{worker['number']}"
        files.append("/dev/null" if own or (check and not Path(file).exists()) else file)
    return files


def tokens(fleet: Sequence[Mapping[str, Any]], given: Sequence[object], kept: Sequence[object]) -> dict[int, str]:
    """Return `{number: token}` of all workers: the owner's (`given`), else the one in its file (`kept`)."""
    return {worker["number"]: str(own or file) for worker, own, file in zip(fleet, given, kept)}


def files_in(folder: str) -> list[str]:
    """Return the paths of the files in `folder` on this computer, sorted; an empty list if it does not exist."""
    return sorted(str(path) for path in Path(folder).glob("*") if path.is_file())


# --- the lines of a .env ---


def workers_env(fleet: Iterable[Mapping[str, Any]], keys: Mapping[int, str]) -> dict[str, Any]:
    """Return the lines of the master's .env that name the workers and their tokens."""
    lines: dict[str, Any] = {}
    for worker in fleet:
        prefix = f"WORKER_{worker['number']}"
        lines[f"{prefix}_IP"] = worker["address"]
        lines[f"{prefix}_TOKEN"] = keys[worker["number"]]
        if worker["port"] != DEFAULT_PORT:
            lines[f"{prefix}_PORT"] = worker["port"]
    return lines


def previous_env(
    fleet: Sequence[Mapping[str, Any]], kept: Mapping[str, str], api_key: object, given: Sequence[object]
) -> dict[str, str]:
    """Return the lines of the master's .env that name the keys which a rotation replaces, so that it accepts both.

    Args:
        fleet: the workers, as `workers` describes them.
        kept: the old keys that the rotation has put aside, by the names of their files.
        api_key: the fleet's old key, where the owner keeps it in a vault.
        given: each worker's old token, where the owner keeps it in a vault.
    """
    lines = {"PIBOT_API_KEY_PREVIOUS": api_key or kept.get("api_key")}
    for worker, own in zip(fleet, given):
        old = own or kept.get(f"worker_token_{worker['number']}")
        lines[f"WORKER_{worker['number']}_TOKEN_PREVIOUS"] = old
    return {name: str(key) for name, key in lines.items() if key}


def without_master_keys(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return the owner's lines for every .env without those that hold keys which only the master uses."""
    return {name: value for name, value in env.items() if not name.startswith(("PIBOT_FALLBACK_", "PIBOT_KEY_"))}


def dotenv(lines: Mapping[str, Any]) -> str:
    """Write `lines` as a .env, quoted so that python-dotenv reads back each value unchanged."""
    return "\n".join(f"{name}={_quoted(str(value))}" for name, value in lines.items())


def _quoted(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_./:@+=,-]*", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def read_paths(env: Mapping[str, Any]) -> list[str]:
    """Return the absolute paths outside PiBot's folder that the owner's settings let a unit read."""
    text = f"{env.get('PIBOT_READ_PATHS', '')} {env.get('PIBOT_SKILLS_DIR', '')}"
    return [path for path in text.replace(",", " ").split() if path.startswith("/")]


def any_in_homes(paths: Iterable[str], home: str) -> bool:
    """Return whether one of `paths` is in a home: /home, /root or `home`."""
    homes = ("/home", "/root", home.rstrip("/"))
    return any(path == folder or path.startswith(f"{folder}/") for path in paths for folder in homes)


# --- releases, certificates, the firewall ---


def client_tls(root: str) -> dict[str, str]:
    """Return the options of `ansible.builtin.uri` that show a host's certificate; `root` is PiBot's folder there."""
    return {
        "client_cert": f"{root}/tls/host.crt",
        "client_key": f"{root}/tls/host.key",
        "ca_path": f"{root}/tls/ca.crt",
    }


def target(facts: Mapping[str, Any]) -> str:
    """Return the kind of host that wheels are built for, as `wheelhouse.py` takes it: `3.11.2,arm64,2.36`."""
    return f"{facts['python']},{facts['architecture']},{facts['glibc']}"


def certificate_names(names: Iterable[str], reported: str = "", more: Iterable[str] = ()) -> list[str]:
    """Return a certificate's subject alternative names, each once: `IP:192.168.10.66`, `DNS:worker-1`.

    Args:
        names: the host's names and addresses, from the inventory.
        reported: the host name that the host reports. It is added, also with `.local`, where it is one label.
        more: the owner's own.
    """
    wanted = list(names)
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", reported):
        wanted += [reported, f"{reported}.local"]
    wanted += more
    return [f"IP:{name}" if is_ipv4(name) or ":" in name else f"DNS:{name}" for name in dict.fromkeys(wanted)]


def master_rules(
    lan: Iterable[str],
    fleet: Iterable[Mapping[str, Any]],
    *,
    port: int,
    gateway: bool,
    rehearsal_port: int | None = None,
) -> list[dict[str, Any]]:
    """Return what the master's firewall lets in, as `pibot_ufw` takes it: `{from, port, why}`.

    Args:
        lan: the networks that may use the API and the dashboard.
        fleet: the workers, as `workers` describes them.
        port: the master's port.
        gateway: whether workers reach the model through the master. A worker outside `lan` needs a rule for that.
        rehearsal_port: the offline model's port, where the fleet uses that model. Without the gateway workers ask it
            directly.
    """
    rules = [{"from": network, "port": port, "why": "the API and the dashboard"} for network in lan]
    for worker in fleet:
        if gateway and is_ipv4(worker["address"]):
            rules.append({"from": worker["address"], "port": port, "why": "the model"})
        elif rehearsal_port is not None and not gateway:
            rules.append({"from": worker["address"], "port": rehearsal_port, "why": "the offline model"})
    return rules


# --- what the preflight refuses ---


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def host_problems(
    facts: Mapping[str, Any],
    *,
    architectures: Sequence[str],
    min_python: str,
    min_memory_mb: int,
    min_disk_mb: int,
    max_clock_skew: int,
    port: int,
    rehearsal_port: int,
    unit: str,
) -> list[str]:
    """Return why a host can't serve, each reason as a sentence that says what to do; an empty list if it can.

    Args:
        facts: the answer of probe.sh, and `skew`, the seconds between the host's clock and this computer's.
        architectures: those that PiBot installs on, as `dpkg --print-architecture` names them.
        min_python: the oldest Python that PiBot runs on.
        min_memory_mb: megabytes of memory that a host needs.
        min_disk_mb: megabytes that must be free in /home.
        max_clock_skew: seconds that the clocks may differ.
        port: PiBot's port on the host.
        rehearsal_port: the offline model's port, which `port` must not be.
        unit: PiBot's unit on the host. If it exists, it is the program that listens on `port`.
    """
    python = facts["python"]
    memory, disk, skew = (_int(facts[name]) for name in ("memory_mb", "disk_mb", "skew"))
    checks = [
        (
            "debian" in facts["family"],
            f"it runs {facts['os']}: install Raspberry Pi OS or Debian, 11 or newer",
        ),
        (
            facts["architecture"] in architectures and facts["machine"] != "armv6l",
            f"its architecture is {facts['architecture']} on {facts['machine']}, and there are wheels only for"
            f" {', '.join(architectures)} from ARMv7 on: use a newer board",
        ),
        (
            _version(python) >= _version(min_python),
            f"its python3 is {python or 'missing'}, and PiBot needs {min_python}: install a newer Raspberry Pi OS",
        ),
        (
            memory >= min_memory_mb,
            f"it has {memory} MB of memory, and PiBot needs {min_memory_mb}: use a board with more",
        ),
        (
            disk >= min_disk_mb,
            f"only {disk} MB are free in /home, and PiBot needs {min_disk_mb}: delete something or use a larger card",
        ),
        (
            skew <= max_clock_skew,
            f"its clock is {skew} s away from this computer's: run 'sudo timedatectl set-ntp true' on it and wait a"
            " minute",
        ),
        (bool(facts["systemd"]), "it has no systemd, which runs PiBot: install Raspberry Pi OS or Debian"),
        (
            bool(facts["netfilter"]),
            "the modules of its running kernel are missing, as after an upgrade, and ufw needs them: reboot it first",
        ),
        (
            1024 <= port < 65536 and port != rehearsal_port,
            f"pibot_port is {port}: set one from 1024 to 65535, but not {rehearsal_port}, which the offline model uses",
        ),
        (
            unit in (facts["units"] or ()) or port not in (facts["listening"] or ()),
            f"another program listens on its port {port}: stop it ('sudo ss -tlnp' names it), or set pibot_port",
        ),
    ]
    return [problem for good, problem in checks if not good]


def fleet_problems(
    fleet: Sequence[Mapping[str, Any]],
    *,
    role: str,
    number: int,
    masters: Sequence[str],
    master_address: str,
    model: str,
    model_key: object,
    gateway: bool,
    keys: Sequence[object] = (),
) -> list[str]:
    """Return why the inventory can't work for this host, each reason as a sentence that says what to do.

    Args:
        fleet: the workers, as `workers` describes them.
        role: this host's role, `master` or `worker`.
        number: this worker's number, or 0.
        masters: the hosts in [master].
        master_address: the master's address.
        model: the model's name.
        model_key: the model's key.
        gateway: whether workers reach the model through the master.
        keys: on the master, the fleet's key and each worker's.
    """
    numbers = [worker["number"] for worker in fleet]
    both = [worker["name"] for worker in fleet if worker["name"] in masters]
    named = [worker["address"] for worker in fleet if not is_ipv4(worker["address"])]
    checks = [
        (
            model == "rehearsal" or str(model_key) not in PLACEHOLDER_KEYS,
            "there is no key for the model: set pibot_volc_api_key in group_vars/all/vault.yml, or VOLC_API_KEY in this"
            " computer's environment, or use the offline model with -e pibot_model=rehearsal",
        ),
        (len(masters) == 1, f"the inventory has {len(masters)} hosts in [master]: name exactly one"),
        (not both, "it is in both [master] and [workers], which need the same port: leave it in one of them"),
        (role == "master" or number > 0, "its name ends in no number: give it one in the inventory, as pibot_number=4"),
        # The master's settings name all workers, also those outside --limit.
        (
            role == "worker" or min(numbers, default=1) > 0,
            "a worker in the inventory has a name that ends in no number: give it one, as pibot_number=4",
        ),
        (
            len(set(numbers)) == len(numbers),
            f"two workers have the same number ({', '.join(str(each) for each in numbers)}): give one of them another"
            " pibot_number",
        ),
        # The master recognises a worker by its token, and grants rights by it.
        (
            len({str(key) for key in keys}) == len(keys),
            "a worker's pibot_worker_token is also another worker's or the fleet's key: give each worker its own, or"
            " none and one is made",
        ),
        (
            is_ipv4(master_address),
            f"the firewall needs the master's IPv4 address, and {master_address} is none: add pibot_address=… to its"
            " line",
        ),
        (
            model != "rehearsal" or gateway or not named,
            "the offline model opens its port to the workers' IPv4 addresses, and"
            f" {named[0] if named else ''} is none: add pibot_address=… to its line",
        ),
    ]
    return [problem for good, problem in checks if not good]


class FilterModule:
    """Registers the functions above as filters with the prefix `pibot_`; Ansible looks for this class."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        functions = (
            *(number, workers, token_files, tokens, files_in),
            *(workers_env, previous_env, without_master_keys, dotenv, read_paths, any_in_homes),
            *(client_tls, target, certificate_names, master_rules, host_problems, fleet_problems),
        )
        return {f"pibot_{function.__name__}": function for function in functions}
