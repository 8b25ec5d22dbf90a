#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Question: how many sandboxes a second does one control plane create, from request to forwarded, and what does scale cost?

Starts `dirigent control`, one `dirigent worker` process of many simulated nodes whose sandboxes start at once, and one
`dirigent data`, all on loopback. Every function is called once, so that every call is a creation; `dirigent bench` makes the
calls. All of them share this machine.

  bench/control_plane.py PATH_OF_DIRIGENT [FIGURE...] [--rates R,R,...] [--nodes N] [--protocol http1|h2c]
      FIGURE: creations floor scale memory. --protocol: of the calls; over h2c one connection carries them all

`floor` is what the calls alone cost where nothing is decided and nothing created: the same generator, a connection for each
call, bench/relay_floor, which connects anew for each, and a builtin function. Needs root.

Prints key=value lines. Unit: as the keys say. CPU shares are of one core.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

from report import say

harness = None  # test/e2e/harness.py, once DIRIGENT names the binary


def cpu_seconds(role):
    fields = pathlib.Path(f"/proc/{role.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(role):
    return int(re.search(r"^VmRSS:\s*(\d+) kB", pathlib.Path(f"/proc/{role.pid}/status").read_text(), re.MULTILINE).group(1)) * 1024


class Plane:
    """A control plane with simulated workers and one data plane."""

    def __init__(self, cluster, nodes, start="0ms"):
        self.cluster = cluster
        self.control = cluster.control("--autoscaler", "knative")
        rpc = self.control.addresses["rpc"]
        self.data = cluster.data(rpc, "--shards", "1")
        self.worker = cluster.worker(rpc, "--runtime", "simulated", "--nodes", str(nodes), "--simulated-start-p50", start,
                                     "--simulated-start-p99", start, "--cpu", "64", "--memory", "256GiB", "--starts-max", "0")
        harness.eventually(lambda: self.count("nodes") == nodes, "all nodes join", 120)

    def count(self, what):
        return len(json.loads(self.cluster.request(f"/v1/{what}", address=self.cluster.admin)[2])[what])

    def metric(self, name):
        text = self.cluster.request("/metrics", address=self.cluster.admin)[2].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def wait_for(self, what, count, bench):
        """When the cluster has `count` of `what`, or the generator has ended; in time.monotonic()."""
        while bench.poll() is None:
            if json.loads(self.cluster.request("/v1/cluster", address=self.cluster.admin)[2])[what] >= count:
                break
            time.sleep(0.02)
        return time.monotonic()

    def cpu(self):
        return {name: cpu_seconds(role) for name, role in (("control", self.control), ("data", self.data), ("worker", self.worker))}


def creations(nodes, rates, protocol):
    """Cold calls at each rate for a second, each to a function of its own. CPU counts from the last registration to the last creation."""
    for rate in rates:
        with harness.new_cluster() as cluster:
            plane = Plane(cluster, nodes)
            began = time.monotonic()
            bench = subprocess.Popen(
                [harness.BINARY, "bench", "--deploy", "builtin:hello", "--sweep", str(rate), "--cooldown", "1s",
                 "-d", "1s", "--server", cluster.admin, "--address", cluster.invoke_address, "-q", "-o", "-",
                 "--protocol", protocol, "--set", "profile=dirigent", "--set", "last_sandbox_retention=60s", "--keep", "--timeout", "30s"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            registered = plane.wait_for("functions", rate, bench)
            before = plane.cpu()
            created = plane.wait_for("creations", rate, bench)
            after = plane.cpu()
            out, err = bench.communicate(timeout=300)
            harness.check(bench.returncode == 0, f"bench at {rate}/s: {err[-2000:]}")
            report = json.loads(out)["metrics"]
            say(bench="creations", nodes=nodes, protocol=protocol, rate=rate, sent=report.get("sent"), err=report.get("err"), rate_reached=report.get("rate"),
                cold_share=report.get("cold.share"), latency_p50_ms=report.get("latency.p50_ms"), latency_p99_ms=report.get("latency.p99_ms"),
                schedule_p99_ms=report.get("phase.schedule.p99_ms"), registered_s=registered - began, creating_s=created - registered,
                **{f"{name}_us_per_creation": (after[name] - before[name]) / rate * 1e6 for name in after})


def floor(_nodes, rates, _protocol):
    """The calls of creations(), with a relay that understands nothing in the place of a cluster."""
    build = pathlib.Path(harness.BINARY).resolve().parent.parent
    with contextlib.ExitStack() as started:
        def start(*command, **pipes):
            process = subprocess.Popen(command, **pipes)
            started.callback(process.wait)
            started.callback(process.kill)
            return process

        # A network of their own, so that the function's port is free.
        place = start("unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep 1h", stdout=subprocess.PIPE, text=True)
        place.stdout.readline()
        inside = ("nsenter", f"--net=/proc/{place.pid}/ns/net")
        start(*inside, build / "src" / "sandbox" / "cell", "builtin", "hello", "floor", env={"PORT": "8080"})
        relay = start(*inside, build / "bench" / "relay_floor", "127.0.0.1:8080", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        address = relay.stdout.readline().strip()
        for rate in rates:
            out = subprocess.run([*inside, harness.BINARY, "bench", f"http://{address}/", "--rate", str(rate), "-d", "2s", "-c", "10000",
                                  "-H", "Connection: close", "-q", "-o", "-"],
                                 capture_output=True, text=True, timeout=60)
            metrics = json.loads(out.stdout)["metrics"]
            say(bench="floor", rate=rate, sent=metrics.get("sent"), err=metrics.get("err"), rate_reached=metrics.get("rate"),
                latency_p50_ms=metrics.get("latency.p50_ms"), latency_p99_ms=metrics.get("latency.p99_ms"))


def scale(nodes, *_):
    """What thousands of idle workers cost, and the loss of a tenth of them."""
    with harness.new_cluster() as cluster:
        plane = Plane(cluster, nodes)
        rpc = plane.control.addresses["rpc"]
        before, began = plane.cpu(), time.monotonic()
        time.sleep(10)
        share = (plane.cpu()["control"] - before["control"]) / (time.monotonic() - began)
        say(bench="heartbeats", nodes=nodes, control_cpu_share=share, control_rss_mib=rss_bytes(plane.control) / 2**20)
        lost = cluster.worker(rpc, "--runtime", "simulated", "--nodes", str(nodes // 10), "--cpu", "64", "--memory", "256GiB")
        harness.eventually(lambda: plane.count("nodes") == nodes + nodes // 10, "the others join", 120)
        lost.kill()
        began = time.monotonic()
        harness.eventually(lambda: plane.count("nodes") == nodes, "the loss is handled", 60)
        say(bench="loss", nodes=nodes // 10, seconds=time.monotonic() - began)


def memory(nodes, *_):
    """Registration, listing and memory of 10,000 functions, then of 10,000 sandboxes."""
    functions = 10_000
    with harness.new_cluster() as cluster:
        plane = Plane(cluster, 100)
        before, began = rss_bytes(plane.control), time.monotonic()
        out = subprocess.run([harness.BINARY, "bench", "--deploy", "builtin:hello", "--sweep", str(functions),
                              "--cooldown", "1s", "-d", "1s", "--server", cluster.admin, "--address", cluster.invoke_address, "-q", "-o", "-",
                              "--set", "profile=dirigent", "--set", "last_sandbox_retention=60s", "--keep", "--timeout", "60s"],
                             capture_output=True, text=True, timeout=300)
        harness.check(out.returncode == 0, f"bench: {out.stderr[-2000:]}")
        report = json.loads(out.stdout)
        both = rss_bytes(plane.control) - before
        began = time.monotonic()
        names = json.loads(cluster.request("/v1/functions?names_only=1", address=cluster.admin)[2])["names"]
        list_s = time.monotonic() - began
        began = time.monotonic()
        cluster.request("/v1/functions", address=cluster.admin)
        full_list_s = time.monotonic() - began
        began = time.monotonic()
        cluster.request("/v1/functions?summary=1", address=cluster.admin)
        summary_s = time.monotonic() - began
        say(bench="memory", functions=len(names), sandboxes=report["metrics"].get("sent"), bytes_per_function_and_sandbox=both / functions,
            deploy_s=report.get("deploy_seconds"), list_names_ms=list_s * 1e3, list_ms=full_list_s * 1e3, list_summary_ms=summary_s * 1e3)


def main():
    global harness
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dirigent")
    parser.add_argument("--rates", default="1000,2500,5000,10000,15000")
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--protocol", default="http1", choices=("http1", "h2c"))
    parser.add_argument("figures", nargs="*", default=[])
    arguments = parser.parse_args()
    os.environ["DIRIGENT"] = str(pathlib.Path(arguments.dirigent).resolve())
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "test" / "e2e"))
    import harness as e2e
    harness = e2e
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    table = {"creations": creations, "floor": floor, "scale": scale, "memory": memory}
    unknown = [name for name in arguments.figures if name not in table]
    if unknown:
        parser.error(f"unknown figure {unknown[0]}: one of {', '.join(table)}")
    for name in arguments.figures or table:
        table[name](arguments.nodes, [int(rate) for rate in arguments.rates.split(",")], arguments.protocol)


if __name__ == "__main__":
    main()
