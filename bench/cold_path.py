#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Question: what does a cold call cost, and how many sandboxes a second can one machine make, beside the kernel's own floor?

Units: milliseconds, sandboxes/s. The floor (bench/floor.h) is a program that does the same isolation in one process and
nothing else. Single starts are compared with the floor without pools, rates with the floor with pools. All run in turn in
the same rounds; the median of the rounds counts.

  bench/cold_path.py BUILD_DIRECTORY [--rounds N] [--calls N] [--seconds N] [--sandboxes N] [--markdown FILE] [FIGURE...]

FIGURE: call spare rate slope (all when none is named). Builds nothing; needs root. Prints one line of key=value per
measurement and a table; --markdown replaces the part of FILE between the lines `<!-- cold_path begin -->` and
`<!-- cold_path end -->`, or appends it with them.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from report import figure_table, machine, quantile, say, write_markdown

harness = None  # test/e2e/harness.py, once DIRIGENT names the binary

PHASES = ("queue", "schedule", "create", "network", "start", "probe", "route", "proxy", "fn")
PAUSE_MS = 60  # a cold start comes alone, not in a tight loop
CONCURRENCIES = (1, 4, 8)


def fields(line):
    return dict(pair.split("=", 1) for pair in line.split() if "=" in pair)


class Figures:
    """The options, and the rows of the table."""

    def __init__(self, options):
        self.options = options
        self.rows = []
        self.phases = {}

    def program(self, name, *arguments):
        done = subprocess.run([self.options.build / "bench" / name, *map(str, arguments)], capture_output=True, text=True)
        harness.check_equal(done.returncode, 0, f"{name} {' '.join(map(str, arguments))}: {done.stderr[-1000:]}")
        return [fields(line) for line in done.stdout.splitlines()]

    def add(self, what, measured, ratio="", target="", reached=None):
        self.rows.append((what, measured, ratio, target, "" if reached is None else "yes" if reached else "**no**"))


# --- one cold call --------------------------------------------------------------------------------------------------

def one_call(address, name):
    """Milliseconds from before the connect to the end of the response, and the phases it names."""
    host, _, port = address.rpartition(":")
    request = f"GET /function/{name} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
    received = b""
    # Not create_connection(): what it does besides connecting costs this interpreter a tenth of a cold call.
    with socket.socket() as connection:
        connection.settimeout(30)
        began = time.monotonic()
        connection.connect((host, int(port)))
        connection.sendall(request)
        while chunk := connection.recv(65536):
            received += chunk
    took = (time.monotonic() - began) * 1000
    text = received.decode()
    harness.check(text.startswith("HTTP/1.1 200"), f"a cold call failed: {text[:500]}")
    timing = re.search(r"server-timing: (.*)\r\n", text, re.IGNORECASE).group(1)
    return took, {name: float(value) for name, value in re.findall(r"(\w+);dur=([0-9.]+)", timing)}, timing


def sandboxes(cluster, name):
    return json.loads(cluster.request(f"/v1/functions/{name}", address=cluster.admin)[2])["status"]["sandboxes"]


@contextlib.contextmanager
def hello_root(build):
    """The root of the floor's function, as the image of a revision."""
    with tempfile.TemporaryDirectory(prefix="dirigent-hello-") as root:
        os.chmod(root, 0o755)
        shutil.copy(build / "bench" / "hello", root)
        yield {"image": f"dir:{root}", "arguments": ["/hello"]}


def deploy(cluster, name, **spec):
    body = json.dumps(spec)
    status, _, answer = cluster.request(f"/v1/functions/{name}", "PUT", body, address=cluster.admin)
    harness.check(status in (200, 201), f"deploying {name}: {status} {answer}")
    harness.eventually(lambda: cluster.request(f"/function/{name}")[0] == 200, f"{name} answers")


def cold_calls(cluster, name, count, spares):
    """Scales to nothing, calls, and again: (milliseconds, phases) of each call."""
    calls = []
    for _ in range(count):
        status, _, answer = cluster.request(f"/v1/functions/{name}/scale", "POST", '{"scale": 0}', address=cluster.admin)
        harness.check_equal(status, 200, f"scaling {name}: {answer}")

        def is_ready():
            found = sandboxes(cluster, name)
            return len(found) == spares and all(one["spare"] and one["state"] == "ready" for one in found)

        harness.eventually(is_ready, f"{name} has {spares} spares and nothing else")
        time.sleep(PAUSE_MS / 1000)
        took, phases, timing = one_call(cluster.invoke_address, name)
        harness.check('desc="no"' not in timing, f"the call was not cold: {timing}")
        calls.append((took, phases))
    return calls


def phase_quantiles(calls, q):
    return [quantile([phases.get(name, 0.0) for _, phases in calls], q) for name in PHASES]


def call(figures, with_spares=False):
    """Cold calls through `dirigent dev`, of a function without sandboxes and of one with a spare, beside the floor."""
    options = figures.options
    cold, builtin, spare, floors = [], [], [], {}
    with hello_root(options.build) as image, harness.new_cluster() as cluster:
        cluster.dev()
        deploy(cluster, "cold", **image)
        deploy(cluster, "builtin", image="builtin:hello")
        if with_spares:
            deploy(cluster, "spare", warm=1, **image)
        for _ in range(options.rounds):
            count = max(1, options.calls // options.rounds)
            for line in figures.program("cold_floor", count, PAUSE_MS):
                floors.setdefault(line["variant"], []).append(line)
            cold += cold_calls(cluster, "cold", count, 0)
            builtin += cold_calls(cluster, "builtin", count, 0)
            if with_spares:
                spare += cold_calls(cluster, "spare", count, 1)

    def of(variant, key):
        return statistics.median(float(line[key]) for line in floors[variant]) / 1000

    floor, floor_p99 = of("kernel_floor", "p50_us"), of("kernel_floor", "p99_us")
    times = [took for took, _ in cold]
    p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
    for variant in floors:
        say(bench="cold_path", variant=variant, p50_ms=of(variant, "p50_us"), p99_ms=of(variant, "p99_us"),
            max_ms=max(float(line["max_us"]) for line in floors[variant]) / 1000)
    say(bench="cold_path", variant="call", n=len(times), p50_ms=p50, p99_ms=p99, max_ms=max(times), p50_to_floor=p50 / floor)
    figures.add("the floor without pools, alone", f"p50 {floor:.2f}, p99 {of('kernel_floor', 'p99_us'):.2f} ms")
    figures.add("the floor with pools, alone", f"p50 {of('pooled_floor', 'p50_us'):.2f}, p99 {of('pooled_floor', 'p99_us'):.2f} ms")
    figures.add("the runtime alone: the floor's function in a rootfs",
                f"p50 {of('runtime_rootfs_parked', 'p50_us'):.2f}, p99 {of('runtime_rootfs_parked', 'p99_us'):.2f} ms",
                f"p50 {of('runtime_rootfs_parked', 'p50_us') / floor:.2f} x floor")
    figures.add("the runtime alone: builtin, parked cell (no cell parked)",
                f"p50 {of('runtime_parked', 'p50_us'):.2f} ({of('runtime_unparked', 'p50_us'):.2f}), "
                f"p99 {of('runtime_parked', 'p99_us'):.2f} ({of('runtime_unparked', 'p99_us'):.2f}) ms",
                f"p50 {of('runtime_parked', 'p50_us') / floor:.2f} x floor")
    easy = [took for took, _ in builtin]
    say(bench="cold_path", variant="call_builtin", n=len(easy), p50_ms=quantile(easy, 0.5), p99_ms=quantile(easy, 0.99), max_ms=max(easy))
    figures.add(f"cold call end to end, `dev`, a builtin, {len(easy)} calls",
                f"p50 {quantile(easy, 0.5):.2f}, p99 {quantile(easy, 0.99):.2f}, longest {max(easy):.2f} ms",
                f"p50 {quantile(easy, 0.5) / floor:.2f} x floor")
    figures.add(f"cold call end to end, `dev`, the floor's function in a rootfs, {len(times)} calls", f"p50 {p50:.2f}, p99 {p99:.2f}, longest {max(times):.2f} ms",
                f"p50 {p50 / floor:.2f} x the floor's p50, p99 {p99 / floor_p99:.2f} x its p99", "p50 <= 1.5 x, p99 <= 3 x the floor",
                p50 <= 1.5 * floor and p99 <= 3 * floor_p99)
    figures.add("the longest start", f"{max(times):.1f} ms", "", "< 1,000 ms (a lost SYN)", max(times) < 1000)
    figures.phases = {"cold, p50": phase_quantiles(cold, 0.5), "cold, p99": phase_quantiles(cold, 0.99),
                      "builtin, p50": phase_quantiles(builtin, 0.5)}
    if spare:
        warm = [took for took, _ in spare]
        figures.phases.update({"spare, p50": phase_quantiles(spare, 0.5), "spare, p99": phase_quantiles(spare, 0.99)})
        say(bench="cold_path", variant="spare", n=len(warm), p50_ms=quantile(warm, 0.5), p99_ms=quantile(warm, 0.99), max_ms=max(warm),
            to_cold=quantile(warm, 0.5) / p50)
        figures.add(f"the same function with a spare (`--warm 1`), {len(warm)} calls",
                    f"p50 {quantile(warm, 0.5):.2f}, p99 {quantile(warm, 0.99):.2f}, longest {max(warm):.2f} ms",
                    f"p50 {quantile(warm, 0.5) / p50:.2f} x cold", "p50 <= 0.5 x cold", quantile(warm, 0.5) <= 0.5 * p50)


def spare(figures):
    call(figures, with_spares=True)


# --- rates ----------------------------------------------------------------------------------------------------------

def rate(figures):
    """Sandboxes made and unmade a second, beside the floor with pools; all concurrencies in turn."""
    options = figures.options
    modes = ("floor", "rootfs", "builtin")
    rates = {(mode, concurrency): [] for mode in modes for concurrency in CONCURRENCIES}
    longest = {mode: 0.0 for mode in modes}
    for _ in range(options.rounds):
        for concurrency in CONCURRENCIES:
            for mode in modes:
                line = figures.program("cold_rate", mode, concurrency, options.seconds)[-1]
                rates[mode, concurrency].append(float(line["per_second"]))
                longest[mode] = max(longest[mode], float(line["max_us"]) / 1000)
    median = {key: statistics.median(values) for key, values in rates.items()}
    best = {mode: max(median[mode, concurrency] for concurrency in CONCURRENCIES) for mode in modes}
    for (mode, concurrency), value in median.items():
        say(bench="cold_path", variant=f"rate_{mode}", concurrency=concurrency, per_second=value)
    each = {mode: ", ".join(f"{median[mode, concurrency]:,.0f}" for concurrency in CONCURRENCIES) for mode in modes}
    names = ", ".join(map(str, CONCURRENCIES))
    figures.add(f"the floor with pools, {names} processes", f"{each['floor']} sandboxes/s")
    figures.add(f"the runtime, the floor's function in a rootfs, {names} at a time", f"{each['rootfs']} sandboxes/s, longest {longest['rootfs']:.0f} ms",
                f"best {best['rootfs'] / best['floor']:.2f} x the floor's best", ">= 0.6 x, with teardown", best["rootfs"] >= 0.6 * best["floor"])
    figures.add(f"the runtime, builtin, {names} at a time", f"{each['builtin']} sandboxes/s, longest {longest['builtin']:.0f} ms",
                f"best {best['builtin'] / best['floor']:.2f} x the floor's best")


# --- many, and what is left of them -----------------------------------------------------------------------------------

def traces():
    """What sandboxes could leave behind, counted over the whole machine."""
    def lines(*command):
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.splitlines()

    # Since Linux 6.12 the last of a namespace is freed when the next one is taken down: without one, up to a hundred that
    # are gone for everybody stay counted.
    subprocess.run(["unshare", "--net", "true"], check=True)

    def of_slab(name):
        found = re.search(rf"^{name}\s+(\d+)", pathlib.Path("/proc/slabinfo").read_text(), re.MULTILINE)
        return int(found.group(1)) if found else 0

    processes = 0
    for status in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            processes += b"dirigent-cell" in status.read_bytes()
    return {
        "processes": processes,
        "mounts": len(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()),
        "network namespaces": of_slab("net_namespace"),
        "cgroups": sum(1 for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") for _ in pathlib.Path(top).glob("**/dirigent/**/cell-*")),
        "links": sum("dg" in name for name in os.listdir("/sys/class/net")),
        "nft tables": sum("dirigent" in line for line in lines("nft", "list", "tables")),
        "routes": sum("198.1" in line for line in lines("ip", "route", "show", "table", "all")),
        "neighbours": sum("198.1" in line for line in lines("ip", "neighbour", "show", "nud", "all")),
        "files": len(list(pathlib.Path("/tmp").glob("dirigent-*"))),
    }


def slope(figures):
    """Many sandboxes in one go: does the last tenth cost more than the first, and what is left in the end?"""
    count = figures.options.sandboxes
    before = traces()
    lines = figures.program("cold_rate", "rootfs", CONCURRENCIES[-1], 0, count)
    left = {}
    deadline = time.monotonic() + 30  # the kernel takes namespaces down in its own time
    while time.monotonic() < deadline:
        left = {name: number - before[name] for name, number in traces().items()}
        if not any(number > 0 for number in left.values()):
            break
        time.sleep(0.5)
    tenths = [line for line in lines if line["part"] == "tenth"]
    whole = [line for line in lines if line["part"] == "whole"][-1]
    rates = [float(line["per_second"]) for line in tenths]
    medians = [float(line["p50_us"]) / 1000 for line in tenths]
    for number, (per_second, p50) in enumerate(zip(rates, medians), 1):
        say(bench="cold_path", variant="slope", tenth=number, per_second=per_second, p50_ms=p50)
    say(bench="cold_path", variant="slope", n=int(whole["n"]), per_second=float(whole["per_second"]), max_ms=float(whole["max_us"]) / 1000)
    say(bench="cold_path", variant="left", **{name.replace(" ", "_"): number for name, number in left.items()})
    # Halves, so that one tenth beside somebody else's burst does not decide.
    first, second = statistics.median(rates[:5]), statistics.median(rates[5:])
    longest = float(whole["max_us"]) / 1000
    figures.add(f"{count:,} sandboxes, {CONCURRENCIES[-1]} at a time: tenths", ", ".join(f"{value:,.0f}" for value in rates) + " sandboxes/s",
                f"second half {second / first:.2f} x the first", "no slope (>= 0.9 x)", second >= 0.9 * first)
    figures.add("... their p50, first and last tenth", f"{medians[0]:.1f}, {medians[-1]:.1f} ms")
    figures.add("... the longest start", f"{longest:.0f} ms", "", "< 1,000 ms", longest < 1000)
    figures.add("... left behind", ", ".join(f"{max(0, number)} {name}" for name, number in left.items()), "", "0 of each",
                not any(number > 0 for number in left.values()))


# --- the table --------------------------------------------------------------------------------------------------------

FIGURES = {"call": call, "spare": spare, "rate": rate, "slope": slope}


def table(figures, names):
    version = subprocess.run([figures.options.build / "src" / "dirigent", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    lines = ["## The cold path", "",
             f"{machine()}. {version}. `bench/cold_path.py`, {', '.join(names)}; "
             f"{figures.options.rounds} rounds, the median of them; rates over {figures.options.seconds} s.", "", *figure_table(figures.rows)]
    if figures.phases:
        lines += ["", "The phases of these calls, as `Server-Timing` has them (ms; each phase's own quantile):", "",
                  "| | " + " | ".join(PHASES) + " |", "|---|" + "---|" * len(PHASES)]
        lines += [f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |" for name, values in figures.phases.items()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="directory of a release build")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=" ".join(FIGURES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=300, help="cold calls altogether")
    parser.add_argument("--seconds", type=float, default=3, help="of each rate")
    parser.add_argument("--sandboxes", type=int, default=20_000, help="of the long run")
    parser.add_argument("--markdown", type=pathlib.Path, help="file to write the table into")
    options = parser.parse_intermixed_args()
    options.build = options.build.resolve()
    unknown = [name for name in options.figures if name not in FIGURES]
    if unknown:
        sys.exit(f"cold_path: no figure is named {', '.join(unknown)} (there are {', '.join(FIGURES)})")
    if os.geteuid() != 0:
        sys.exit("cold_path: needs root, because sandboxes at full strength do")
    os.environ["DIRIGENT"] = str(options.build / "src" / "dirigent")
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "test" / "e2e"))
    global harness
    import harness as loaded
    harness = loaded
    names = options.figures or ["spare", "rate", "slope"]
    figures = Figures(options)
    try:
        for name in names:
            FIGURES[name](figures)
        text = table(figures, names)
        print("\n" + text)
        if options.markdown:
            write_markdown(options.markdown, "cold_path", text)
    except harness.Failure as failure:
        sys.exit(f"cold_path: {failure}")


if __name__ == "__main__":
    main()
