#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""End to end: what an operator does to a cluster in use. Nodes are emptied, roles are restarted one after another, data
planes come and go behind a real HAProxy; no call may fail.

DIRIGENT_CALLS: how many calls the rolling restart is put under, at least (6,000).
DIRIGENT_OLD: another build of dirigent. The rolling restart then begins with it, changes to the tested one role after role,
and back, so that both work side by side in every mixture.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import harness
from group_test import Group, free_ports
from harness import BINARY, Failure, Skip, check, check_equal, eventually, needs_root, run_tests, unique_name

# The load has to be heard of by HAProxy's checks before a data plane stops listening.
NOTICE = ("--leave-notice", "1500ms")


def nodes(cluster):
    return {n["name"]: n for n in json.loads(cluster.ctl("nodes", "-o", "json")[0])["nodes"]}


class Calls:
    """Threads that call one path after the other until told to stop; every answer but 200 is kept."""

    def __init__(self, cluster, paths, address=None, threads=4):
        self.cluster, self.paths, self.address = cluster, paths, address
        self.stopping = threading.Event()
        self.count = 0
        self.wrong = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(threads)]

    def run(self, i):
        while not self.stopping.is_set():
            path = self.paths[i % len(self.paths)]
            i += 1
            try:
                status, headers, body = self.cluster.request(path, address=self.address)
                answer = None if status == 200 else (status, headers.get("x-dirigent-reason"), body[:200])
            except Exception as error:  # whatever it is: this call failed
                answer = repr(error)
            with self.lock:
                self.count += 1
                if answer is not None:
                    self.wrong.append((round(time.time(), 3), path, answer))

    def more(self, count):
        goal = self.count + count
        eventually(lambda: self.count >= goal, f"{count} more calls")

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        if error[0] is None:
            check(not self.wrong, f"{len(self.wrong)} of {self.count} calls failed: {self.wrong[:5]}")


class Front:
    """A real HAProxy with the configuration that `ctl haproxy-config --follow` writes and updates."""

    def __init__(self, cluster, admin, *flags, slots="8"):
        if shutil.which("haproxy") is None:
            raise Skip("haproxy is not installed")
        self.cluster = cluster
        self.port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        self.directory = pathlib.Path(cluster.directory)
        self.config = self.directory / "haproxy.cfg"
        self.socket = self.directory / "haproxy.sock"
        self.words = ["ctl", "haproxy-config", "--bind", self.address, "--socket", str(self.socket), "--write", str(self.config), "--slots", slots, *flags]
        self.admin = admin
        self.once()
        self.process = subprocess.Popen(["haproxy", "-W", "-db", "-f", str(self.config)], stdout=subprocess.DEVNULL, stderr=open(self.directory / "haproxy.log", "wb"),
                                        preexec_fn=end_with_parent)
        self.follower = None
        eventually(self.is_up, "HAProxy listens")

    def once(self, *more, check_status=0):
        done = subprocess.run([BINARY, *self.words, *more, "--server", f"http://{self.admin}"], capture_output=True, timeout=30)
        check_equal(done.returncode, check_status, done.stderr.decode())
        return done.stderr.decode()

    def follow(self):
        self.follower = subprocess.Popen([BINARY, *self.words, "--follow", "--interval", "100ms", "--server", f"http://{self.admin}"], stdout=subprocess.DEVNULL,
                                         stderr=open(self.directory / "follower.log", "wb"), preexec_fn=end_with_parent)

    def is_up(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return self.socket.exists()
        except OSError:
            return False

    def ask(self, command):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(command.encode() + b"\n")
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return answer.decode()

    def servers(self):
        """HOST:PORT of the data planes that HAProxy sends requests to."""
        lines = self.ask("show servers state dirigent_data_planes").splitlines()
        names = lines[1].split()[1:]
        rows = [dict(zip(names, line.split())) for line in lines[2:] if line]
        return sorted(f"{r['srv_addr']}:{r['srv_port']}" for r in rows if r["srv_op_state"] == "2" and int(r["srv_admin_state"]) & 0x63 == 0)

    def stop(self):
        for process in (self.follower, self.process):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.stop()
        if kind is not None:
            for name in ("haproxy.log", "follower.log"):
                path = self.directory / name
                if path.exists():
                    print(f"--- {name}\n{path.read_text()[-3000:]}", flush=True)


def end_with_parent():
    """In the child: the kernel kills it when this test dies."""
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def test_drain_of_a_node(cluster):
    """a drained node's sandboxes move under load without a failed call; the setting outlives the control plane"""
    state = str(cluster.directory / "state")
    control = cluster.control("--state-dir", state)
    rpc, admin = control.addresses["rpc"], control.addresses["admin"]
    cluster.data(rpc)
    first = unique_name("first")
    second = unique_name("second")
    cluster.worker(rpc, "--runtime", "simulated", name=first)
    eventually(lambda: len(nodes(cluster)) == 1, "the first worker joins")
    for name in ("a", "b", "idle"):
        cluster.ctl("deploy", name, "--image", "builtin:hello", "--scale-min", "2" if name == "a" else "0")
    with Calls(cluster, ["/function/a", "/function/b"]) as calls:
        calls.more(50)
        # Nowhere to go: they stay, and serve.
        _, words = cluster.ctl("drain", first, "--wait-timeout", "300ms", check_status=6)
        check("still has" in words and "draining goes on" in words, words)
        calls.more(50)
        check_equal(nodes(cluster)[first]["status"], "draining")
        cluster.worker(rpc, "--runtime", "simulated", name=second)
        cluster.ctl("drain", first)
        check_equal(nodes(cluster)[first]["sandboxes"], 0)
        check_equal(nodes(cluster)[first]["status"], "drained")
        check(nodes(cluster)[second]["sandboxes"] >= 3, nodes(cluster))
        calls.more(50)
        control.kill()
        cluster.control("--state-dir", state, rpc=rpc, admin=admin)
        eventually(lambda: nodes(cluster).get(first, {}).get("status") == "drained", "the node is drained for the next control plane, too")
        calls.more(50)
        cluster.ctl("uncordon", first)
        check_equal(nodes(cluster)[first]["status"], "ready")
        cluster.ctl("drain", second)
        check(nodes(cluster)[first]["sandboxes"] >= 3, nodes(cluster))
        calls.more(50)
    _, words = cluster.ctl("drain", "nobody", check_status=3)
    check("not found" in words, words)


def test_haproxy_follows(cluster):
    """HAProxy is never restarted while data planes come, leave, die and come back, and calls through it do not fail"""
    control = cluster.control("--state-dir", str(cluster.directory / "state"))
    rpc, admin = control.addresses["rpc"], control.addresses["admin"]
    cluster.worker(rpc, "--runtime", "simulated")
    first = cluster.data(rpc, *NOTICE)
    address = lambda role: role.addresses["invoke"]
    eventually(lambda: len(nodes(cluster)) == 1, "the worker joins")
    for name in ("a", "b", "c"):
        cluster.ctl("deploy", name, "--image", "builtin:hello")
    with Front(cluster, admin) as front:
        check_equal(subprocess.run(["haproxy", "-c", "-f", str(front.config)], capture_output=True).returncode, 0, "haproxy -c")
        pid = front.process.pid
        front.follow()
        eventually(lambda: front.servers() == [address(first)], "HAProxy has the first data plane")
        with Calls(cluster, ["/function/a", "/function/b", "/function/c"], address=front.address) as calls:
            calls.more(50)
            second = cluster.data(rpc, *NOTICE)
            eventually(lambda: front.servers() == sorted([address(first), address(second)]), "HAProxy has both")
            calls.more(100)
            check_equal(first.stop(), 0, "exit status")
            eventually(lambda: front.servers() == [address(second)], "HAProxy has the second only")
            calls.more(50)
            # The control plane dies: nothing changes for those who serve.
            control.kill()
            calls.more(100)
            check_equal(front.servers(), [address(second)])
            cluster.control("--state-dir", str(cluster.directory / "state"), rpc=rpc, admin=admin)
            third = cluster.data(rpc, *NOTICE)
            eventually(lambda: front.servers() == sorted([address(second), address(third)]), "HAProxy has the second and the third")
            calls.more(100)
        # What was on its way into one that is killed is lost; nothing after that.
        third.kill()
        eventually(lambda: front.servers() == [address(second)], "HAProxy has noticed")
        with Calls(cluster, ["/function/a", "/function/b"], address=front.address) as calls:
            calls.more(50)
        check_equal(front.process.pid, pid)
        check(front.process.poll() is None, "HAProxy lives")
        check(address(second) in front.config.read_text(), "the file has what HAProxy has")
        # Without a HAProxy the words say so.
        front.process.terminate()
        front.process.wait()
        words = front.once("--update", check_status=1)
        check("cannot ask HAProxy" in words, words)


def test_rolling_restart(cluster):
    """every role of a whole cluster is restarted in turn under load, twice for some, and not one call fails"""
    needs_root()
    wanted = int(os.environ.get("DIRIGENT_CALLS", "6000"))
    builds = [os.environ.get("DIRIGENT_OLD", BINARY), BINARY]
    harness.role_binary = builds[0]
    group = Group(cluster)
    group.start_all()
    rpcs = group.rpcs()
    ports = free_ports(2)
    planes = {p: cluster.data(rpcs, *NOTICE, listen=f"127.0.0.1:{p}") for p in ports}
    names = [unique_name("roll") for _ in range(2)]
    workers = {name: cluster.worker(rpcs, "--cpu", "16", "--memory", "8GiB", name=name) for name in names}
    eventually(lambda: len(nodes(cluster)) == 2, "both workers join")
    for name in ("a", "b"):
        cluster.ctl("deploy", name, "--image", "builtin:hello", "--scale-min", "2")
    with Front(cluster, group.admin(group.leader())) as front:
        eventually(lambda: len(front.servers()) == 2, "HAProxy has both data planes")
        load = Load(front.address, ["a", "b"])
        restarts = 0
        try:
            while True:
                builds.reverse()
                harness.role_binary = builds[0]
                for name in names:
                    check_equal(workers[name].stop(), 0, f"worker {name}")
                    workers[name] = cluster.worker(rpcs, "--cpu", "16", "--memory", "8GiB", name=name)
                    eventually(lambda: nodes(cluster).get(name, {}).get("status") == "ready", f"{name} is back")
                for port in ports:
                    check_equal(planes[port].stop(), 0, f"data plane {port}")
                    planes[port] = cluster.data(rpcs, *NOTICE, listen=f"127.0.0.1:{port}")
                    eventually(lambda: len(front.servers()) == 2, "HAProxy has both again")
                for member in sorted(group.roles):
                    check_equal(group.roles[member].stop(), 0, f"member {member}")
                    group.start(member)
                    eventually(lambda: all(m["role"] != "unknown" and m.get("lag", 0) == 0 for m in json.loads(cluster.ctl("control", "-o", "json")[0])["members"]), "no member lags")
                restarts += 7
                if load.sent() >= 1.05 * wanted:  # the times are drawn: there may be some fewer
                    break
        finally:
            harness.role_binary = BINARY
            report = load.stop()
    sent, failed = report["sent"], report["err"]
    print(f"rolling restart: {restarts} restarts, {sent:.0f} calls, {failed:.0f} failed")
    check(sent >= wanted, f"only {sent} calls")
    check_equal(failed, 0, f"failed calls ({ {k: v for k, v in report.items() if k.startswith(('errors', 'status'))} })")


class Load:
    """`dirigent bench`: an open loop of 400 calls a second through the front, until it is told to end."""
    RATE = 400

    def __init__(self, front, functions):
        self.began = time.monotonic()
        self.processes = [
            subprocess.Popen([BINARY, "bench", f"http://{front}/function/{name}", "--rate", str(self.RATE // len(functions)), "-d", "1h", "-c", "64", "--output", "-"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=end_with_parent) for name in functions]

    def sent(self):
        for process in self.processes:
            check(process.poll() is None, "the load generator lives")
        return (time.monotonic() - self.began) * self.RATE

    def stop(self):
        """The figures of all generators, added up."""
        for process in self.processes:
            process.send_signal(signal.SIGINT)
        total = {}
        for process in self.processes:
            out, err = process.communicate(timeout=60)
            if not out:
                raise Failure(f"the load generator said nothing: {err.decode()[-2000:]}")
            for key, value in json.loads(out)["metrics"].items():
                if isinstance(value, (int, float)) and (key in ("sent", "err") or re.match(r"errors|status", key)):
                    total[key] = total.get(key, 0) + value
        return total


if __name__ == "__main__":
    run_tests(globals())
