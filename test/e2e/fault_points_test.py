#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""End to end: processes of a whole cluster that kill themselves between two steps (dirigent/base/fault_point.h), under load.

    DIRIGENT=build-test/src/dirigent python3 test/e2e/fault_points_test.py [TEST...]

DIRIGENT_KILLS says how often (default 25), DIRIGENT_SEED repeats a choice of points, DIRIGENT_POINT takes one of them only.
The binary must have been built with -Dfault_points=true.
"""
import collections
import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from group_test import Group, free_ports  # noqa: E402
from harness import BINARY, Failure, Skip, check, check_equal, eventually, run_tests, unique_name  # noqa: E402

KEPT = [f"kept-{i}" for i in range(3)]  # functions with one sandbox each, from the beginning to the end
FUNCTION = {"image": "builtin:hello", "cpu_milli": 20, "profile": "dirigent", "scale_max": 1, "scale_window_ms": 6000, "drain_timeout_ms": 1000, "concurrency_limit": 0}
NOT_REACHED_AFTER = 4.0  # seconds: then the process is killed where it is

# Points that only a leader comes to, and those that take an election.
OF_LEADER = re.compile(r"control\.(proposed|committed|before_answer|removed|order_sent|before_record)|consensus\.(committed|handing_over)")
OF_ELECTION = {"control.leading", "control.recovering", "consensus.vote"}
# Only a store without a file comes to these, with its first call.
FIRST = {"call_store.before_rename": "data-1", "call_store.renamed": "data-2"}


def known_points():
    """As the binary tells them; none when it has been built without."""
    asked = subprocess.run([BINARY, "version"], env={**os.environ, "DIRIGENT_FAULT": "?"}, capture_output=True, text=True)
    if asked.returncode == 0:
        return []
    return re.search(r"there are: ([^)]*)\)", asked.stderr).group(1).split(", ")


class Arm:
    """Arms a point of a running process: a signal with a value."""

    def __init__(self, points):
        self.points = points
        self.libc = ctypes.CDLL(None, use_errno=True)

    def queue(self, pid, value):
        # A union sigval is as wide as a pointer and is passed as one.
        if self.libc.sigqueue(pid, signal.SIGRTMIN + 7, ctypes.c_void_p(value)) != 0:
            raise OSError(ctypes.get_errno(), "sigqueue")

    def __call__(self, pid, point, count):
        self.queue(pid, self.points.index(point) << 16 | count)

    def off(self, pid):
        self.queue(pid, len(self.points) << 16 | 1)


class FaultyCluster:
    """Three control planes, two workers, two data planes: each can die and come back under its old name and addresses."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.env = {"DIRIGENT_FAULT": "none", "DIRIGENT_SNAPSHOT_ENTRIES": "60"}
        self.group = Group(cluster)
        self.roles = {}
        for member in (1, 2, 3):
            self.start(f"control-{member}")
        self.group.leader()
        self.rpcs = self.group.rpcs()
        self.admins = [self.group.ports[member][1] for member in (1, 2, 3)]
        self.invoke = dict(zip(("data-1", "data-2"), (f"127.0.0.1:{port}" for port in free_ports(2))))
        self.nodes = {name: unique_name(name) for name in ("worker-1", "worker-2")}
        self.is_real = {"worker-1": os.geteuid() == 0, "worker-2": False}
        for name in (*self.invoke, *self.nodes):
            self.start(name)
        for name in KEPT:
            eventually(lambda: self.put(name, {**FUNCTION, "scale_min": 1}), f"{name} is registered")
        for name in KEPT:
            eventually(lambda: all(self.calls(plane, name) == 200 for plane in self.invoke), f"{name} answers")

    def start(self, name):
        kind, _, number = name.partition("-")
        if kind == "control":
            role = self.group.start(int(number), "--log-level", "info", env=self.env)
        elif kind == "data":
            role = self.cluster.start("data", "--listen", self.invoke[name], "--admin-listen", "127.0.0.1:0", "--control", self.rpcs, "--id", name, "--shards", "2",
                                      "--async-dir", str(self.cluster.directory / name), "--async-directory", ",".join(self.admins), "--async-backoff-min", "20ms",
                                      "--async-backoff-max", "100ms", "--async-attempts", "10", "--drain-time", "2s", env=self.env)
        else:
            runtime = ("--runtime", "process", "--parked-sandboxes", "0", "--image-dir", str(self.cluster.directory / "images")) if self.is_real[name] else ("--runtime", "simulated")
            role = self.cluster.worker(self.rpcs, *runtime, "--drain-time", "2s", name=self.nodes[name], env=self.env)
        self.roles[name] = role
        return role

    def is_dead(self, name):
        return self.roles[name].process.poll() is not None

    # --- what clients do; None, False or 0 when there is no answer
    def ask(self, address, method, path, body=None, timeout=10):
        try:
            return self.cluster.request(path, method, body, address=address, timeout=timeout)
        except (OSError, http.client.HTTPException):
            return 0, {}, b""

    def put(self, name, spec, member=None):
        address = self.admins[(member or random.randrange(3))]
        return self.ask(address, "PUT", f"/v1/functions/{name}?verify=0", json.dumps(spec))[0] in (200, 201)

    def delete(self, name):
        return self.ask(random.choice(self.admins), "DELETE", f"/v1/functions/{name}")[0]

    def calls(self, plane, name):
        return self.ask(self.invoke[plane], "GET", f"/function/{name}", timeout=40)[0]

    # --- what the checks look at
    def functions(self):
        """By name; None when no leader answers."""
        status, _, body = self.ask(random.choice(self.admins), "GET", "/v1/functions?summary=1")
        return {one["name"]: one["status"] for one in json.loads(body)["functions"]} if status == 200 else None

    def kept_ids(self):
        functions = self.functions()
        return functions and {name: sorted(one["id"] for one in functions[name]["sandboxes"] if one["state"] == "ready") for name in KEPT}

    def known(self):
        """How many sandboxes each node has as the leader sees it."""
        status, _, body = self.ask(random.choice(self.admins), "GET", "/v1/nodes")
        return {one["name"]: one["sandboxes"] for one in json.loads(body)["nodes"] if one["status"] == "ready"} if status == 200 else None

    def running(self, name):
        """How many a worker has, and how many the machine has of it: both numbers are the same in the end."""
        status, _, body = self.ask(self.roles[name].addresses["admin"], "GET", "/metrics")
        if status != 200:
            return None
        kept = int(re.search(rb"^dirigent_worker_sandboxes\{.*\} (\d+)$", body, re.M).group(1))
        return kept, self.cells(name) if self.is_real[name] else kept

    def cells(self, name):
        """Sandboxes with a function in them: some process listens. Those that are kept ready for the next start do not."""
        for base in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
            with contextlib.suppress(FileNotFoundError):
                entries = os.listdir(f"{base}/dirigent/{self.nodes[name]}")
                return sum(self.listens(f"{base}/dirigent/{self.nodes[name]}/{entry}") for entry in entries if entry.startswith("cell-"))
        return 0

    @staticmethod
    def listens(cell):
        with contextlib.suppress(OSError):
            for pid in pathlib.Path(cell, "cgroup.procs").read_text().split():
                for table in ("tcp", "tcp6"):
                    if any(line.split()[3] == "0A" for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]):
                        return True
        return False

    def disagreement(self):
        """Empty when the leader knows exactly what the workers run; none of the kept functions has two sandboxes."""
        known = self.known()
        if known is None:
            return "no leader answers"
        for name, node in self.nodes.items():
            running = self.running(name)
            if running is None or node not in known:
                return f"{name} is not up: {running}, known: {known}"
            if running[0] != known[node] or running[1] != known[node]:
                return f"{name}: the leader knows {known[node]}, the worker {running[0]}, the machine {running[1]}"
        ids = self.kept_ids()
        if ids is None or any(len(one) != 1 for one in ids.values()):
            return f"kept functions have sandboxes {ids}"
        return ""


class Load:
    """Registrations, deletions, warm, cold and asynchronous calls, with what was acknowledged."""

    def __init__(self, faulty):
        self.faulty = faulty
        self.lock = threading.Lock()
        self.there, self.gone = set(), set()  # acknowledged registrations, acknowledged deletions
        self.accepted = []                    # (data plane, call id)
        self.counts = collections.Counter()
        self.failures = collections.Counter()
        self.first_failures = {}
        self.going = True
        self.begun = set()                    # data planes that get asynchronous calls
        self.churns = threading.Event()  # cleared: only kept functions are called, so that what runs can be compared with what is known
        self.churns.set()
        works = [self.register, self.register, self.call_warm, self.call_cold, self.call_later]
        self.threads = [threading.Thread(target=self.run, args=(work, number)) for number, work in enumerate(works)]
        for thread in self.threads:
            thread.start()

    def run(self, work, number):
        step = 0
        while self.going:
            step += 1
            work(number, step)

    def note(self, kind, answer, good):
        with self.lock:
            self.counts[kind] += 1
            if answer not in good:
                self.failures[kind] += 1
                self.first_failures.setdefault(kind, answer)

    def register(self, number, step):
        self.churns.wait()
        name = f"f-{number}-{step}"
        if self.faulty.put(name, FUNCTION):
            with self.lock:
                self.there.add(name)
                self.counts["registered"] += 1
        victim = None
        with self.lock:
            if len(self.there) > 30:
                victim = random.choice(sorted(self.there))
                self.there.discard(victim)
        if victim and self.faulty.delete(victim) == 204:
            with self.lock:
                self.gone.add(victim)
                self.counts["deleted"] += 1
        time.sleep(0.02)

    def call_warm(self, _, step):
        planes = [plane for plane in self.faulty.invoke if not self.faulty.is_dead(plane)]
        if planes:
            self.note("warm", self.faulty.calls(planes[step % len(planes)], KEPT[step % len(KEPT)]), (200,))
        time.sleep(0.005)

    def call_cold(self, _, step):
        self.churns.wait()
        with self.lock:
            name = random.choice(sorted(self.there)) if self.there else KEPT[0]
        self.note("cold", self.faulty.calls(f"data-{1 + step % 2}", name), (200, 404))
        time.sleep(0.02)

    def call_later(self, _, step):
        plane = f"data-{1 + step % 2}"
        if plane not in self.begun:
            time.sleep(0.005)
            return
        status, headers, _ = self.faulty.ask(self.faulty.invoke[plane], "POST", f"/async-function/{KEPT[step % len(KEPT)]}", b"x")
        if status == 202:
            with self.lock:
                self.accepted.append((plane, headers["x-call-id"]))
        time.sleep(0.02)

    def stop(self):
        self.going = False
        self.churns.set()
        for thread in self.threads:
            thread.join()


class Round:
    """One process dies at one point and comes back."""

    def __init__(self, faulty, load, arm, chance, point):
        self.faulty, self.load, self.arm, self.chance, self.point = faulty, load, arm, chance, point
        self.count = chance.choice((1, 1, 1, 2, 3, 5))
        self.victims = self.choose()
        self.dead = None
        self.was_reached = False

    def choose(self):
        """Whom to arm: one, or all that an election may bring to the point."""
        faulty, floor = self.faulty, self.point.split(".")[0]
        if floor == "worker":
            return [self.chance.choice(sorted(faulty.nodes))]
        if self.point in FIRST:
            self.count = 1
            return [FIRST[self.point]]
        if floor in ("data", "async"):
            return [self.chance.choice(sorted(faulty.invoke))]
        leader = faulty.group.leader()
        others = [f"control-{member}" for member in (1, 2, 3) if member != leader]
        if self.point in OF_ELECTION or self.point == "consensus.handing_over":
            self.count = 1
        if self.point in OF_ELECTION:
            return others
        if OF_LEADER.match(self.point):
            return [f"control-{leader}"]
        return [others[0] if self.point == "consensus.append_answer" else self.chance.choice([f"control-{leader}", *others])]

    def run(self):
        faulty = self.faulty
        for victim in self.victims:
            self.arm(faulty.roles[victim].pid, self.point, self.count)
        self.load.begun |= set(self.victims)
        if self.point in OF_ELECTION or self.point == "consensus.handing_over":
            faulty.ask(faulty.group.admin(faulty.group.leader()), "POST", "/v1/control/hand-over", timeout=5)
        self.dead = self.dies()
        self.was_reached = self.dead is not None
        self.dead = self.dead or self.victims[0]
        faulty.roles[self.dead].kill()
        for victim in self.victims:
            if victim != self.dead and not faulty.is_dead(victim):
                self.arm.off(faulty.roles[victim].pid)
        self.died_at = time.monotonic()
        if self.was_reached:
            check(f"killed at fault point {self.point}" in faulty.roles[self.dead].output(), f"{self.dead} died of something else: {faulty.roles[self.dead].output()[-3000:]}")
        time.sleep(self.chance.random() * 0.4)  # not to wait for something: the others shall meet it dead for a while
        for name in [one for one in faulty.roles if faulty.is_dead(one)]:
            faulty.start(name)

    def dies(self):
        """Who did; None when nobody came to the point."""
        deadline = time.monotonic() + NOT_REACHED_AFTER
        while time.monotonic() < deadline:
            dead = next((one for one in self.victims if self.faulty.is_dead(one)), None)
            if dead:
                return dead
            time.sleep(0.005)
        return None


def settle(faulty, load, since):
    """Until the leader knows all that runs, and only that; seconds since then."""
    last = {}
    load.churns.clear()

    def agrees():
        last["what"] = faulty.disagreement()
        return not last["what"]

    try:
        eventually(agrees, "the leader knows what runs")
    except Failure as failure:
        raise Failure(f"{failure}: {last['what']}")
    took = time.monotonic() - since
    load.churns.set()
    return took


def test_kills_at_marked_points(cluster):
    """processes die between two steps: no acknowledged registration is lost, no deletion undone, no sandbox forgotten or doubled"""
    points = known_points()
    if not points:
        raise Skip("needs a binary with -Dfault_points=true")
    kills = int(os.environ.get("DIRIGENT_KILLS", "25"))
    seed = int(os.environ.get("DIRIGENT_SEED", random.randrange(10**9)))
    print(f"seed: DIRIGENT_SEED={seed} DIRIGENT_KILLS={kills}", flush=True)
    chance = random.Random(seed)
    arm = Arm(points)
    faulty = FaultyCluster(cluster)
    wanted = [os.environ["DIRIGENT_POINT"]] if "DIRIGENT_POINT" in os.environ else [point for point in points if point not in FIRST]
    order = list(FIRST)
    while len(order) < kills:  # each point as often as any other
        order += chance.sample(wanted, len(wanted))
    load = Load(faulty)
    reached, missed, settled, slow, moved = collections.Counter(), collections.Counter(), [], [], []
    try:
        for number, point in enumerate(order[:kills]):
            ids = faulty.kept_ids()
            failures = load.failures["warm"]
            round_ = Round(faulty, load, arm, chance, point)
            round_.run()
            took = settle(faulty, load, round_.died_at)
            settled.append(took)
            (reached if round_.was_reached else missed)[point] += 1
            if took > 5:
                slow.append((point, round(took, 1)))
            after = faulty.kept_ids()
            line = f"kill {number + 1}: {round_.dead} at {point}:{round_.count}{'' if round_.was_reached else ' (not reached)'}, settled after {took:.2f} s"
            # A worker that is away for longer than 200 ms is replaced, whatever it brings back.
            if ids is not None and after != ids and not round_.dead.startswith("worker"):
                moved.append((point, ids, after))
                line += ", kept sandboxes are others"
            if load.failures["warm"] != failures:
                line += f", {load.failures['warm'] - failures} warm calls failed"
                check(not round_.dead.startswith("control"), f"{line}: {load.first_failures}")
            print(line, flush=True)
    finally:
        load.stop()
    check(not moved, f"sandboxes were replaced although their workers went on: {moved}")
    names = eventually(faulty.functions, "the functions are listed")
    check(load.there <= names.keys(), f"acknowledged registrations are lost: {sorted(load.there - names.keys())}")
    check(not load.gone & names.keys(), f"deletions are undone: {sorted(load.gone & names.keys())}")
    for name in sorted(load.there | set(KEPT)):
        for address in faulty.invoke.values():
            status, _, body = faulty.ask(address, "GET", f"/function/{name}", timeout=40)
            check_equal(status, 200, f"a call of {name}: {body}")
    for plane, call in load.accepted:
        eventually(lambda: faulty.ask(faulty.invoke[plane], "GET", f"/async-function/result/{call}")[0] == 200, f"call {call}, accepted by {plane}, has its result")
    for name in sorted(names.keys() - set(KEPT)):
        eventually(lambda: faulty.delete(name) in (204, 404), f"{name} is deleted")
    eventually(lambda: not faulty.disagreement() and sum((faulty.known() or {"": -1}).values()) == len(KEPT), "only the kept sandboxes are left")
    check(reached, "no point was reached")
    settled.sort()
    print(f"figure=fault_points kills={kills} seed={seed} reached={sum(reached.values())} points={len(reached)} not_reached={dict(missed)} "
          f"settled_p50_s={settled[len(settled) // 2]:.2f} settled_max_s={settled[-1]:.2f} slower_than_5s={slow} registered={load.counts['registered']} "
          f"deleted={load.counts['deleted']} warm={load.counts['warm']} warm_failed={load.failures['warm']} cold={load.counts['cold']} cold_failed={load.failures['cold']} "
          f"async={len(load.accepted)} lost=0", flush=True)


def test_marks(cluster):
    """every fault point of the list is marked somewhere"""
    root = pathlib.Path(__file__).resolve().parent.parent.parent
    text = "".join(path.read_text() for path in (root / "src").rglob("*.cpp"))
    named = re.findall(r'string_view\("([a-z_.]+)"\)', (root / "include/dirigent/base/fault_point.h").read_text())
    check(len(named) >= 12, f"only {len(named)} points")
    check(not known_points() or known_points() == named, "the binary is of another version")
    missing = [name for name in named if f'DIRIGENT_FAULT_POINT("{name}")' not in text]
    check(not missing, f"not marked: {missing}")


def test_unknown_point(cluster):
    """a name that is no fault point is refused at the start, with the list"""
    if not known_points():
        raise Skip("needs a binary with -Dfault_points=true")
    for wrong in ("control.nothing", "control.proposed:0", "control.proposed:x", ""):
        asked = subprocess.run([BINARY, "version"], env={**os.environ, "DIRIGENT_FAULT": wrong}, capture_output=True, text=True)
        check_equal(asked.returncode, 2, wrong)
        check("consensus.vote" in asked.stderr and f'"{wrong}" is no fault point' in asked.stderr, asked.stderr)


if __name__ == "__main__":
    run_tests(globals())
