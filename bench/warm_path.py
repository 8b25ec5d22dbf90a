#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Question: what does a call through the data plane cost beside HAProxy and nginx, and what does it bear?

Units: requests/s, microseconds, KiB. All servers forward to the same sandbox (builtin functions of the process runtime, so it
needs root) in one run on one machine, with as many threads, kept connections on both sides and without logs; they take turns
within the rounds, and of each figure the best round counts. Where the clients and the function need the same CPUs as the
server, requests/s say what is left; the CPU time of the server per request is what it costs, so both are told.

  bench/warm_path.py build/src/dirigent [--rounds N] [--seconds N] [--markdown FILE] [FIGURE...]

FIGURE: rate latency large loops h2c queue slow (all when none is named). Builds nothing. Needs wrk, haproxy and nginx.
Prints one line of key=value per measurement and a table of ratios; --markdown replaces the part of FILE between the lines
`<!-- warm_path begin -->` and `<!-- warm_path end -->`, or appends it with them.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import select
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time

from report import figure_table, machine, say, write_markdown

harness = None  # test/e2e/harness.py, once DIRIGENT names the binary

CONNECTIONS = 64
LARGE_BYTES = 64 * 1024
LARGE_CONNECTIONS = 16
WAITERS = 10_000
SLOW_CLIENTS = 2_000
SLOW_RATE = 200
H2_FUNCTIONS = 500


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for_listener(process, port):
    def answers():
        harness.check(process.poll() is None, f"{process.args[0]} ended at its start with status {process.poll()}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True

    harness.eventually(answers, f"{process.args[0]} listens")


def descendants(pid):
    found = [pid]
    with contextlib.suppress(FileNotFoundError):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    return found


class Server:
    """What is measured: an address, the path that reaches the function through it, and the processes that pay."""

    def __init__(self, name, address, path, pid):
        self.name, self.address, self.path, self.pid = name, address, path, pid

    @property
    def url(self):
        return f"http://{self.address}{self.path}"

    def cpu_seconds(self):
        if self.pid is None:
            return 0.0
        ticks = 0
        for pid in descendants(self.pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def haproxy(directory, upstream, threads, name="haproxy"):
    port = free_port()
    configuration = directory / f"{name}.cfg"
    configuration.write_text(
        f"global\n  nbthread {threads}\n  maxconn 4000\n  tune.bufsize 32768\n"
        "defaults\n  mode http\n  option http-keep-alive\n  timeout client 60s\n  timeout server 60s\n  timeout connect 1s\n  http-reuse always\n"
        f"listen bench\n  bind 127.0.0.1:{port}\n  server sandbox {upstream} maxconn 4000\n")
    process = subprocess.Popen(["haproxy", "-db", "-f", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        wait_for_listener(process, port)
        yield Server(name, f"127.0.0.1:{port}", "/", process.pid)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def nginx(directory, upstream, threads, name="nginx"):
    port = free_port()
    home = directory / name
    home.mkdir()
    temporary = "".join(f"  {kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "nginx.conf").write_text(
        f"user root;\nworker_processes {threads};\ndaemon off;\npid {home}/pid;\nerror_log stderr crit;\nevents {{ worker_connections 8192; }}\n"
        f"http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  client_body_buffer_size 128k;\n  client_max_body_size 2m;\n{temporary}"
        f"  upstream sandbox {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}\n"
        f"  server {{\n    listen 127.0.0.1:{port} reuseport;\n    location / {{\n      proxy_pass http://sandbox;\n      proxy_http_version 1.1;\n"
        "      proxy_set_header Connection \"\";\n      proxy_buffers 16 32k;\n      proxy_buffer_size 32k;\n    }\n  }\n}\n")
    process = subprocess.Popen(["nginx", "-p", str(home), "-e", "stderr", "-c", str(home / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        wait_for_listener(process, port)
        yield Server(name, f"127.0.0.1:{port}", "/", process.pid)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def relay(binary, upstream):
    """The floor: a relay of bytes that understands nothing (bench/relay_floor.cpp), when it was built beside `binary`."""
    program = pathlib.Path(binary).resolve().parent.parent / "bench" / "relay_floor"
    if not program.exists():
        print(f"warm_path: no {program}: the floor is not measured (meson configure -Dbenchmarks=true)", file=sys.stderr)
        yield None
        return
    process = subprocess.Popen([program, upstream], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Server("floor", process.stdout.readline().strip(), "/", process.pid)
    finally:
        process.stdin.close()
        process.wait()


class Figures:
    """The roles, the function's sandboxes and what was measured so far."""

    def __init__(self, options, cluster):
        self.options = options
        self.cluster = cluster
        control = cluster.control()
        self.rpc = control.addresses["rpc"]
        cluster.worker(self.rpc, "--cpu", "1000", "--memory", "1000GiB")
        self.data = {}
        self.rows = []
        self.half_rate = None

    def data_plane(self, loops):
        """A data plane with so many loops; further ones are started beside the others."""
        if loops not in self.data:
            role = self.cluster.data(self.rpc, "--shards", str(loops), "--connections-max", "19000", "--id", f"loops-{loops}")
            self.data[loops] = role
        return self.data[loops]

    def deploy(self, name, image, *flags):
        """One warm sandbox; its address."""
        self.cluster.ctl("deploy", name, "--image", image, "--queue-timeout", "60s", *flags)
        self.cluster.ctl("scale", name, "1")
        ready = lambda: [s for s in self.describe(name)["status"]["sandboxes"] if s["state"] == "ready"]
        harness.eventually(lambda: len(ready()) == 1, f"{name} has one sandbox")
        return ready()[0]["address"]

    def describe(self, name):
        return json.loads(self.cluster.ctl("describe", name, "-o", "json")[0])

    def dirigent(self, function, loops=1):
        role = self.data_plane(loops)
        server = Server("dirigent" if loops == 1 else f"dirigent-{loops}", role.addresses["invoke"], f"/function/{function}", role.pid)
        harness.eventually(lambda: self.cluster.request(server.path, address=server.address)[0] == 200, f"{function} answers")
        return server

    def add(self, what, ours, others, unit, target, reached):
        """A row of the table; `others`: [(name, value)]; `reached`: True, False or None (no target)."""
        ratios = ", ".join(f"{ours / value:.2f} x {name}" for name, value in others if value)
        values = ", ".join([f"dirigent {number(ours)}"] + [f"{name} {number(value)}" for name, value in others])
        self.rows.append((what, f"{values} {unit}", ratios, target, {True: "yes", False: "**no**", None: ""}[reached]))


# --- clients ------------------------------------------------------------------------------------------------------

def run_wrk(server, connections, seconds, threads=1):
    out = subprocess.run(["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}", "--latency", server.url], check=True, capture_output=True,
                         text=True).stdout
    harness.check("Non-2xx" not in out and "Socket errors" not in out, f"wrk on {server.name}: {out}")
    number, unit = re.search(r"^ *99% +([0-9.]+)(us|ms|s)$", out, re.MULTILINE).groups()
    return {"requests": int(re.search(r"(\d+) requests in", out).group(1)), "rate": float(re.search(r"Requests/sec: *([0-9.]+)", out).group(1)),
            "p99_us": float(number) * {"us": 1, "ms": 1000, "s": 1e6}[unit]}


def run_bench(options, server, *arguments, seconds, urls=None):
    done = subprocess.run([options.client, "bench", *(urls or [server.url]), "-d", f"{seconds}s", "-o", "-", "-q", "--assert", "err==0", *arguments],
                          capture_output=True, text=True)
    harness.check(done.returncode == 0, f"dirigent bench on {server.name}: status {done.returncode}: {done.stderr}{done.stdout[:1000]}")
    metrics = json.loads(done.stdout)["metrics"]
    return {"requests": metrics["sent"], "rate": metrics["rate"], "p99_us": metrics["latency.p99_ms"] * 1000, "client_us": metrics["client.cpu_us"]}


def measured(server, run):
    """The client's figures and the CPU microseconds of the server for each request."""
    before = server.cpu_seconds()
    figures = run()
    figures["cpu_us"] = (server.cpu_seconds() - before) * 1e6 / max(1, figures["requests"])
    return figures


def take_turns(options, servers, runs, name):
    """{(server, client): best figures}, in interleaved rounds."""
    best = {}
    for turn in range(options.rounds):
        for client, run in runs.items():
            for server in servers if turn % 2 == 0 else reversed(servers):
                figures = measured(server, lambda: run(server))
                say(bench=name, server=server.name, client=client, round=turn, **figures)
                known = best.setdefault((server.name, client), dict(figures))
                for key, value in figures.items():
                    known[key] = max(known[key], value) if key in ("rate", "requests") else min(known[key], value)
    return best


# --- figures ------------------------------------------------------------------------------------------------------

def small_runs(options):
    return {"wrk": lambda server: run_wrk(server, CONNECTIONS, options.seconds),
            "bench": lambda server: run_bench(options, server, "-c", str(CONNECTIONS), seconds=options.seconds)}


def rate(figures):
    """Small bodies over 64 kept connections."""
    with contextlib.ExitStack() as stack:
        upstream = figures.deploy("hello", "builtin:hello")
        ours = figures.dirigent("hello")
        servers = [ours, stack.enter_context(haproxy(figures.cluster.directory, upstream, 1)),
                   stack.enter_context(nginx(figures.cluster.directory, upstream, 1)), Server("straight", upstream, "/", None)]
        floor = stack.enter_context(relay(figures.options.binary, upstream))
        servers += [floor] if floor else []
        best = take_turns(figures.options, servers, small_runs(figures.options), "rate")
    for client in ("wrk", "bench"):
        get = lambda name: best[name, client]["rate"]
        figures.add(f"small body, {CONNECTIONS} connections, {client}", get("dirigent"), [(n, get(n)) for n in ("haproxy", "nginx", "straight")],
                    "requests/s", "", None)
    core = {name: 1e6 / min(best[name, client]["cpu_us"] for client in ("wrk", "bench"))
            for name in ["dirigent", "haproxy", "nginx"] + (["floor"] if floor else [])}
    reached = core["dirigent"] >= 1.4 * core["haproxy"] and core["dirigent"] >= 1.25 * core["nginx"]
    figures.add("the same per core (by CPU time of the server)", core["dirigent"], [(n, core[n]) for n in ("haproxy", "nginx")], "requests/s",
                ">= 1.4 x haproxy, >= 1.25 x nginx", reached)
    if floor:
        figures.rows.append(("... and of a relay that understands nothing (four system calls a request), the most that any proxy reaches here",
                             f"floor {number(core['floor'])} requests/s", f"{core['floor'] / core['haproxy']:.2f} x haproxy, "
                             f"{core['floor'] / core['nginx']:.2f} x nginx; dirigent {core['dirigent'] / core['floor']:.2f} x the floor", "", ""))
    figures.half_rate = best["haproxy", "bench"]["rate"] / 2


def latency(figures):
    """The 99th percentile at half of what HAProxy can take, open loop, from the intended start."""
    with contextlib.ExitStack() as stack:
        upstream = figures.deploy("hello", "builtin:hello")
        servers = [figures.dirigent("hello"), stack.enter_context(haproxy(figures.cluster.directory, upstream, 1, "haproxy-half"))]
        if figures.half_rate is None:
            figures.half_rate = run_bench(figures.options, servers[1], "-c", str(CONNECTIONS), seconds=figures.options.seconds)["rate"] / 2
        arguments = ["--rate", f"{figures.half_rate:.0f}", "-c", str(CONNECTIONS), "--warmup", "500ms"]
        best = take_turns(figures.options, servers, {"bench": lambda server: run_bench(figures.options, server, *arguments, seconds=figures.options.seconds)},
                          "latency")
    ours, theirs = best["dirigent", "bench"]["p99_us"], best["haproxy-half", "bench"]["p99_us"]
    figures.add(f"p99 at {figures.half_rate:.0f} requests/s (half of haproxy's most)", ours, [("haproxy", theirs)], "us", "<= haproxy", ours <= theirs)


def large(figures):
    """64 KiB there and back."""
    with contextlib.ExitStack() as stack:
        upstream = figures.deploy("echo", "builtin:echo")
        servers = [figures.dirigent("echo"), stack.enter_context(haproxy(figures.cluster.directory, upstream, 1, "haproxy-large")),
                   stack.enter_context(nginx(figures.cluster.directory, upstream, 1, "nginx-large"))]
        arguments = ["--body-bytes", str(LARGE_BYTES), "-c", str(LARGE_CONNECTIONS)]
        best = take_turns(figures.options, servers, {"bench": lambda server: run_bench(figures.options, server, *arguments, seconds=figures.options.seconds)},
                          "large")
    for key, what, unit in (("rate", f"64 KiB there and back, {LARGE_CONNECTIONS} connections", "requests/s"), ("core", "the same per core", "requests/s")):
        get = lambda name: best[name, "bench"]["rate"] if key == "rate" else 1e6 / best[name, "bench"]["cpu_us"]
        ours, theirs = get("dirigent"), get("haproxy-large")
        figures.add(what, ours, [("haproxy", theirs), ("nginx", get("nginx-large"))], unit, ">= 1.0 x haproxy" if key == "core" else "",
                    ours >= theirs if key == "core" else None)


def loops(figures):
    """Two loops beside one. Here the client shares the CPUs, so the cost of a request decides: 2 x cost of one / cost of two."""
    upstream = figures.deploy("hello", "builtin:hello")
    with contextlib.ExitStack() as stack:
        servers = [figures.dirigent("hello"), figures.dirigent("hello", 2),
                   stack.enter_context(haproxy(figures.cluster.directory, upstream, 1, "haproxy-1")),
                   stack.enter_context(haproxy(figures.cluster.directory, upstream, 2, "haproxy-2"))]
        best = take_turns(figures.options, servers, {"wrk": lambda server: run_wrk(server, CONNECTIONS, figures.options.seconds, threads=2)}, "loops")
    capacity = {}
    for name, first, second in (("dirigent", "dirigent", "dirigent-2"), ("haproxy", "haproxy-1", "haproxy-2")):
        one, two = best[first, "wrk"], best[second, "wrk"]
        capacity[name] = 2 * one["cpu_us"] / two["cpu_us"]
        figures.rows.append((f"two loops: CPU time of a request, {name}", f"{two['cpu_us']:.1f} us, one loop {one['cpu_us']:.1f} us",
                             f"{two['cpu_us'] / one['cpu_us']:.2f} x one loop", "", ""))
    reached = capacity["dirigent"] >= 1.8
    figures.rows.append(("two loops: capacity, 2 x cost with one / cost with two", f"{capacity['dirigent']:.2f} x one loop (two threads of haproxy "
                         f"{capacity['haproxy']:.2f} x one)", "", ">= 1.8 x", "yes" if reached else "**no**"))


def speaks_h2c(address):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        with contextlib.suppress(OSError):
            return connection.recv(9)[3:4] == b"\x04"
    return False


def h2c(figures):
    """500 functions on one h2c connection beside the same calls over HTTP/1.1."""
    role = figures.data_plane(1)
    if not speaks_h2c(role.addresses["invoke"]):
        figures.rows.append((f"h2c, {H2_FUNCTIONS} functions on one connection", "this data plane does not speak h2c", "", ">= 0.7 x HTTP/1.1 per core", "**no**"))
        return
    names = [f"many-{i}" for i in range(H2_FUNCTIONS)]
    for name in names:
        status, _, body = figures.cluster.request(f"/v1/functions/{name}?verify=0", "PUT", json.dumps({"image": "builtin:hello", "scale_min": 1}),
                                                  address=figures.cluster.admin)
        harness.check(status == 201, f"registering {name}: {status} {body}")
    server = Server("dirigent", role.addresses["invoke"], "/", role.pid)
    for name in names:
        harness.eventually(lambda: figures.cluster.request(f"/function/{name}", address=server.address)[0] == 200, f"{name} answers")
    options = figures.options
    common = ["--address", server.address, "--by", "host"]
    runs = {"http1": lambda s: run_bench(options, s, *common, "-c", str(CONNECTIONS), seconds=options.seconds, urls=names),
            "h2c": lambda s: run_bench(options, s, *common, "--protocol", "h2c", "-c", "1", "--streams", str(CONNECTIONS), seconds=options.seconds, urls=names)}
    best = take_turns(options, [server], runs, "h2c")
    core = {client: 1e6 / best["dirigent", client]["cpu_us"] for client in runs}
    figures.add(f"h2c, {H2_FUNCTIONS} functions on one connection, per core", core["h2c"], [("HTTP/1.1", core["http1"])], "requests/s",
                ">= 0.7 x HTTP/1.1", core["h2c"] >= 0.7 * core["http1"])
    for name in names:
        figures.cluster.request(f"/v1/functions/{name}", "DELETE", address=figures.cluster.admin)


def resident_kib(pid):
    return int(re.search(r"^VmRSS:\s*(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE).group(1))


def overtakers(calls, slack_us=100):
    """How many of [(came, got its slot)], in the order in which they came, got theirs before one that had come earlier by more than `slack_us`."""
    count, latest, behind = 0, 0, 0
    for came, granted in calls:
        while calls[behind][0] < came - slack_us:
            latest = max(latest, calls[behind][1])
            behind += 1
        count += granted < latest - slack_us
    return count


def queue(figures):
    """10,000 requests for a function whose first sandbox takes seconds to start."""
    cluster = figures.cluster
    cluster.ctl("deploy", "queue", "--image", "builtin:hello", "-e", "START_DELAY_MS=6000", "--no-verify", "--concurrency-limit", "1", "--scale-max", "4",
                "--queue-timeout", "120s", "--queue-depth", str(WAITERS))
    role = figures.data_plane(1)
    host, _, port = role.addresses["invoke"].rpartition(":")
    before_kib = resident_kib(role.pid)
    selector = selectors.DefaultSelector()
    connections = []
    for _ in range(WAITERS):
        connection = socket.create_connection((host, int(port)), timeout=30)
        connection.setblocking(False)
        connections.append(connection)
    time.sleep(0.5)  # until the data plane has taken them all
    connected_kib = resident_kib(role.pid)
    ids, wanted = set(), [0]

    def look():
        status = figures.describe("queue")["status"]
        ids.update(sandbox["id"] for sandbox in status["sandboxes"])
        wanted[0] = max(wanted[0], status["wanted"])
        return status

    look()
    for index, connection in enumerate(connections):
        connection.send(f"GET /function/queue?{index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        selector.register(connection, selectors.EVENT_READ, index)
    waiting = [0]

    def all_wait():
        waiting[0] = max(waiting[0], look()["waiting"])
        return waiting[0] >= WAITERS or select.select([connections[0]], [], [], 0)[0]

    harness.eventually(all_wait, f"{WAITERS} requests wait")
    queued_kib = resident_kib(role.pid)
    order, failed = [], 0
    deadline = time.monotonic() + 180
    looked = time.monotonic()
    while len(order) + failed < WAITERS and time.monotonic() < deadline:
        for key, _ in selector.select(1):
            answer = key.fileobj.recv(4096)
            selector.unregister(key.fileobj)
            if answer.startswith(b"HTTP/1.1 200 "):
                order.append(key.data)
            else:
                failed += 1
        if time.monotonic() - looked > 0.5:
            looked = time.monotonic()
            look()
    look()
    for connection in connections:
        connection.close()
    displaced = max((abs(place - index) for place, index in enumerate(order)), default=0)
    # Answers overtake one another, because the sandboxes share CPUs; who gets a slot first is what the data plane decides.
    text = cluster.request(f"/v1/calls?function=queue&limit={WAITERS}", address=role.addresses["admin"])[2]
    calls = sorted(json.loads(text)["calls"], key=lambda call: call["started_us"])
    overtaken = overtakers([(call["started_us"], call["started_us"] + sum(time for phase, time in call["phases_us"].items() if phase not in ("proxy", "fn")))
                            for call in calls])
    waiter_kib = (queued_kib - connected_kib) / WAITERS
    say(bench="queue", waiters=WAITERS, waiting_max=waiting[0], answered=len(order), failed=failed, out_of_order_max=displaced, granted=len(calls), overtook=overtaken, waiter_kib=waiter_kib,
        connection_kib=(connected_kib - before_kib) / WAITERS, sandboxes=len(ids), wanted=wanted[0])
    figures.rows += [
        (f"{WAITERS} requests queued for one cold function: answered", str(len(order)), "", "all", "yes" if len(order) == WAITERS else "**no**"),
        ("... got a slot before one that had come earlier (answers overtake one another by up to so many places)", f"{overtaken} ({displaced})", "",
         "first come, first served", "yes" if len(calls) == WAITERS and overtaken == 0 else "**no**"),
        ("... memory of a waiter (of its connection before it asked)", f"{waiter_kib:.1f} KiB ({(connected_kib - before_kib) / WAITERS:.1f} KiB)", "",
         "<= 10 KiB", "yes" if waiter_kib <= 10 else "**no**"),
        ("... sandboxes created, wanted", f"{len(ids)}, {wanted[0]}", "", "created <= wanted", "yes" if len(ids) <= wanted[0] else "**no**")]
    cluster.ctl("delete", "queue")


HEAD = b"GET /function/echo HTTP/1.1\r\nX-Slow: " + b"s" * 1000


class SlowClients:
    """A third each: heads and bodies sent a byte at a time, answers read a few bytes at a time. A client that is cut off comes back."""

    def __init__(self, address, count):
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.count = count
        self.stopping = threading.Event()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        self.ready.wait(60)
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def connect(self, kind):
        connection = socket.socket()
        if kind == 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(self.address)
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            if kind == 1:
                connection.send(b"POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
            elif kind == 2:
                connection.send(b"POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8000\r\n\r\n" + b"r" * 8000)
        return connection

    def run(self):
        clients = [[kind, self.connect(kind)] for kind in (i % 3 for i in range(self.count))]
        self.ready.set()
        step = 0
        while not self.stopping.is_set():
            # Every client moves once in two seconds, each at a time of its own.
            for client in clients[step % 400::400]:
                kind, connection = client
                try:
                    if kind == 2:
                        alive = connection.recv(16) != b""
                    else:
                        alive = connection.send(HEAD[min(step // 400, len(HEAD) - 1)].to_bytes(1, "big")) > 0
                except BlockingIOError:
                    alive = True
                except OSError:
                    alive = False
                if not alive:
                    connection.close()
                    client[1] = self.connect(kind)
            step += 1
            self.stopping.wait(0.005)
        for _, connection in clients:
            connection.close()


def slow(figures):
    """2,000 slow clients beside 200 requests/s: the good ones must not notice."""
    hello = figures.deploy("hello", "builtin:hello")
    figures.deploy("echo", "builtin:echo")
    figures.dirigent("echo")
    options = figures.options
    with contextlib.ExitStack() as stack:
        servers = [figures.dirigent("hello"), stack.enter_context(haproxy(figures.cluster.directory, hello, 1, "haproxy-slow"))]
        run = lambda server: run_bench(options, server, "--rate", str(SLOW_RATE), seconds=max(5, options.seconds))["p99_us"]
        alone, beside = {}, {}
        for _ in range(options.rounds):
            for server in servers:
                alone.setdefault(server.name, []).append(run(server))
                with SlowClients(server.address, SLOW_CLIENTS):
                    beside.setdefault(server.name, []).append(run(server))
                say(bench="slow", server=server.name, slow_clients=SLOW_CLIENTS, rate=SLOW_RATE, alone_p99_us=alone[server.name][-1],
                    beside_p99_us=beside[server.name][-1])
    ours, before = min(beside["dirigent"]), min(alone["dirigent"])
    theirs = min(beside["haproxy-slow"])
    figures.add(f"{SLOW_CLIENTS} slow clients beside {SLOW_RATE} requests/s: p99, no error", ours, [("alone", before), ("haproxy beside them", theirs)], "us",
                "<= 2 x alone", ours <= 2 * before)


FIGURES = {"rate": rate, "latency": latency, "large": large, "loops": loops, "h2c": h2c, "queue": queue, "slow": slow}


# --- report -------------------------------------------------------------------------------------------------------

def version(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return ((done.stdout or done.stderr).splitlines() or ["?"])[0].strip()


def table(figures, names):
    lines = ["### The warm path", "",
             f"{machine()}. {version(figures.options.binary, '--version')}; {version('haproxy', '-v')}; {version('nginx', '-v')}; "
             f"{version('wrk', '-v')}. `bench/warm_path.py`, {', '.join(names)}; {figures.options.rounds} rounds of {figures.options.seconds} s, best of each.", "",
             *figure_table(figures.rows)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="a release build of dirigent")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=" ".join(FIGURES))
    parser.add_argument("--client", help="the dirigent whose `bench` is the client [the same]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--markdown", type=pathlib.Path, help="file to write the table into")
    options = parser.parse_intermixed_args()
    unknown = [name for name in options.figures if name not in FIGURES]
    if unknown:
        sys.exit(f"warm_path: no figure is named {', '.join(unknown)} (there are {', '.join(FIGURES)})")
    options.client = options.client or options.binary
    missing = [tool for tool in ("wrk", "haproxy", "nginx") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"warm_path: {', '.join(missing)} missing (as root: apt-get install wrk haproxy nginx-light)")
    if os.geteuid() != 0:
        sys.exit("warm_path: needs root, because the functions run in sandboxes of the process runtime")
    os.environ["DIRIGENT"] = options.binary
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "test" / "e2e"))
    global harness
    import harness as loaded
    harness = loaded
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = options.figures or list(FIGURES)
    cluster = harness.Cluster()
    try:
        figures = Figures(options, cluster)
        for name in names:
            FIGURES[name](figures)
        text = table(figures, names)
        print("\n" + text)
        if options.markdown:
            write_markdown(options.markdown, "warm_path", text)
    except harness.Failure as failure:
        logs = "".join(f"--- {role.name}: {role.output()[-1500:]}\n" for role in cluster.roles)
        sys.exit(f"warm_path: {failure}\n{logs}")
    finally:
        for problem in cluster.close():
            print(f"warm_path: {problem}", file=sys.stderr)


if __name__ == "__main__":
    main()
