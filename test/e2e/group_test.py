#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""End to end: several control planes that keep one catalog, killed, stopped, paused, added and removed."""
import http.client
import json
import os
import signal
import socket
import subprocess
import threading

from harness import Skip, check, check_equal, eventually, needs_root, run_tests

# A busy machine must not cause elections that no test asked for.
PATIENCE = ("--election-timeout", "500ms")


def free_ports(count):
    """Members must know each other's ports before they start."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Group:
    """Three control planes; member i is self.roles[i]."""

    def __init__(self, cluster, size=3, patience=PATIENCE):
        self.cluster = cluster
        self.patience = patience
        ports = free_ports(size + 2)
        self.peers = {i + 1: f"127.0.0.1:{port}" for i, port in enumerate(ports)}
        self.size = size
        self.roles = {}
        self.ports = {}

    def start(self, member, *arguments, peers=None, **options):
        listed = peers or [m for m in self.peers if m <= self.size]
        rpc, admin = self.ports.get(member, ("127.0.0.1:0", "127.0.0.1:0"))
        role = self.cluster.start("control", "--rpc-listen", rpc, "--form-listen", "127.0.0.1:0", "--admin-listen", admin, "--peer-id", str(member),
                                  "--peers", ",".join(f"{m}={self.peers[m]}" for m in listed), "--state-dir", str(self.cluster.directory / f"member-{member}"),
                                  *self.patience, *arguments, **options)
        self.roles[member] = role
        self.ports[member] = (role.addresses["rpc"], role.addresses["admin"])
        self.cluster.admin = role.addresses["admin"]
        return role

    def start_all(self):
        for member in range(1, self.size + 1):
            self.start(member)
        return self.leader()

    def admin(self, member):
        return self.roles[member].addresses["admin"]

    def rpcs(self):
        return ",".join(role.addresses["rpc"] for role in self.roles.values())

    def leads(self, member):
        role = self.roles[member]
        if role.process.poll() is not None:
            return False
        try:
            status, _, body = self.cluster.request("/readyz", address=self.admin(member), timeout=5)
        except OSError:
            return False
        return status == 200 and b"leading" in body

    def leader(self, besides=()):
        return eventually(lambda: next((m for m in self.roles if m not in besides and self.leads(m)), None), "somebody leads")

    def follower(self):
        leader = self.leader()
        return next(m for m in self.roles if m != leader and self.roles[m].process.poll() is None)

    def call(self, member, method, path, body=None, timeout=30):
        status, headers, text = self.cluster.request(path, method=method, body=None if body is None else json.dumps(body), address=self.admin(member), timeout=timeout)
        return status, json.loads(text) if text.startswith((b"{", b"[")) else text

    def register(self, member, name, spec=None):
        """True when it is acknowledged."""
        try:
            status, _ = self.call(member, "PUT", f"/v1/functions/{name}?verify=0", spec or {"image": "builtin:hello"})
        except (OSError, http.client.HTTPException):
            return False
        return status in (200, 201)

    def names(self, member):
        status, body = self.call(member, "GET", "/v1/functions?names_only=1")
        check_equal(status, 200, str(body))
        return set(body["names"])


def test_any_member_answers(cluster):
    """three members: whichever is asked answers, and all give the same answer"""
    group = Group(cluster)
    leader = group.start_all()
    for member in group.roles:
        check(group.register(member, f"by-{member}"), f"member {member} did not register")
    for member in group.roles:
        eventually(lambda: group.names(member) == {"by-1", "by-2", "by-3"}, f"member {member} knows all functions")
    status, view = group.call(group.follower(), "GET", "/v1/control")
    check_equal(status, 200)
    check_equal((view["leader"], len(view["members"])), (leader, 3))
    cluster.admin = group.admin(group.follower())
    out, _ = cluster.ctl("control")
    check("leader" in out and "follower" in out, out)
    status, _, metrics = cluster.request("/metrics", address=group.admin(leader))
    for series in ("dirigent_group_term", "dirigent_group_leader 1", "dirigent_group_commit_index", "dirigent_group_lag_entries", "dirigent_group_commit_seconds"):
        check(series.encode() in metrics, f"{series} is missing")


def test_killed_leader(cluster):
    """kill -9 of the leader, five times: no acknowledged registration is lost, the killed one catches up"""
    group = Group(cluster)
    group.start_all()
    acknowledged = set()
    for round_number in range(5):
        for i in range(10):
            name = f"f-{round_number}-{i}"
            if group.register(group.follower(), name):
                acknowledged.add(name)
        leader = group.leader()
        group.roles[leader].kill()
        successor = group.leader(besides=(leader,))
        check(acknowledged <= group.names(successor), f"lost: {acknowledged - group.names(successor)}")
        name = f"after-{round_number}"
        check(group.register(successor, name), "the successor registers")
        acknowledged.add(name)
        group.start(leader)
    check(len(acknowledged) >= 50, f"only {len(acknowledged)} were acknowledged")
    for member in group.roles:
        eventually(lambda: group.names(member) == acknowledged, f"member {member} has them all")


def test_warm_traffic(cluster):
    """warm requests go on while leaders are killed; workers and data planes find the next one, and cold ones work again"""
    group = Group(cluster)
    group.start_all()
    # Both know all addresses; whoever does not lead points at the leader.
    cluster.worker(group.rpcs(), "--runtime", "simulated")
    data = cluster.data(group.rpcs())
    check(group.register(group.leader(), "warm"), "registered")
    eventually(lambda: cluster.request("/function/warm")[0] == 200, "the first call is answered")
    stop = threading.Event()
    answers = []

    def call():
        while not stop.is_set():
            try:
                answers.append(cluster.request("/function/warm")[0])
            except OSError as error:
                answers.append(str(error))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for _ in range(3):
            leader = group.leader()
            group.roles[leader].kill()
            successor = group.leader(besides=(leader,))
            name = f"cold-{successor}-{leader}"
            check(group.register(successor, name), "registered")
            eventually(lambda: cluster.request(f"/function/{name}")[0] == 200, f"a cold start through member {successor}")
            group.start(leader)
    finally:
        stop.set()
        caller.join()
    wrong = [one for one in answers if one != 200]
    check(not wrong, f"{len(wrong)} of {len(answers)} warm calls failed: {wrong[:5]}")
    check(data.process.poll() is None, "the data plane lives")


def test_no_majority(cluster):
    """two of three members dead: changes are refused within seconds with words, warm calls go on, and it heals"""
    group = Group(cluster)
    group.start_all()
    cluster.worker(group.rpcs(), "--runtime", "simulated")
    cluster.data(group.rpcs())
    check(group.register(group.leader(), "warm"), "registered")
    eventually(lambda: cluster.request("/function/warm")[0] == 200, "the first call is answered")
    survivor = group.leader()
    for member in list(group.roles):
        if member != survivor:
            group.roles[member].kill()
    eventually(lambda: not group.leads(survivor), "the survivor stops leading")
    status, problem = group.call(survivor, "PUT", "/v1/functions/refused?verify=0", {"image": "builtin:hello"})
    check_equal(status, 503)
    check("no control plane leads" in problem["detail"], problem)
    for _ in range(20):
        check_equal(cluster.request("/function/warm")[0], 200)
    other = next(m for m in group.roles if m != survivor)
    group.start(other)
    leader = group.leader()
    check(group.register(leader, "after"), "registers again")
    check_equal(group.names(leader), {"warm", "after"})


def test_hand_over(cluster):
    """SIGTERM of the leader: another one leads before it is gone, exit status 0"""
    group = Group(cluster)
    for _ in range(3):
        leader = group.start_all() if not group.roles else group.leader()
        check(group.register(leader, f"before-{leader}"), "registered")
        view = group.call(leader, "GET", "/v1/control")[1]
        check_equal(group.roles[leader].stop(), 0)
        check("stopping without a successor" not in group.roles[leader].output(), group.roles[leader].output())
        successor = group.leader(besides=(leader,))
        # Usually the next one; on a machine that is held up it may take a second election.
        check(group.call(successor, "GET", "/v1/control")[1]["term"] > view["term"], "a later term")
        group.start(leader)
        eventually(lambda: group.names(leader) == group.names(successor), "it has caught up")
    cluster.admin = group.admin(group.follower())
    before = group.leader()
    cluster.ctl("control", "hand-over")
    check(group.leader(besides=(before,)) != before, "handed over on demand")


def test_paused_leader(cluster):
    """a leader that was paused does not lead when it wakes, and what it is asked then is not lost"""
    group = Group(cluster)
    leader = group.start_all()
    check(group.register(leader, "before"), "registered")
    os.kill(group.roles[leader].pid, signal.SIGSTOP)
    try:
        successor = group.leader(besides=(leader,))
        check(group.register(successor, "meanwhile"), "registered")
    finally:
        os.kill(group.roles[leader].pid, signal.SIGCONT)
    eventually(lambda: not group.leads(leader), "the old one does not lead")
    check(group.register(leader, "afterwards"), "the old one passes it on")
    for member in group.roles:
        eventually(lambda: group.names(member) == {"before", "meanwhile", "afterwards"}, f"member {member} has one history")


def test_full_disk(cluster):
    """the leader's disk is full: it does not lead, the others register, and it catches up when there is room"""
    needs_root()
    group = Group(cluster)
    for member in (1, 2, 3):
        disk = cluster.directory / f"member-{member}"
        disk.mkdir()
        if member == 1 and subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True).returncode != 0:
            raise Skip("a small tmpfs cannot be mounted here")
        # In a mount namespace of its own, which ends with the process.
        group.start(member, inside=("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=96m tmpfs "{disk}" && exec "$@"', "sh"))
    full = group.leader()
    acknowledged = {f"before-{i}" for i in range(5) if group.register(full, f"before-{i}")}
    check_equal(len(acknowledged), 5, "acknowledged")
    filler = str(cluster.directory / f"member-{full}" / "filler")
    inside = ("nsenter", "-t", str(group.roles[full].pid), "-m")
    subprocess.run([*inside, "dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True)
    # Large ones: the log has taken some megabytes in advance.
    spec = {"image": "builtin:hello", "environment": {"FILLS": "x" * 200_000}}
    for i in range(40):
        name = f"meanwhile-{i}"
        # Whoever asks again gets it: the first one may find out that the leader cannot write.
        eventually(lambda: group.register(1 + i % 3, name, spec), f"{name} is registered")
        acknowledged.add(name)
    eventually(lambda: "cannot write and does not lead meanwhile" in group.roles[full].output(), "it says so")
    check(not group.leads(full), "a member that cannot write does not lead")
    check_equal(group.names(group.leader()), acknowledged)
    subprocess.run([*inside, "rm", filler], check=True)
    eventually(lambda: "can write again" in group.roles[full].output(), "it says so")

    def has_caught_up():
        members = group.call(group.leader(), "GET", "/v1/control")[1]["members"]
        return all(one.get("lag") == 0 for one in members)
    eventually(has_caught_up, "it has the whole log")
    for role in group.roles.values():
        check(role.process.poll() is None, "all live")


def test_removed_while_down(cluster):
    """a member that was removed while it was down learns it, says so and asks for no votes"""
    group = Group(cluster)
    group.start_all()
    group.roles[1].kill()  # it reaches the others by itself: members connect to those with larger ids
    leader = group.leader()
    eventually(lambda: group.call(leader, "DELETE", "/v1/control/members/1")[0] == 200, "it is removed")
    group.start(1)
    eventually(lambda: "has been removed from the group" in group.roles[1].output(), "it is told")
    term = group.call(leader, "GET", "/v1/control")[1]["term"]
    check(group.register(leader, "after"), "registered")
    check_equal(group.call(group.leader(), "GET", "/v1/control")[1]["term"], term, "the term")
    check_equal(group.roles[1].stop(), 0, "it ends in order")


def test_growing(cluster):
    """one control plane alone becomes a group of one, then of three; members go again"""
    alone = cluster.control("--state-dir", str(cluster.directory / "member-1"))
    status, _, _ = cluster.request("/v1/functions/old?verify=0", method="PUT", body='{"image": "builtin:hello"}', address=alone.addresses["admin"])
    check_equal(status, 201)
    check_equal(alone.stop(), 0)
    group = Group(cluster)
    refused = cluster.start("control", "--rpc-listen", "127.0.0.1:0", "--form-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--peer-id", "1", "--peers",
                            f"1={group.peers[1]},2={group.peers[2]}", "--state-dir", str(cluster.directory / "member-1"), expect_start=False)
    check(refused.wait() != 0, "a larger group would lose the functions")
    check("ctl control add" in refused.output(), refused.output())
    group.start(1, peers=[1])
    eventually(lambda: group.leads(1), "it leads")
    eventually(lambda: group.names(1) == {"old"}, "its functions are taken along")
    for member in (2, 3):
        group.start(member, "--peer-join", peers=[1, 2, 3])
        cluster.admin = group.admin(1)
        cluster.ctl("control", "add", f"{member}={group.peers[member]}")
        eventually(lambda: any(one["id"] == member and one["role"] == "follower" for one in group.call(1, "GET", "/v1/control")[1]["members"]), f"member {member} votes")
    group.roles[1].kill()
    leader = group.leader(besides=(1,))
    check(group.register(leader, "new"), "registered without the first")
    cluster.admin = group.admin(leader)
    cluster.ctl("control", "remove", "1")
    check_equal(len(group.call(leader, "GET", "/v1/control")[1]["members"]), 2)
    cluster.ctl("control", "remove", "7", check_status=3)
    cluster.ctl("control", "add", "nonsense", check_status=None)
    check_equal(group.names(leader), {"old", "new"})
    # The directory of a member is no longer one of a control plane alone.
    group.roles[leader].kill()
    refused = cluster.start("control", "--rpc-listen", "127.0.0.1:0", "--form-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
                            "--state-dir", str(cluster.directory / f"member-{leader}"), expect_start=False)
    check(refused.wait() != 0, "refused")
    check("--peer-id" in refused.output(), refused.output())


def test_restart_of_all(cluster):
    """all members killed at once: everything that was acknowledged is there again"""
    group = Group(cluster)
    group.start_all()
    acknowledged = {f"f-{i}" for i in range(30) if group.register(1 + i % 3, f"f-{i}")}
    check_equal(len(acknowledged), 30)
    for role in group.roles.values():
        role.kill()
    group.start_all()
    for member in group.roles:
        eventually(lambda: group.names(member) == acknowledged, f"member {member} has them all")


if __name__ == "__main__":
    run_tests(globals())
