#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How many asynchronous calls a data plane accepts, and what a promise costs.

Unit: accepted calls per second, and milliseconds until the 202. In the same run, on the same disk:
  floor     fdatasync of 400 bytes into a preallocated file, one after the other: the disk's own rate and time
  sync      one sync for every call (async_durability=sync)
  group     group commit (the default)
  memory    nothing on disk
  warm      the same function, called synchronously: what the forwarding path does without any store

Then a million queued calls: how long the next start takes, and how much memory it has. One line of key=value per result.

  DIRIGENT=build/src/dirigent bench/async.py [--seconds 5] [--queued 1000000] [--directory DIR]
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
BINARY = os.environ.get("DIRIGENT", "build/src/dirigent")


def fdatasync_floor(directory, seconds):
    path = os.path.join(directory, "floor")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(fd, 0, 32 << 20)
    times, at, end = [], 4096, time.monotonic() + seconds
    while time.monotonic() < end and at < (32 << 20) - 400:
        os.pwrite(fd, b"x" * 400, at)
        at += 400
        begun = time.perf_counter()
        os.fdatasync(fd)
        times.append(time.perf_counter() - begun)
    os.close(fd)
    os.unlink(path)
    times.sort()
    return len(times) / sum(times), times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3


class Dev:
    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [BINARY, "dev", "--listen", "127.0.0.1:0", "--form-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
             "--data-admin-listen", "127.0.0.1:0", "--node-name", f"bench-{os.getpid()}", "--print-addresses", "--exit-with-stdin",
             "--log-level", "warn", "--shards", "0", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addresses = json.loads(self.process.stdout.readline())["addresses"]
        self.url = "http://" + self.addresses["invoke"]

    def ctl(self, *words):
        subprocess.run([BINARY, "ctl", "--server", self.addresses["admin"], *words], check=True, capture_output=True)

    def metric(self, name):
        text = urllib.request.urlopen(f"http://{self.addresses['data-admin']}/metrics").read().decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name) and not line.startswith("#"))

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def h2load(url, connections, seconds, requests=None):
    """Requests per second answered 2xx and the p99 in ms, by an HTTP/1.1 client that is not ours."""
    with tempfile.NamedTemporaryFile("r") as log, tempfile.NamedTemporaryFile("w") as body:
        body.write("x" * 100)
        body.flush()
        how_long = ["-n", str(requests)] if requests else ["-D", str(seconds)]
        output = subprocess.run(["h2load", "--h1", "-t", "1", "-c", str(connections), "-d", body.name, "--log-file", log.name, *how_long, url],
                                capture_output=True, text=True).stdout
        rows = [line.split("\t") for line in log.read().splitlines()]
    times = sorted(int(row[2]) for row in rows if row[1].startswith("2"))
    if not times:
        raise SystemExit(f"h2load: no answer: {output}")
    first, last = int(rows[0][0]), max(int(row[0]) + int(row[2]) for row in rows)
    failed = len(rows) - len(times)
    return len(times) / max(1e-6, (last - first) / 1e6), times[len(times) // 2] / 1e3, times[int(len(times) * 0.99)] / 1e3, failed


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=int, default=5)
    arguments.add_argument("--queued", type=int, default=1_000_000)
    arguments.add_argument("--connections", type=int, default=128)
    arguments.add_argument("--directory")
    wanted = arguments.parse_args()
    scratch = tempfile.mkdtemp(prefix="dirigent-async-bench-", dir=wanted.directory)
    try:
        rate, p50, p99 = fdatasync_floor(scratch, 2)
        print(f"bench=async what=floor syncs_per_s={rate:.0f} p50_ms={p50:.3f} p99_ms={p99:.3f}", flush=True)
        for mode in ("sync", "group", "memory"):
            more = [] if mode == "memory" else ["--async-dir", os.path.join(scratch, mode)]
            dev = Dev("--async-durability", mode, "--async-max-inflight", "1", *more)
            dev.ctl("deploy", "f", "--image", "builtin:hello", "--scale-min", "1")
            if mode == "memory":
                for connections in (1, wanted.connections):
                    rate, p50, p99, failed = h2load(dev.url + "/function/f", connections, wanted.seconds)
                    print(f"bench=async what=warm connections={connections} calls_per_s={rate:.0f} p50_ms={p50:.3f} p99_ms={p99:.3f} failed={failed}", flush=True)
            for connections in (1, wanted.connections):
                rate, p50, p99, failed = h2load(dev.url + "/async-function/f", connections, wanted.seconds)
                syncs = dev.metric("dirigent_async_store_syncs_total")
                print(f"bench=async what={mode} connections={connections} accepted_per_s={rate:.0f} p50_ms={p50:.3f} p99_ms={p99:.3f} failed={failed} syncs={syncs:.0f}", flush=True)
            dev.stop()
        if wanted.queued:
            fill(scratch, wanted)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fill(scratch, wanted):
    directory = os.path.join(scratch, "million")
    dev = Dev("--async-dir", directory, "--async-max-inflight", "1")
    dev.ctl("deploy", "slow", "--image", "builtin:sleep", "--scale-min", "1")
    while dev.metric("dirigent_async_queued") < wanted.queued - wanted.connections:
        left = wanted.queued - dev.metric("dirigent_async_queued")
        h2load(dev.url + "/async-function/slow?ms=3600000", wanted.connections, 0, int(left))
    queued, rss = dev.metric("dirigent_async_queued"), dev.rss_mib()
    store = dev.metric("dirigent_async_store_live_bytes") / 2**20
    dev.process.kill()
    dev.process.wait()
    begun = time.monotonic()
    dev = Dev("--async-dir", directory, "--async-max-inflight", "1")
    took = time.monotonic() - begun
    again, rss_again = dev.metric("dirigent_async_queued"), dev.rss_mib()
    print(f"bench=async what=queued calls={queued:.0f} rss_mib={rss:.0f} store_mib={store:.0f} after_kill={again:.0f} "
          f"start_s={took:.2f} start_rss_mib={rss_again:.0f}", flush=True)
    dev.stop()


main()
