# SPDX-License-Identifier: MIT
"""Hosts of a small network, as network namespaces on a bridge, and links between them that drop packets in silence.

The program that uses it runs in a network namespace of its own (enter() starts it anew there): the bridge is in that one,
and the program is a host on it, too. Namespaces, links and rules have no names: they end with the processes that hold
them, however those end.
"""
import atexit
import os
import pathlib
import shutil
import subprocess
import sys

from harness import eventually

SUBNET = "10.98.0"  # seen by nobody outside
MARK = "DIRIGENT_IN_OWN_NETWORK"


def missing():
    """Why this cannot be had here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root: namespaces, bridges and packet filters cannot be made without it"
    for program in ("ip", "nft", "unshare", "nsenter"):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            return f"needs {program}"
    tried = subprocess.run(["unshare", "--net", "sh", "-c", "ip link add br0 type bridge && nft 'add table bridge t; add chain bridge t c { type filter hook forward priority 0; }'"],
                           capture_output=True, text=True)
    return f"this kernel has no bridges with packet filters in namespaces: {tried.stderr.strip()}" if tried.returncode != 0 else ""


def enter():
    """Goes on in a network namespace of its own."""
    if MARK not in os.environ:
        os.environ[MARK] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def run(*words, text=None):
    done = subprocess.run(words, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


def can_delay():
    """Whether the kernel has netem."""
    return subprocess.run(["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"], capture_output=True).returncode == 0


class Hosts:
    """`names` on one bridge; each has an address. `inside(name)` are the words that run a command there."""

    def __init__(self, names):
        self.addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(names, 1)}
        self.holders = {}
        self.cuts = set()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "address", "add", f"{SUBNET}.254/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        pair = "ip saddr . ip daddr"
        hooks = "\n".join(f"chain {hook} {{ type filter hook {hook} priority 0; {pair} @cuts drop; {pair} @lossy numgen random mod 100 < 10 drop; }}"
                          for hook in ("input", "forward", "output"))
        run("nft", "-f", "-", text=f"table bridge faults {{\nset cuts {{ type ipv4_addr . ipv4_addr; }}\nset lossy {{ type ipv4_addr . ipv4_addr; }}\n{hooks}\n}}\n")
        own = os.readlink("/proc/self/ns/net")
        for number, name in enumerate(names, 1):
            # Ends with this process: then its input does.
            holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            self.holders[name] = holder
            eventually(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own and pathlib.Path(f"/proc/{holder.pid}/comm").read_text().strip() == "cat", "a namespace is there")
            run("ip", "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            run("ip", "link", "set", f"port{number}", "master", "br0", "up")
            for words in (("address", "add", f"{self.addresses[name]}/24", "dev", "eth0"), ("link", "set", "eth0", "up"), ("link", "set", "lo", "up")):
                run(*self.inside(name), "ip", *words)
        self.addresses["client"] = f"{SUBNET}.254"
        atexit.register(self.close)

    def inside(self, name):
        return ("nsenter", f"--net=/proc/{self.holders[name].pid}/ns/net")

    def change(self, action, kind, pairs):
        text = ", ".join(f"{self.addresses[a]} . {self.addresses[b]}" for a, b in pairs)
        if text:
            run("nft", action, "element", "bridge", "faults", kind, f"{{ {text} }}")

    def cut(self, sources, targets):
        """One way: what the first ones send to the others is dropped from now on, open connections included."""
        pairs = {(a, b) for a in sources for b in targets if a != b} - self.cuts
        self.cuts |= pairs
        self.change("add", "cuts", pairs)

    def isolate(self, name, others):
        """Both ways."""
        self.cut([name], others)
        self.cut(others, [name])

    def lossy(self, names):
        """One packet in ten between any two of them is lost."""
        self.change("add", "lossy", {(a, b) for a in names for b in names if a != b})

    def heal(self):
        self.cuts.clear()
        for kind in ("cuts", "lossy"):
            run("nft", "flush", "set", "bridge", "faults", kind)

    def close(self):
        for holder in self.holders.values():
            holder.stdin.close()
            holder.wait()
        self.holders.clear()
        subprocess.run(["ip", "link", "delete", "br0"], capture_output=True)
        subprocess.run(["nft", "delete", "table", "bridge", "faults"], capture_output=True)
