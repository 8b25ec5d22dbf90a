#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Question: does a cluster answer every invocation of minutes of the Azure Functions 2019 trace, and how late? In ms.

Registers the functions of a trace folder by form, all at once, and invokes them as the Invitro loader does over HTTP/1.1:
the same headers, run times and memory drawn from the trace's percentiles, every function's first call of a minute at the
minute's start. The functions sleep for their run time. Scheduling latency is the time to the whole answer minus the run
time that was asked for; only a call that the platform delays has any.

  bench/azure_minute.py TRACE_FOLDER --binary build/src/dirigent [--roles dev|separate]     starts a cluster itself
  bench/azure_minute.py TRACE_FOLDER --form HOST:PORT [--admin HOST:PORT]                   uses one that runs

Prints key=value lines; exit status 1 when an invocation or a registration failed.
"""
import argparse
import asyncio
import collections
import csv
import json
import math
import os
import pathlib
import random
import resource
import sys
import time
import urllib.parse

PERCENTILES_DURATION = (0, 1, 25, 50, 75, 99, 100)
PERCENTILES_MEMORY = (1, 5, 25, 50, 75, 95, 99, 100)
RUN_MS = (1, 60_000)
MEMORY_MIB = (1, 10_240)
# A kept connection is used again for this long only: well below the 60 s after which a server may close it.
KEEP_ALIVE_S = 20
MINUTE_S = 60
# Of the answer to one invocation beyond its run time. A bound for what hangs, above every limit of the platform.
ANSWER_TIMEOUT_S = 120
# The trace names dirigent_empty_function, for which a function answers at once; this one takes the time it is asked for.
# The control plane's default image_map runs both as builtin:trace.
IMAGE = "docker.io/cvetkovic/dirigent_trace_function:latest"


class Function:
    """A row of the trace: what is called, how often, and how long its calls take."""

    def __init__(self, index, suffix, image, counts, durations, memory):
        self.name = f"trace-func-{index}-{suffix}"
        self.image = image
        self.counts = counts
        self.durations = durations
        self.memory = memory
        self.endpoint = None


def rows(path):
    with open(path, newline="") as file:
        yield from csv.DictReader(file)


def read_trace(folder, image, chance):
    """The functions of the folder in the order of invocations.csv, with their percentiles."""
    durations = {row["HashFunction"]: [float(row[f"percentile_Average_{p}"]) for p in PERCENTILES_DURATION]
                 for row in rows(folder / "durations.csv")}
    memory = {row["HashFunction"]: [float(row[f"AverageAllocatedMb_pct{p}"]) for p in PERCENTILES_MEMORY]
              for row in rows(folder / "memory.csv")}
    functions = []
    for index, row in enumerate(rows(folder / "invocations.csv")):
        hashed = row["HashFunction"]
        missing = [file for file, table in (("durations", durations), ("memory", memory)) if hashed not in table]
        if missing:
            sys.exit(f"azure_minute: function {hashed} of invocations.csv is missing in {missing[0]}.csv of {folder}")
        counts = {int(column): int(count) for column, count in row.items() if column.isdigit()}
        functions.append(Function(index, chance.getrandbits(63), image, counts, durations[hashed], memory[hashed]))
    return functions


def draw(percentiles, values, bounds, chance):
    """A value below a random rank: linear between the two percentiles around it, within the bounds."""
    rank = chance.uniform(percentiles[0], 100)
    for low, high, from_value, to_value in zip(percentiles, percentiles[1:], values, values[1:]):
        if rank <= high:
            value = from_value + (to_value - from_value) * (rank - low) / (high - low)
            return int(min(max(value, bounds[0]), bounds[1]))
    return int(min(max(values[-1], bounds[0]), bounds[1]))


def spaced(count, spacing, chance):
    """When `count` calls of one minute happen, in seconds from its start; the first one at once."""
    if spacing == "equidistant":
        return [MINUTE_S * i / count for i in range(count)]
    gaps = [chance.expovariate(1) for _ in range(count)]
    scale = MINUTE_S / sum(gaps) if gaps else 0
    times, now = [], 0.0
    for gap in gaps:
        times.append(now)
        now += gap * scale
    return times


def make_plan(functions, minutes, spacing, chance):
    """[(seconds from the start, function, run time in ms, MiB)] in order."""
    plan = []
    for ordinal, minute in enumerate(minutes):
        for function in functions:
            for at in spaced(function.counts.get(minute, 0), spacing, chance):
                plan.append((ordinal * MINUTE_S + at, function, draw(PERCENTILES_DURATION, function.durations, RUN_MS, chance),
                             draw(PERCENTILES_MEMORY, function.memory, MEMORY_MIB, chance)))
    plan.sort(key=lambda call: call[0])
    return plan


# --- HTTP ---------------------------------------------------------------------------------------------------------

class Broken(Exception):
    """The connection ended or the peer spoke something else."""


def split_address(address):
    host, _, port = address.rpartition(":")
    return host, int(port)


async def read_response(reader):
    """(status, headers with lower-case names, body) of one response with a Content-Length or chunks."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int((await reader.readline()).split(b";")[0], 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readuntil(b"\r\n")
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        return status, headers, body
    except (asyncio.IncompleteReadError, OSError, IndexError, ValueError) as error:
        raise Broken(f"connection-ended: {type(error).__name__}") from error


class Pool:
    """Kept connections to one address; the most recently used one first, so that the others may age."""

    def __init__(self, address):
        self.address = address
        self.free = []
        self.opened = 0

    async def take(self):
        while self.free:
            reader, writer, used = self.free.pop()
            if time.monotonic() - used < KEEP_ALIVE_S and not reader.at_eof():
                return reader, writer
            writer.close()
        self.opened += 1
        return await asyncio.open_connection(*split_address(self.address))

    def give(self, reader, writer):
        self.free.append((reader, writer, time.monotonic()))

    def close(self):
        for _, writer, _ in self.free:
            writer.close()


async def register(function, form):
    """One registration over a connection of its own; the reason when it failed."""
    body = urllib.parse.urlencode([
        ("image", function.image), ("name", function.name), ("node_affinity", ""), ("node_port", 0), ("num_args", 0), ("num_rets", 0),
        ("port_forwarding", 80), ("port_forwarding", "tcp"), ("prepull_mode", ""), ("requested_cpu", 100), ("requested_gpu", 0),
        ("requested_memory", max(1, int(function.memory[-1]) // 10)), ("scaling_lower_bound", 0), ("scaling_upper_bound", 10000)])
    try:
        reader, writer = await asyncio.open_connection(*split_address(form))
        writer.write(f"POST / HTTP/1.1\r\nHost: {form}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {len(body)}\r\n"
                     f"Content-Type: application/x-www-form-urlencoded\r\nAccept-Encoding: gzip\r\n\r\n{body}".encode())
        status, _, answer = await read_response(reader)
        writer.close()
    except (Broken, OSError) as error:
        return f"{function.name}: {error}"
    if status != 200 or not answer:
        return f"{function.name}: {status} {answer.decode(errors='replace')}"
    function.endpoint = answer.decode().split(";")
    return None


class Outcome:
    """What came of all invocations."""

    def __init__(self):
        self.answered = 0
        self.cold = 0
        self.failures = collections.Counter()
        self.examples = {}
        self.latencies_ms = []
        self.cold_latencies_ms = []
        self.late_sends_ms = []

    def fail(self, kind, example):
        self.failures[kind] += 1
        self.examples.setdefault(kind, example)


def judge(outcome, function, run_ms, elapsed_ms, status, headers, body):
    timing = headers.get("server-timing", "")
    if status != 200:
        outcome.fail(f"{status}/{headers.get('x-dirigent-reason', 'function')}", f"{function.name}: {body.decode(errors='replace').strip()}")
        return
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    if answer.get("Status") != "OK" or answer.get("Function") != function.name:
        outcome.fail("200/wrong-body", f"{function.name}: {body[:300]!r}")
        return
    # The sleep of the function may end within its clock's millisecond, never earlier.
    if answer.get("ExecutionTime", 0) < run_ms * 1000 - 1000:
        outcome.fail("200/ended-early", f"{function.name}: asked for {run_ms} ms, {body[:300]!r}")
        return
    outcome.answered += 1
    outcome.latencies_ms.append(elapsed_ms - run_ms)
    if timing.startswith("cold;") and 'desc="no"' not in timing:
        outcome.cold += 1
        outcome.cold_latencies_ms.append(elapsed_ms - run_ms)


async def invoke(pool, function, run_ms, memory_mib, outcome):
    request = (f"POST / HTTP/1.1\r\nHost: {function.name}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n"
               f"Function: {function.name}\r\nIo_percentage: 0\r\nMultiplier: 80\r\nRequested_cpu: {run_ms}\r\n"
               f"Requested_memory: {memory_mib}\r\nWorkload: {function.image}\r\nAccept-Encoding: gzip\r\n\r\n").encode()
    began = time.monotonic()
    writer = None
    try:
        reader, writer = await pool.take()
        writer.write(request)
        status, headers, body = await asyncio.wait_for(read_response(reader), run_ms / 1000 + ANSWER_TIMEOUT_S)
    except (Broken, OSError, asyncio.TimeoutError) as error:
        outcome.fail(f"none/{error if isinstance(error, Broken) else type(error).__name__}", f"{function.name}, {run_ms} ms: {error}")
        if writer is not None:
            writer.close()
        return
    elapsed_ms = (time.monotonic() - began) * 1000
    if headers.get("connection", "").lower() == "close":
        writer.close()
    else:
        pool.give(reader, writer)
    judge(outcome, function, run_ms, elapsed_ms, status, headers, body)


async def replay(plan, chance, outcome):
    pools = {}
    calls = []
    began = time.monotonic() + 0.1
    for at, function, run_ms, memory_mib in plan:
        wait = began + at - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        outcome.late_sends_ms.append(max(0, time.monotonic() - began - at) * 1000)
        # One data plane per function for the whole run, as the loader chooses.
        if isinstance(function.endpoint, list):
            function.endpoint = chance.choice(function.endpoint)
        pool = pools.setdefault(function.endpoint, Pool(function.endpoint))
        calls.append(asyncio.create_task(invoke(pool, function, run_ms, memory_mib, outcome)))
    await asyncio.gather(*calls)
    for pool in pools.values():
        pool.close()
    return time.monotonic() - began, sum(pool.opened for pool in pools.values())


class Watch:
    """Sandboxes over time, as the control plane counts them."""

    def __init__(self, admin):
        self.admin = admin
        self.peak = 0
        self.peak_ready = 0
        self.failed_starts = 0

    async def look(self):
        reader, writer = await asyncio.open_connection(*split_address(self.admin))
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: {self.admin}\r\nConnection: close\r\n\r\n".encode())
        _, _, body = await read_response(reader)
        writer.close()
        by_state = collections.Counter()
        for line in body.decode().splitlines():
            if line.startswith('dirigent_sandboxes{state="'):
                by_state[line.split('"')[1]] += int(float(line.split()[-1]))
            elif line.startswith('dirigent_cold_starts_total{result="failed"}'):
                self.failed_starts = int(float(line.split()[-1]))
        self.peak = max(self.peak, sum(by_state.values()))
        self.peak_ready = max(self.peak_ready, by_state["ready"])

    async def run(self):
        while self.admin:
            try:
                await self.look()
            except (Broken, OSError):
                pass
            await asyncio.sleep(0.25)


# --- the cluster --------------------------------------------------------------------------------------------------

def start_cluster(options):
    """A cluster of the end-to-end tests' harness, its form address and the processes whose CPU counts."""
    os.environ["DIRIGENT"] = str(options.binary)
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "test" / "e2e"))
    import harness
    cluster = harness.Cluster()
    node = ["--cpu", options.cpu, "--memory", options.memory, "--sandboxes-max", str(options.sandboxes_max)]
    if options.roles == "dev":
        role = cluster.dev(*node)
        return cluster, role.addresses["form"]
    control = cluster.control()
    cluster.data(control.addresses["rpc"])
    cluster.worker(control.addresses["rpc"], *node)
    harness.eventually(lambda: len(json.loads(cluster.request("/v1/nodes", address=cluster.admin)[2])["nodes"]) == 1, "the worker registers")
    return cluster, control.addresses["form"]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_busy_seconds():
    """CPU seconds that all processes of the machine have used."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def quantile(values, q):
    """The smallest value that at least q of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * q) - 1)] if ordered else 0.0


async def run(options, functions, plan, chance, form, admin, cluster):
    began = time.monotonic()
    problems = [problem for problem in await asyncio.gather(*(register(function, form) for function in functions)) if problem]
    print(f"bench=azure step=register functions={len(functions)} failed={len(problems)} seconds={time.monotonic() - began:.3f}", flush=True)
    for problem in problems[:5]:
        print(f"azure_minute: {problem}", file=sys.stderr)
    if problems:
        return 1
    outcome = Outcome()
    watch = Watch(admin)
    watching = asyncio.create_task(watch.run())
    pids = [(role.name, role.pid) for role in cluster.roles] if cluster else []
    before = {pid: cpu_seconds(pid) for _, pid in pids}
    busy = machine_busy_seconds()
    seconds, connections = await replay(plan, chance, outcome)
    busy = machine_busy_seconds() - busy
    watching.cancel()
    failed = sum(outcome.failures.values())
    cpu = " ".join(f"{name}_cpu_s={cpu_seconds(pid) - before[pid]:.2f}" for name, pid in pids)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"bench=azure step=replay invocations={len(plan)} answered={outcome.answered} failed={failed} seconds={seconds:.1f} "
          f"functions={len({function.name for _, function, _, _ in plan})} connections={connections}")
    print(f"bench=azure step=replay cold_starts_seen={outcome.cold} failed_starts={watch.failed_starts} sandboxes_peak={watch.peak} "
          f"sandboxes_ready_peak={watch.peak_ready}")
    for what, values in (("scheduling", outcome.latencies_ms), ("scheduling_cold", outcome.cold_latencies_ms), ("loader_late", outcome.late_sends_ms)):
        print(f"bench=azure step=replay figure={what} n={len(values)} p50_ms={quantile(values, 0.5):.2f} p99_ms={quantile(values, 0.99):.2f} "
              f"max_ms={max(values, default=0):.2f}")
    print(f"bench=azure step=replay {cpu} loader_cpu_s={used.ru_utime + used.ru_stime:.2f} machine_cpu_s={busy:.1f}")
    for kind, count in outcome.failures.most_common():
        print(f"bench=azure step=failure kind={kind} count={count}")
        print(f"azure_minute: {kind}: {outcome.examples[kind]}", file=sys.stderr)
    return 1 if failed or outcome.answered != len(plan) else 0


def main():
    parser = argparse.ArgumentParser(description="Replays minutes of an Azure Functions 2019 trace against dirigent.")
    parser.add_argument("trace", type=pathlib.Path, help="folder with invocations.csv, durations.csv, memory.csv")
    parser.add_argument("--minute", type=int, help="column of invocations.csv to begin with (default: the first with a call)")
    parser.add_argument("--minutes", type=int, default=1, help="how many minutes (1)")
    parser.add_argument("--spacing", choices=["equidistant", "exponential"], default="exponential", help="of a function's calls in a minute")
    parser.add_argument("--seed", type=int, default=42, help="of run times, memory, spacing and names (42)")
    parser.add_argument("--image", default=IMAGE, help=f"of every function ({IMAGE})")
    parser.add_argument("--form", help="registration address of a cluster that runs")
    parser.add_argument("--admin", help="its control plane's admin address, to count sandboxes")
    parser.add_argument("--binary", type=pathlib.Path, help="dirigent executable to start a cluster with")
    parser.add_argument("--roles", choices=["dev", "separate"], default="dev", help="one process, or control, data and worker")
    parser.add_argument("--cpu", default="400", help="capacity of the node: sleeping functions need none (400)")
    parser.add_argument("--memory", default="512GiB", help="capacity of the node, as reservations count it (512GiB)")
    parser.add_argument("--sandboxes-max", type=int, default=2000)
    parser.add_argument("--log", type=pathlib.Path, help="where the logs of the roles go at the end")
    options = parser.parse_args()
    if not options.form and not options.binary:
        parser.error("--form of a running cluster or --binary to start one is needed")
    if not options.trace.is_dir():
        sys.exit(f"azure_minute: {options.trace} is not a folder (give one with invocations.csv, e.g. ../shared/traces/azure2019_500)")
    # Every waiting call holds a connection, and every answer of a busy minute may wait.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    chance = random.Random(options.seed)
    functions = read_trace(options.trace, options.image, chance)
    columns = sorted({minute for function in functions for minute in function.counts})
    first = options.minute
    if first is None:
        first = next(minute for minute in columns if any(function.counts[minute] for function in functions))
    if first not in columns:
        sys.exit(f"azure_minute: minute {first} is not in the trace, which has {columns[0]}..{columns[-1]}")
    plan = make_plan(functions, range(first, first + options.minutes), options.spacing, chance)
    print(f"bench=azure step=plan trace={options.trace.name} minute={first} minutes={options.minutes} spacing={options.spacing} "
          f"seed={options.seed} invocations={len(plan)} mean_run_ms={sum(call[2] for call in plan) / max(1, len(plan)):.0f}", flush=True)
    cluster, form, admin = None, options.form, options.admin
    status = 1
    try:
        if not form:
            cluster, form = start_cluster(options)
            admin = cluster.admin
        status = asyncio.run(run(options, functions, plan, chance, form, admin, cluster))
    finally:
        if cluster:
            problems = cluster.close()
            if options.log:
                options.log.write_text("".join(f"--- {role.name} {role.pid}\n{role.output()}" for role in cluster.roles))
            for problem in problems:
                print(f"azure_minute: {problem}", file=sys.stderr)
            status = 1 if problems else status
    sys.exit(status)


if __name__ == "__main__":
    main()
