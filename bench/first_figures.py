#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Question: does the real binary reach the figures of the first milestone, each beside its comparison of the same run?

Unit: as the keys say (us, ms, s, kib). Starts `dirigent dev` on free ports with sandboxes of the process runtime, so it
needs root; the warm figures need wrk and haproxy.

  bench/first_figures.py BUILD_DIRECTORY [--rounds N] [--seconds N] [FIGURE...]      FIGURE: cold warm register idle rpc

What is compared takes turns within the rounds. Prints key=value lines. On a machine that does other things, run it with a
real-time priority (chrt -r 10), which all that it starts inherits.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse

from report import quantile, say

harness = None  # test/e2e/harness.py, once DIRIGENT names the binary

PHASES = ("queue", "schedule", "create", "network", "start", "probe", "route", "proxy", "fn")
COLD_CALLS = 200
COLD_PAUSE_S = 0.06  # a cold start comes alone, not in a tight loop; the same pause as in cold_floor
REGISTRATIONS = 500
STARTS = 20


def fields(line):
    return dict(pair.split("=", 1) for pair in line.split() if "=" in pair)


def deploy_hello(cluster):
    status, _, body = cluster.request("/v1/functions/hello", "PUT", json.dumps({"image": "builtin:hello"}), address=cluster.admin)
    harness.check(status in (200, 201), f"deploying hello: {status} {body}")
    harness.eventually(lambda: cluster.request("/function/hello")[0] == 200, "hello answers")


def scale_hello(cluster, number):
    body = json.dumps({"scale": number})
    status, _, answer = cluster.request("/v1/functions/hello/scale", "POST", body, address=cluster.admin)
    harness.check_equal(status, 200, f"scaling hello: {answer}")


def sandboxes_of_hello(cluster):
    return json.loads(cluster.request("/v1/functions/hello", address=cluster.admin)[2])["status"]["sandboxes"]


def kib(path, key):
    return int(re.search(rf"^{key}:\s*(\d+) kB", pathlib.Path(path).read_text(), re.MULTILINE).group(1))


def descendants(pid):
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found


def lift_sandboxes(role):
    """Gives the processes of the sandboxes the real-time priority that this program was started with, if it was.

    Sandboxes leave such a priority behind, and on a busy machine would be measured at another one than who calls them.
    With cgroups v1 they must leave the group of the cpu controller for it, which has no real-time budget; they keep the
    others. One that has not joined its groups yet is left alone. Returns how many are at the priority, None without one.
    """
    policy = os.sched_getscheduler(0)
    if policy not in (os.SCHED_RR, os.SCHED_FIFO):
        return None
    lifted = 0
    root = pathlib.Path("/sys/fs/cgroup/cpu/cgroup.procs")
    for pid in descendants(role.pid):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it ended meanwhile
            if os.sched_getscheduler(pid) != policy:
                if "cell-" not in pathlib.Path(f"/proc/{pid}/cgroup").read_text().split(":cpu:")[-1].split("\n")[0]:
                    continue
                if root.exists():
                    root.write_text(str(pid))
                os.sched_setscheduler(pid, policy, os.sched_getparam(0))
            lifted += 1
    return lifted - 2  # without the role and its spawner


# --- cold ---------------------------------------------------------------------------------------------------------

def one_call(address, request):
    """Seconds from before the connect to the end of the response, and the response."""
    host, _, port = address.rpartition(":")
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return time.monotonic() - began, received


def cold_calls(cluster, role, count, times_ms, phases):
    request = b"GET /function/hello HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n"
    for _ in range(count):
        scale_hello(cluster, 0)
        harness.eventually(lambda: not sandboxes_of_hello(cluster), "the old sandbox is gone")
        time.sleep(COLD_PAUSE_S)
        if lift_sandboxes(role) is not None:
            harness.eventually(lambda: lift_sandboxes(role) >= 3, "a few sandboxes wait for an order")
        seconds, response = one_call(cluster.invoke_address, request)
        text = response.decode()
        harness.check(text.startswith("HTTP/1.1 200") and "hello from" in text, f"a cold call failed: {text}")
        timing = re.search(r"server-timing: (.*)\r\n", text, re.IGNORECASE).group(1)
        harness.check('desc="no"' not in timing, f"the call was not cold: {timing}")
        times_ms.append(seconds * 1000)
        for name, value in re.findall(r"(\w+);dur=([0-9.]+)", timing):
            phases.setdefault(name, []).append(float(value))


def cold(build, rounds, _):
    """Cold calls through dev beside what the kernel takes for the same sandbox; rounds of both in turn."""
    times, phases, floors = [], {}, {}
    with harness.new_cluster() as cluster:
        role = cluster.dev()
        deploy_hello(cluster)
        for _ in range(rounds):
            lines = subprocess.run([build / "bench" / "cold_floor", str(COLD_CALLS // rounds)], check=True, capture_output=True, text=True).stdout
            for line in map(fields, lines.splitlines()):
                floors.setdefault(line["variant"], []).append(line)
            cold_calls(cluster, role, COLD_CALLS // rounds, times, phases)
    for variant, lines in floors.items():
        say(bench="cold_floor", variant=variant, rounds=rounds, p50_ms=statistics.median(float(line["p50_us"]) for line in lines) / 1000,
            p99_ms=statistics.median(float(line["p99_us"]) for line in lines) / 1000, best_p50_ms=min(float(line["p50_us"]) for line in lines) / 1000)
    floor = statistics.median(float(line["p50_us"]) for line in floors["kernel_floor"]) / 1000
    say(bench="cold_phases", **{f"{name}_p50_ms": quantile(phases[name], 0.5) for name in PHASES if name in phases})
    say(bench="cold_phases", **{f"{name}_p99_ms": quantile(phases[name], 0.99) for name in PHASES if name in phases})
    say(bench="cold", n=len(times), p50_ms=quantile(times, 0.5), p99_ms=quantile(times, 0.99), max_ms=max(times), floor_p50_ms=floor,
        p50_to_floor=quantile(times, 0.5) / floor)


# --- warm ---------------------------------------------------------------------------------------------------------

def wrk(address, connections, seconds):
    """(p50 us, p99 us, requests/s); a response that is no success ends the run."""
    out = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", f"http://{address}/function/hello"],
                         check=True, capture_output=True, text=True).stdout
    harness.check("Non-2xx" not in out and "Socket errors" not in out, f"wrk on {address}: {out}")

    def us(percent):
        number, unit = re.search(rf"^ *{percent}% +([0-9.]+)(us|ms|s)$", out, re.MULTILINE).groups()
        return float(number) * {"us": 1, "ms": 1000, "s": 1e6}[unit]

    return us(50), us(99), float(re.search(r"Requests/sec: *([0-9.]+)", out).group(1))


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start_haproxy(directory, upstream):
    """HAProxy with one thread, as dev has one shard, and kept connections; its process and address."""
    port = free_port()
    configuration = directory / "haproxy.cfg"
    configuration.write_text(
        "global\n  nbthread 1\n  maxconn 4000\n"
        "defaults\n  mode http\n  option http-keep-alive\n  timeout client 60s\n  timeout server 60s\n  timeout connect 1s\n  http-reuse always\n"
        f"listen bench\n  bind 127.0.0.1:{port}\n  server sandbox {upstream} maxconn 4000\n")
    process = subprocess.Popen(["haproxy", "-db", "-f", str(configuration)], stderr=subprocess.DEVNULL)

    def answers():
        harness.check(process.poll() is None, "haproxy ended at its start")
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close() is None
        except OSError:
            return False

    harness.eventually(answers, "haproxy listens")
    return process, f"127.0.0.1:{port}"


def warm(_, rounds, seconds):
    """Warm calls through dev and through HAProxy to the same sandbox; of each figure the median of the rounds."""
    results = {}
    with harness.new_cluster() as cluster:
        role = cluster.dev()
        deploy_hello(cluster)
        scale_hello(cluster, 1)
        harness.eventually(lambda: [s["state"] for s in sandboxes_of_hello(cluster)] == ["ready"], "one sandbox is ready")
        sandbox = sandboxes_of_hello(cluster)[0]["address"]
        lift_sandboxes(role)
        haproxy, through_haproxy = start_haproxy(cluster.directory, sandbox)
        targets = {"direct": sandbox, "haproxy": through_haproxy, "dirigent": cluster.invoke_address}
        try:
            for turn in range(rounds):
                for connections in (1, 64):
                    names = list(targets)
                    for name in names if turn % 2 == 0 else reversed(names):
                        results.setdefault((name, connections), []).append(wrk(targets[name], connections, seconds))
        finally:
            haproxy.terminate()
            haproxy.wait()
    for connections in (1, 64):
        median = {name: [statistics.median(column) for column in zip(*results[name, connections])] for name in targets}
        best = {name: min(row[0] for row in results[name, connections]) for name in targets}
        figures = {f"{name}_{what}": round(value) for name, row in median.items() for what, value in zip(("p50_us", "p99_us", "rps"), row)}
        ratios = [ours / theirs for ours, theirs in zip(median["dirigent"], median["haproxy"])]
        say(bench="warm", connections=connections, shards=1, rounds=rounds, seconds=seconds, **figures, p50_ratio=ratios[0], p99_ratio=ratios[1],
            rps_ratio=ratios[2], best_p50_ratio=best["dirigent"] / best["haproxy"])


# --- registration -------------------------------------------------------------------------------------------------

def register_all(form):
    """Opens all connections at once, sends a registration over each, reads all answers. (seconds, failures)"""
    host, _, port = form.rpartition(":")
    selector = selectors.DefaultSelector()
    answers, failures = {}, []
    began = time.monotonic()
    for index in range(REGISTRATIONS):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((host, int(port)))
        selector.register(connection, selectors.EVENT_WRITE, index)
        answers[index] = b""
    waiting = REGISTRATIONS
    while waiting and time.monotonic() - began < 60:
        for key, events in selector.select(1):
            connection, index = key.fileobj, key.data
            try:
                if events & selectors.EVENT_WRITE:
                    body = urllib.parse.urlencode({
                        "image": "docker.io/cvetkovic/dirigent_empty_function:latest", "name": f"trace-func-{index}", "requested_cpu": 100,
                        "requested_memory": 204, "scaling_lower_bound": 0, "scaling_upper_bound": 1}) + "&port_forwarding=80&port_forwarding=tcp"
                    connection.sendall(f"POST / HTTP/1.1\r\nHost: {form}\r\nContent-Length: {len(body)}\r\n"
                                       f"Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}".encode())
                    selector.modify(connection, selectors.EVENT_READ, index)
                    continue
                chunk = connection.recv(65536)
                answers[index] += chunk
                head, end, rest = answers[index].partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                if chunk and not (end and length and len(rest) >= int(length.group(1))):
                    continue
                if not head.startswith(b"HTTP/1.1 200") or not rest:
                    failures.append(answers[index][:200])
            except OSError as error:
                failures.append(error)
            selector.unregister(connection)
            connection.close()
            waiting -= 1
    seconds = time.monotonic() - began
    for key in list(selector.get_map().values()):
        failures.append("no answer")
        key.fileobj.close()
    return seconds, failures


def register(_, rounds, __):
    """500 registrations over 500 connections at once, in memory and with a state log on disk."""
    times = {"memory": [], "state_dir": []}
    failed = {"memory": [], "state_dir": []}
    for _ in range(rounds):
        for where in times:
            with harness.new_cluster() as cluster:
                state = [] if where == "memory" else ["--state-dir", str(cluster.directory / "state")]
                role = cluster.dev(*state)
                seconds, failures = register_all(role.addresses["form"])
                times[where].append(seconds)
                failed[where] += failures
                count = len(json.loads(cluster.request("/v1/functions?names_only=1", address=cluster.admin)[2])["names"])
                harness.check_equal(count, REGISTRATIONS, "functions that are listed afterwards")
    for where, seconds in times.items():
        say(bench="register", state=where, functions=REGISTRATIONS, connections=REGISTRATIONS, rounds=rounds, failures=len(failed[where]),
            median_s=statistics.median(seconds), max_s=max(seconds))
        for failure in failed[where][:3]:
            print(f"first_figures: {failure}", file=sys.stderr)


# --- idle ---------------------------------------------------------------------------------------------------------

def idle(_, __, ___):
    """Spawn to ready, and what an idle dev holds; the median of 20 starts."""
    starts_ms, resident, shared_out, whole = [], [], [], []
    for index in range(STARTS):
        with harness.new_cluster() as cluster:
            began = time.monotonic()
            role = cluster.dev()
            starts_ms.append((time.monotonic() - began) * 1000)
            if index % 4 == 0:
                time.sleep(2)  # until the sandboxes kept ready are there
                resident.append(kib(f"/proc/{role.pid}/status", "VmRSS"))
                shared_out.append(kib(f"/proc/{role.pid}/smaps_rollup", "Pss"))
                whole.append(sum(kib(f"/proc/{pid}/smaps_rollup", "Pss") for pid in descendants(role.pid)))
    say(bench="start", n=STARTS, median_ms=statistics.median(starts_ms), min_ms=min(starts_ms), max_ms=max(starts_ms))
    say(bench="idle", n=len(resident), rss_mib=statistics.median(resident) / 1024, pss_mib=statistics.median(shared_out) / 1024,
        pss_with_parked_cells_mib=statistics.median(whole) / 1024)


# --- RPC ----------------------------------------------------------------------------------------------------------

def rpc(build, _, __):
    """Our wire beside plain KJ: rpc_bench takes turns and the best of three rounds itself."""
    print(subprocess.run([build / "bench" / "rpc_bench"], check=True, capture_output=True, text=True).stdout, end="", flush=True)


FIGURES = {"cold": cold, "warm": warm, "register": register, "idle": idle, "rpc": rpc}
NEEDED = {"cold": ["src/dirigent", "bench/cold_floor"], "warm": ["src/dirigent"], "register": ["src/dirigent"], "idle": ["src/dirigent"],
          "rpc": ["bench/rpc_bench"]}


def main():
    global harness
    parser = argparse.ArgumentParser(description="The figures of the first milestone, measured on the real binary.")
    parser.add_argument("build", type=pathlib.Path, help="build directory (a release build: the defaults of meson setup)")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (all)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of what is compared (4)")
    parser.add_argument("--seconds", type=int, default=4, help="of one wrk run (4)")
    options = parser.parse_args()
    chosen = options.figures or list(FIGURES)
    for figure in chosen:
        if figure not in FIGURES:
            parser.error(f"unknown figure {figure}: use {', '.join(FIGURES)}")
        for program in NEEDED[figure]:
            if not (options.build / program).exists():
                sys.exit(f"first_figures: {options.build / program} is missing (ninja -C {options.build} {program})")
    if os.geteuid() != 0:
        sys.exit("first_figures: sandboxes with all isolation need root (run it as root)")
    for tool in ("wrk", "haproxy"):
        if "warm" in chosen and not shutil.which(tool):
            sys.exit(f"first_figures: {tool} is missing (apt-get install {tool})")
    os.environ["DIRIGENT"] = str((options.build / "src" / "dirigent").resolve())
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "test" / "e2e"))
    import harness as shared
    harness = shared
    for figure in chosen:
        FIGURES[figure](options.build.resolve(), options.rounds, options.seconds)


if __name__ == "__main__":
    main()
