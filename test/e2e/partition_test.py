#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""End to end: a cluster of several hosts (network namespaces on a bridge) whose packets are dropped in silence.

    DIRIGENT=build-test/src/dirigent python3 test/e2e/partition_test.py [TEST...]

What took how long is printed as figures; it decides nothing.
"""
import http.client
import json
import os
import re
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hosts  # noqa: E402
from harness import Skip, check, check_equal, eventually, run_tests, unique_name  # noqa: E402

CONTROLS = ("control-1", "control-2", "control-3")
# Long enough for a busy machine, short enough for many elections in a test.
PATIENCE = ("--election-timeout", "250ms")
network = None


class Cut:
    """Three control planes, each on a host, and what is started beside them. Fixed ports: each host has its own."""

    def __init__(self, cluster):
        reason = hosts.missing()
        if reason:
            raise Skip(reason)
        global network
        network = network or hosts.Hosts([*CONTROLS, "worker-1", "worker-2", "data-1"])
        network.heal()
        self.cluster, self.net = cluster, network
        self.roles = {}
        peers = ",".join(f"{i}={self.net.addresses[name]}:7001" for i, name in enumerate(CONTROLS, 1))
        for i, name in enumerate(CONTROLS, 1):
            at = self.net.addresses[name]
            self.roles[name] = cluster.start("control", "--peer-id", str(i), "--peers", peers, "--rpc-listen", f"{at}:7002", "--admin-listen", f"{at}:7003",
                                             "--form-listen", "127.0.0.1:0", "--state-dir", str(cluster.directory / name), *PATIENCE, inside=self.net.inside(name))
        self.rpcs = ",".join(f"{self.net.addresses[name]}:7002" for name in CONTROLS)
        self.leader()

    def worker(self, name, *arguments):
        self.roles[name] = self.cluster.start("worker", "--control", self.rpcs, "--node-name", unique_name(name), "--runtime", "simulated", "--publish-host", self.net.addresses[name],
                                              "--admin-listen", f"{self.net.addresses[name]}:7004", "--drain-time", "1s", *arguments, inside=self.net.inside(name))

    def data(self, name):
        at = self.net.addresses[name]
        self.roles[name] = self.cluster.start("data", "--control", self.rpcs, "--listen", f"{at}:7005", "--admin-listen", f"{at}:7006", "--connect-timeout", "300ms",
                                              inside=self.net.inside(name))
        self.cluster.invoke_address = f"{at}:7005"

    def ask(self, name, method, path, body=None, timeout=5):
        """(0, b"") when there is no answer."""
        try:
            status, _, answer = self.cluster.request(path, method, body, address=f"{self.net.addresses[name]}:7003", timeout=timeout)
            return status, answer
        except (OSError, http.client.HTTPException):
            return 0, b""

    def register(self, name, function, timeout=5, **fields):
        return self.ask(name, "PUT", f"/v1/functions/{function}?verify=0", json.dumps({"image": "builtin:hello", **fields}), timeout)[0] in (200, 201)

    def registered(self, function, **fields):
        """The leader that has acknowledged it: on a busy machine it may change while it is asked."""
        def tried():
            name = self.leader()
            return self.register(name, function, **fields) and name
        return eventually(tried, f"{function} is registered")

    def leads(self, name):
        status, body = self.ask(name, "GET", "/readyz", timeout=1)
        return status == 200 and b"leading" in body

    def leader(self, among=CONTROLS):
        return eventually(lambda: next((name for name in among if self.leads(name)), None), "somebody leads")

    def others(self, name):
        return [one for one in CONTROLS if one != name]

    def names(self, name):
        status, body = self.ask(name, "GET", "/v1/functions?names_only=1")
        return set(json.loads(body)["names"]) if status == 200 else None

    def one_history(self, acknowledged):
        """All members have the same functions, with all that was acknowledged."""
        def same():
            seen = [self.log_of(name) for name in CONTROLS]
            return None not in seen and seen[0] == seen[1] == seen[2]
        eventually(same, "all members have the whole log")
        names = eventually(lambda: self.names(self.leader()), "the functions are listed")
        check(acknowledged <= names, f"lost: {acknowledged - names}")
        # Each member leads once: its own copy is asked.
        for name in CONTROLS:
            for _ in range(10):
                if self.leads(name):
                    break
                self.ask(self.leader(), "POST", "/v1/control/hand-over")
            if self.leads(name):
                check_equal(self.names(name), names, f"the functions of {name}")
        return names

    def log_of(self, name):
        status, body = self.ask(name, "GET", "/metrics")
        if status != 200:
            return None
        found = re.search(rb"^dirigent_group_commit_index (\S+)$", body, re.M)
        return found and found.group(1)

    def term(self, name):
        status, body = self.ask(name, "GET", "/metrics")
        found = re.search(rb"^dirigent_group_term (\S+)$", body, re.M) if status == 200 else None
        return float(found.group(1)) if found else 0


def figure(name, began):
    print(f"figure={name} took_ms={(time.monotonic() - began) * 1000:.0f}", flush=True)


def test_leader_and_members(cluster):
    """a leader that reaches its clients and no other member acknowledges nothing; one history after healing"""
    cut = Cut(cluster)
    leader = cut.registered("before")
    cut.net.isolate(leader, cut.others(leader))
    # Taken before it has noticed anything, and asked until long after.
    answers = []
    asked = [threading.Thread(target=lambda i=i: answers.append(cut.register(leader, f"minority-{i}", timeout=8))) for i in range(5)]
    for one in asked:
        one.start()
    began = time.monotonic()
    eventually(lambda: any(cut.register(one, "majority") for one in cut.others(leader)), "the majority registers")
    figure("majority_registers", began)
    eventually(lambda: not cut.leads(leader), "the old leader stops leading")
    began = time.monotonic()
    status, body = cut.ask(leader, "PUT", "/v1/functions/refused?verify=0", json.dumps({"image": "builtin:hello"}), timeout=30)
    figure("minority_refuses", began)
    check_equal(status, 503, body)
    check(b"no control plane leads" in body, body)
    for one in asked:
        one.join()
    check(not any(answers), f"the minority acknowledged something: {answers}")
    cut.net.heal()
    began = time.monotonic()
    eventually(lambda: cut.names(leader) is not None, "the old leader answers for the group again")
    figure("healed", began)
    names = cut.one_history({"before", "majority"})
    check("refused" not in names, "what was refused was not made")
    eventually(lambda: cut.register(leader, "after"), "the old leader passes registrations on")


def test_silent_leader(cluster):
    """a leader whose packets are all dropped: the others register soon, and it does nothing when it is back"""
    cut = Cut(cluster)
    acknowledged = set()
    for round_number in range(3):
        leader = cut.registered(f"before-{round_number}")
        rest = cut.others(leader)
        cut.net.isolate(leader, [*rest, "client", "worker-1", "worker-2", "data-1"])
        began = time.monotonic()
        name = f"after-{round_number}"
        eventually(lambda: any(cut.register(one, name, timeout=1) for one in rest), "the others register")
        figure("silent_leader_until_registered", began)
        acknowledged |= {f"before-{round_number}", name}
        term = max(cut.term(one) for one in rest)
        cut.net.heal()
        eventually(lambda: cut.term(leader) >= term and not (cut.leads(leader) and cut.term(leader) == term), "it follows")
    cut.one_history(acknowledged)


def test_one_way(cluster):
    """a leader that is heard by nobody, and one that hears nobody, is replaced and acknowledges nothing"""
    cut = Cut(cluster)
    acknowledged = set()
    for direction in ("sends nothing", "hears nothing"):
        leader = cut.leader()
        rest = cut.others(leader)
        if direction == "sends nothing":
            cut.net.cut([leader], rest)
        else:
            cut.net.cut(rest, [leader])
        wrong = f"wrong-{leader}-{direction.split()[0]}"
        check(not cut.register(leader, wrong, timeout=3), f"a leader that {direction} acknowledged something")
        successor = cut.leader(among=rest)
        name = f"right-{direction.split()[0]}"
        eventually(lambda: cut.register(successor, name), "the others register")
        acknowledged.add(name)
        cut.net.heal()
        eventually(lambda: all(cut.names(one) is not None for one in CONTROLS), "all answer")
    cut.one_history(acknowledged)


def sandboxes(cut, function):
    status, body = cut.ask(cut.leader(), "GET", f"/v1/functions/{function}")
    return json.loads(body)["status"]["sandboxes"] if status == 200 else []


def test_worker(cluster):
    """a worker that is silently cut off is noticed within seconds, its capacity is restored, and its orphans go when it is back"""
    cut = Cut(cluster)
    for name in ("worker-1", "worker-2"):
        cut.worker(name)
    cut.data("data-1")
    cut.registered("kept", scale_min=4, scale_max=4)
    eventually(lambda: sum(one["state"] == "ready" for one in sandboxes(cut, "kept")) == 4, "four sandboxes are ready")
    check_equal({one["node"].rsplit("-", 2)[0] for one in sandboxes(cut, "kept")}, {"worker-1", "worker-2"}, "where they are")
    eventually(lambda: cluster.request("/function/kept")[0] == 200, "it answers")
    cut.net.isolate("worker-1", [*CONTROLS, "data-1", "worker-2"])
    began = time.monotonic()
    eventually(lambda: sum(one["state"] == "ready" and one["node"].startswith("worker-2") for one in sandboxes(cut, "kept")) == 4, "four are ready elsewhere")
    figure("worker_cut_until_restored", began)
    for _ in range(20):
        check_equal(cluster.request("/function/kept")[0], 200, "a call")

    def running():
        _, _, body = cluster.request("/metrics", address=f"{cut.net.addresses['worker-1']}:7004")
        return int(re.search(rb"^dirigent_worker_sandboxes\{.*\} (\d+)$", body, re.M).group(1))

    check(running() > 0, "its sandboxes are there meanwhile")
    cut.net.heal()
    began = time.monotonic()

    def settled():
        status, body = cut.ask(cut.leader(), "GET", "/v1/nodes")
        nodes = {one["name"].rsplit("-", 2)[0]: one for one in json.loads(body)["nodes"]} if status == 200 else {}
        here = nodes.get("worker-1")
        return here and here["status"] == "ready" and here["sandboxes"] == running() and len(sandboxes(cut, "kept")) == 4

    eventually(settled, "the leader knows what it runs, and there are four in all")
    figure("worker_back_until_no_orphans", began)


def test_data_plane(cluster):
    """a data plane that no control plane reaches goes on with what it has, and learns the rest afterwards"""
    cut = Cut(cluster)
    cut.worker("worker-1")
    cut.data("data-1")
    cut.registered("warm", scale_min=1)
    eventually(lambda: cluster.request("/function/warm")[0] == 200, "it answers")
    cut.net.isolate("data-1", CONTROLS)
    status = cut.ask(cut.leader(), "PUT", "/v1/functions/meanwhile?verify=0", json.dumps({"image": "builtin:hello"}), timeout=30)[0]
    check_equal(status, 201, "a registration does not wait for a data plane that is cut off")
    until = time.monotonic() + 4  # longer than it takes both sides to notice
    count = 0
    while time.monotonic() < until:
        check_equal(cluster.request("/function/warm")[0], 200, f"warm call {count}")
        count += 1
    print(f"figure=data_plane_cut warm={count} failed=0", flush=True)
    check_equal(cluster.request("/function/meanwhile")[0], 404)
    cut.net.heal()
    began = time.monotonic()
    eventually(lambda: cluster.request("/function/meanwhile")[0] == 200, "it learns what was registered")
    figure("data_plane_healed", began)


def test_bad_links(cluster):
    """one packet in ten is lost between the members: registrations go on, and none is lost"""
    cut = Cut(cluster)
    print("delay: " + ("with netem" if hosts.can_delay() else "not tried, this kernel has no netem; loss is made by nftables"), flush=True)
    if hosts.can_delay():
        for name in CONTROLS:
            hosts.run(*cut.net.inside(name), "tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "10ms", "5ms")
    cut.net.lossy(CONTROLS)
    acknowledged = set()
    slowest = 0.0
    for number in range(40):
        began = time.monotonic()
        name = f"f-{number}"
        if cut.register(CONTROLS[number % 3], name, timeout=10):
            acknowledged.add(name)
        slowest = max(slowest, time.monotonic() - began)
    print(f"figure=lossy_links acknowledged={len(acknowledged)} of=40 slowest_ms={slowest * 1000:.0f}", flush=True)
    check(len(acknowledged) >= 20, f"only {len(acknowledged)} of 40 were acknowledged")
    if hosts.can_delay():
        for name in CONTROLS:
            hosts.run(*cut.net.inside(name), "tc", "qdisc", "delete", "dev", "eth0", "root")
    cut.net.heal()
    cut.one_history(acknowledged)


if __name__ == "__main__":
    if not hosts.missing():
        hosts.enter()
    run_tests(globals())
