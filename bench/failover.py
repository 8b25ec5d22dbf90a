#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Question: how long is a group of three control planes without a leader, and is anything lost meanwhile? In milliseconds.

Starts three `dirigent control`, a `dirigent worker` of simulated sandboxes and a `dirigent data` on loopback, and three
etcd beside them, in the same run, at the fastest setting that is stable (heartbeat 10 ms, election 50 ms). Both are asked
the same way: from the moment of the kill a new attempt to write begins at each survivor every 5 ms, on connections of
their own, and the first acknowledgement counts.

  bench/failover.py PATH_OF_DIRIGENT [FIGURE...] [--rounds N] [--kills N] [--markdown FILE]
                                                      FIGURE: kill silent partition sigterm cold warm lost etcd

  kill     kill -9 of the leader until the next acknowledged registration
  silent   SIGSTOP of the leader (its connections stay open) until the next acknowledged registration
  partition  all packets of the leader's host are dropped (hosts are network namespaces on a bridge; needs root) until the
           next acknowledged registration; of etcd, too
  sigterm  the longest gap between acknowledged registrations of one client around a SIGTERM of the leader
  cold     kill -9 of the leader until the first call of a function that has no sandbox is answered
  warm     calls of a warm function at 1,000 a second during `rounds` kills: how many failed
  lost     kills at random moments under a stream of registrations: how many that were acknowledged are not there
  etcd     kill and silent, of etcd

Prints key=value lines; exit status 1 when a call failed or a registration was lost.
"""
import argparse
import base64
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from report import machine, quantile, say, write_markdown

harness = None  # test/e2e/harness.py, once DIRIGENT names the binary
ATTEMPT_INTERVAL_S = 0.005
WARM_THREADS = 4
WARM_RATE = 1000


def milliseconds(began):
    return (time.monotonic() - began) * 1000


def request(address, method, path, body=None, timeout=5.0):
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        connection.request(method, path, body=body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def until_acknowledged(attempts, limit_s=10.0):
    """Begins `attempts` (one function per survivor) again every 5 ms; milliseconds until one of them says True."""
    began = time.monotonic()
    done = threading.Event()
    took = []

    def attempt(one):
        try:
            if one() and not done.is_set():
                took.append(milliseconds(began))
                done.set()
        except (OSError, http.client.HTTPException):
            pass

    while not done.is_set() and time.monotonic() - began < limit_s:
        for one in attempts:
            threading.Thread(target=attempt, args=(one,), daemon=True).start()
        done.wait(ATTEMPT_INTERVAL_S)
    if not took:
        raise SystemExit("nothing was acknowledged within 10 s")
    return min(took)


class Dirigent:
    """Three control planes on ports that stay the same over restarts."""

    def __init__(self, cluster, net=None):
        self.cluster, self.net = cluster, net
        ports = free_ports(9)
        self.ports = {m: [f"{address_of(net, m)}:{port}" for port in ports[3 * (m - 1):3 * m]] for m in (1, 2, 3)}
        self.roles = {}
        self.serial = 0
        for member in self.ports:
            self.start(member)
        self.leader()

    def start(self, member):
        peer, rpc, admin = self.ports[member]
        self.roles[member] = self.cluster.start(
            "control", "--peer-id", str(member), "--peers", ",".join(f"{m}={p[0]}" for m, p in self.ports.items()), "--rpc-listen", rpc, "--admin-listen", admin,
            "--form-listen", "127.0.0.1:0", "--state-dir", str(self.cluster.directory / f"member-{member}"), "--log-level", "warn", inside=inside(self.net, member))

    def rpcs(self):
        return ",".join(ports[1] for ports in self.ports.values())

    def leads(self, member):
        try:
            return b"leading" in request(self.ports[member][2], "GET", "/readyz")[1]
        except (OSError, http.client.HTTPException):
            return False

    def leader(self, besides=0):
        return harness.eventually(lambda: next((m for m in self.roles if m != besides and self.roles[m].process.poll() is None and self.leads(m)), None), "somebody leads")

    def settle(self):
        """Until every member has the whole log."""
        def settled():
            try:
                view = json.loads(request(self.ports[self.leader()][2], "GET", "/v1/control")[1])
            except (OSError, http.client.HTTPException, ValueError):
                return False
            return all(one.get("lag") == 0 and one.get("match", 0) > 0 for one in view["members"])
        harness.eventually(settled, "all members are up to date")
        time.sleep(0.3)  # so that rounds do not begin in the wake of each other

    def register(self, member, name=None, timeout=5.0):
        self.serial += 1
        name = name or f"f-{self.serial}"
        status, _ = request(self.ports[member][2], "PUT", f"/v1/functions/{name}?verify=0", '{"image": "builtin:hello"}', timeout)
        return status in (200, 201)

    def names(self):
        return set(json.loads(request(self.ports[self.leader()][2], "GET", "/v1/functions?names_only=1", timeout=30)[1])["names"])

    def survivors(self, dead):
        return [lambda member=member: self.register(member) for member in self.roles if member != dead]

    def kill(self, member):
        self.roles[member].kill()

    def pid(self, member):
        return self.roles[member].pid


class Etcd:
    """Three etcd, asked through their HTTP gateway."""

    def __init__(self, directory, net=None):
        self.net = net
        ports = free_ports(6)
        self.client = {m: f"{address_of(net, m)}:{ports[m - 1]}" for m in (1, 2, 3)}
        self.peer = {m: f"{address_of(net, m)}:{ports[m + 2]}" for m in (1, 2, 3)}
        self.directory = directory
        self.processes = {}
        self.serial = 0
        self.state = "new"
        for member in self.client:
            self.start(member)
        self.leader()

    def start(self, member):
        self.processes[member] = subprocess.Popen(
            [*inside(self.net, member), "etcd", "--name", f"m{member}", "--data-dir", f"{self.directory}/m{member}", "--listen-client-urls", f"http://{self.client[member]}",
             "--advertise-client-urls", f"http://{self.client[member]}", "--listen-peer-urls", f"http://{self.peer[member]}",
             "--initial-advertise-peer-urls", f"http://{self.peer[member]}", "--initial-cluster", ",".join(f"m{m}=http://{p}" for m, p in self.peer.items()),
             "--initial-cluster-state", "new", "--heartbeat-interval", "10", "--election-timeout", "50", "--log-level", "fatal"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def status(self, member):
        try:
            return json.loads(request(self.client[member], "POST", "/v3/maintenance/status", "{}")[1])
        except (OSError, http.client.HTTPException, ValueError):
            return {}

    def leader(self, besides=0):
        def found():
            for member in self.processes:
                status = self.status(member) if member != besides else {}
                if status.get("leader", "0") != "0" and status["leader"] == status["header"]["member_id"]:
                    return member
            return None
        return harness.eventually(found, "etcd has a leader")

    def settle(self):
        def accepts():
            try:
                return all(self.put(member) for member in self.processes)
            except (OSError, http.client.HTTPException):
                return False
        self.leader()
        harness.eventually(accepts, "etcd accepts writes")
        time.sleep(0.5)

    def put(self, member):
        self.serial += 1
        body = json.dumps({"key": base64.b64encode(f"k{self.serial}".encode()).decode(), "value": base64.b64encode(b'{"image": "builtin:hello"}').decode()})
        return request(self.client[member], "POST", "/v3/kv/put", body)[0] == 200

    def survivors(self, dead):
        return [lambda member=member: self.put(member) for member in self.processes if member != dead]

    def kill(self, member):
        self.processes[member].kill()
        self.processes[member].wait()

    def pid(self, member):
        return self.processes[member].pid

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


def address_of(net, member):
    return net.addresses[f"host-{member}"] if net else "127.0.0.1"


def inside(net, member):
    return net.inside(f"host-{member}") if net else ()


def free_ports(count):
    import socket
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def kills(group, rounds):
    took = []
    for _ in range(rounds):
        group.settle()
        leader = group.leader()
        group.kill(leader)
        took.append(until_acknowledged(group.survivors(leader)))
        group.start(leader)
    return took


def silences(group, rounds):
    took = []
    for _ in range(rounds):
        group.settle()
        leader = group.leader()
        os.kill(group.pid(leader), signal.SIGSTOP)
        try:
            took.append(until_acknowledged(group.survivors(leader)))
        finally:
            os.kill(group.pid(leader), signal.SIGCONT)
    return took


def partitions(group, rounds):
    """Neither its clients nor the other members reach the leader, and nobody is told."""
    took = []
    for _ in range(rounds):
        group.settle()
        leader = group.leader()
        group.net.isolate(f"host-{leader}", [name for name in group.net.addresses if name != f"host-{leader}"])
        try:
            took.append(until_acknowledged(group.survivors(leader)))
        finally:
            group.net.heal()
    return took


def partition_rows(binary_has_etcd, rounds):
    """Both groups on three hosts, one after the other."""
    import hosts
    net = hosts.Hosts([f"host-{member}" for member in (1, 2, 3)])
    beside = "-"
    if binary_has_etcd:
        directory = tempfile.mkdtemp(prefix="dirigent-etcd-")
        etcd = Etcd(directory, net)
        try:
            beside = summary("etcd_partition", partitions(etcd, rounds))
        finally:
            etcd.close()
            shutil.rmtree(directory, ignore_errors=True)
    with harness.new_cluster() as cluster:
        ours = summary("partition", partitions(Dirigent(cluster, net), rounds))
    net.close()
    return [("leader's host cut off silently until the next acknowledged registration", ours, beside, "p99 <= 250 ms")]


def sigterms(group, rounds):
    """One client after another writes to a member that stays; the longest time between two acknowledgements."""
    gaps = []
    for _ in range(rounds):
        group.settle()
        leader = group.leader()
        member = next(m for m in group.roles if m != leader)
        stop = threading.Event()
        times = []

        def write():
            while not stop.is_set():
                try:
                    if group.register(member):
                        times.append(time.monotonic())
                except (OSError, http.client.HTTPException):
                    pass

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.3)
        status = group.roles[leader].stop()
        time.sleep(0.3)
        stop.set()
        writer.join()
        if status != 0:
            raise SystemExit(f"a stopped leader ended with status {status}")
        gaps.append(max(b - a for a, b in zip(times, times[1:])) * 1000)
        group.start(leader)
    return gaps


class Calls:
    """Warm calls at a steady rate from a few threads with kept connections."""

    def __init__(self, address, path):
        self.address, self.path = address, path
        self.stop = threading.Event()
        self.counts = []
        self.wrong = []
        self.threads = [threading.Thread(target=self.run) for _ in range(WARM_THREADS)]
        for thread in self.threads:
            thread.start()

    def run(self):
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        count = 0
        due = time.monotonic()
        while not self.stop.is_set():
            due += WARM_THREADS / WARM_RATE
            time.sleep(max(0.0, due - time.monotonic()))
            count += 1
            try:
                connection.request("GET", self.path)
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.wrong.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(str(error))
                connection.close()
        self.counts.append(count)
        connection.close()

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        return sum(self.counts), self.wrong


def colds(group, cluster, rounds, invoke):
    """A function that was never called, through the leader that comes after the kill."""
    took = []
    for number in range(rounds):
        group.settle()
        name = f"cold-{number}-{random.randrange(10**9)}"
        leader = group.leader()
        harness.eventually(lambda: group.register(leader, name), "the function is registered")
        time.sleep(2.0)  # the roster of who has joined is a second old at most
        group.kill(leader)
        began = time.monotonic()
        while True:
            try:
                answer = request(invoke, "GET", f"/function/{name}", timeout=30)
                if answer[0] == 200:
                    break
            except (OSError, http.client.HTTPException) as error:
                answer = error
            if time.monotonic() - began > 30:
                raise SystemExit(f"a cold call was not answered within 30 s: {answer}")
        took.append(milliseconds(began))
        group.start(leader)
    return took


def losses(group, count, seed):
    """(acknowledged, lost): registrations at all members while leaders are killed at random moments."""
    chance = random.Random(seed)
    acknowledged = set()
    stop = threading.Event()
    lock = threading.Lock()

    def write(number):
        serial = 0
        while not stop.is_set():
            serial += 1
            name = f"l-{number}-{serial}"
            try:
                if group.register(1 + (serial + number) % 3, name):
                    with lock:
                        acknowledged.add(name)
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.01)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    for number in range(count):
        time.sleep(chance.random() * 0.3)
        leader = group.leader()
        group.kill(leader)
        time.sleep(chance.random() * 0.05)
        if number % 10 == 9:  # and now and then all of them at once
            for member in group.roles:
                group.kill(member)
            for member in group.roles:
                group.start(member)
        else:
            group.start(leader)
    stop.set()
    for writer in writers:
        writer.join()
    group.settle()
    return acknowledged, acknowledged - group.names()


def summary(figure, values, **more):
    say(figure=figure, rounds=len(values), p50_ms=quantile(values, 0.5), p99_ms=quantile(values, 0.99), max_ms=max(values), **more)
    return f"{quantile(values, 0.5):.1f} / {quantile(values, 0.99):.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("figures", nargs="*")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--markdown", type=pathlib.Path)
    options = parser.parse_args()
    wanted = set(options.figures) or {"kill", "silent", "sigterm", "cold", "warm", "lost", "etcd"}
    os.environ["DIRIGENT"] = options.binary
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "test" / "e2e"))
    global harness
    import harness as imported
    harness = imported
    rows = []
    failed = False
    beside = {}
    if "partition" in wanted:
        import hosts
        if reason := hosts.missing():
            raise SystemExit(f"partition: {reason}")
        hosts.enter()
        rows += partition_rows(shutil.which("etcd") is not None, options.rounds)
    if "etcd" in wanted:
        if shutil.which("etcd") is None:
            raise SystemExit("etcd is not installed: apt-get install etcd-server")
        directory = tempfile.mkdtemp(prefix="dirigent-etcd-")
        etcd = Etcd(directory)
        try:
            beside["kill"] = summary("etcd_kill", kills(etcd, options.rounds))
            beside["silent"] = summary("etcd_silent", silences(etcd, options.rounds))
        finally:
            etcd.close()
            shutil.rmtree(directory, ignore_errors=True)
    with harness.new_cluster() as cluster:
        group = Dirigent(cluster)
        cluster.worker(group.rpcs(), "--runtime", "simulated", "--log-level", "error")
        invoke = cluster.data(group.rpcs(), "--log-level", "error").addresses["invoke"]
        group.register(group.leader(), "warm")
        harness.eventually(lambda: request(invoke, "GET", "/function/warm", timeout=30)[0] == 200, "the warm function answers")
        for name, measure, title, target in (
                ("kill", kills, "`kill -9` of the leader until the next acknowledged registration", "p99 <= 50 ms"),
                ("silent", silences, "leader paused (connections open) until the next acknowledged registration", "p99 <= 250 ms"),
                ("sigterm", sigterms, "SIGTERM of the leader: longest gap between acknowledged registrations of one client", "<= 100 ms")):
            if name in wanted:
                rows.append((title, summary(name, measure(group, options.rounds)), beside.get(name, "-"), target))
        if "cold" in wanted:
            rows.append(("`kill -9` of the leader until the first cold call is answered", summary("cold", colds(group, cluster, options.rounds, invoke)), "-", "<= 200 ms"))
        if "warm" in wanted:  # apart from the others: the calls and their threads would take the time of what is measured
            calls = Calls(invoke, "/function/warm")
            kills(group, options.rounds)
            count, wrong = calls.end()
            say(figure="warm", calls=count, failed=len(wrong), first=wrong[:1])
            failed |= bool(wrong)
            rows.append((f"warm calls during {options.rounds} kills: calls / failed", f"{count:,} / {len(wrong)}", "-", "0 failed"))
        if "lost" in wanted:
            acknowledged, lost = losses(group, options.kills, options.seed)
            say(figure="lost", kills=options.kills, seed=options.seed, acknowledged=len(acknowledged), lost=len(lost))
            failed |= bool(lost)
            rows.append((f"{options.kills} kills at random moments: acknowledged / lost registrations", f"{len(acknowledged):,} / {len(lost)}", "-", "0 lost"))
    if options.markdown:
        lines = ["| figure, p50 / p99 in ms | dirigent | etcd 3.4 | target |", "|---|---|---|---|"] + ["| " + " | ".join(row) + " |" for row in rows]
        write_markdown(options.markdown, "failover", f"{machine()}.\n\n" + "\n".join(lines) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
