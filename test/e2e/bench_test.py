#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""End to end: `dirigent bench` against the real binary, and the bytes of the unmodified Invitro loader (test/e2e/invitro,
captured from it). Needs DIRIGENT=path of the binary."""
import csv
import http.client
import json
import lzma
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading

import h2_bytes
from harness import (BINARY, TIMEOUT, Failure, Skip, check, check_equal, eventually, needs_root, raw_exchange, run_tests)

CAPTURES = pathlib.Path(__file__).resolve().parent / "invitro"
COLUMNS = ("phase,instance,invocationID,startTime,requestedDuration,grpcConnEstablish,responseTime,actualDuration,connectionTimeout,"
           "functionTimeout,actualMemoryUsage,memoryAllocationTimeout,timeToSubmitMs,userCodeExecutionMs,timeToGetResponseMs").split(",")


def bench(cluster, *arguments, status=0):
    """Runs `dirigent bench`; returns (stdout, stderr)."""
    server = ["--server", cluster.admin] if cluster.admin and "--compare" not in arguments else []
    done = subprocess.run([BINARY, "bench", *arguments, *server], capture_output=True, timeout=TIMEOUT, text=True)
    if done.returncode != status:
        raise Failure(f"bench {' '.join(arguments)}: exit status {done.returncode}, expected {status}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def functions(cluster):
    return cluster.ctl("list", "-o", "name")[0].split()


def test_closed_loop(cluster):
    """bench: a closed loop makes its calls to functions that are there for the run only"""
    cluster.dev("--runtime", "simulated")
    out, _ = bench(cluster, "--deploy", "builtin:hello", "--functions", "3", "-n", "500", "-c", "8", "-t", "2", "-o", "-")
    report = json.loads(out)
    metrics = report["metrics"]
    check_equal((metrics["sent"], metrics["ok"], metrics["err"]), (500, 500, 0))
    check_equal(report["status"], {"200": 500})
    check(metrics["overhead.p50_ms"] > 0 and metrics["fn.p50_ms"] > 0, metrics)
    check(metrics["overhead.p50_ms"] <= metrics["latency.max_ms"], metrics)
    check_equal(report["settings"]["endpoints"], cluster.invoke_address)
    check_equal(functions(cluster), [], "functions left behind")


def test_open_loop_and_assertions(cluster):
    """bench: an open loop tells its figures, and assertions decide the exit status"""
    cluster.dev("--runtime", "simulated")
    cluster.ctl("deploy", "hello", "--image", "builtin:hello")
    data = ["--address", cluster.invoke_address]
    out, _ = bench(cluster, "hello?x=1", "--rate", "200", "--arrivals", "constant", "-d", "500ms", *data, "--assert", "err==0,ok==100,latency.p50<60s")
    for part in ("open loop, constant, 200 calls/s", "sent 100   ok 100   failed 0", "platform overhead", "where it went"):
        check(part in out, out)
    _, talk = bench(cluster, "hello", "-n", "10", *data, "--assert", "ok==10,latency.p99<1ns,err>0", status=8)
    check("latency.p99<1ns: it is" in talk and "err>0: it is 0" in talk and "ok==10" not in talk, talk)
    # By the Host header as well, and a function that is not there.
    bench(cluster, "hello", "-n", "10", "--by", "host", *data, "--assert", "err==0")
    _, talk = bench(cluster, "nobody", "-n", "10", *data, status=1)
    check("no call was answered" in talk, talk)
    bench(cluster, "nobody", "-n", "10", *data, "--assert", "errors.not-found==10,status.404==10", status=1)


def test_mistakes(cluster):
    """bench: a mistake is told before anything is registered or called"""
    cluster.dev("--runtime", "simulated")
    for arguments, words in ((["--deploy", "builtin:hello", "--assert", "latency.p98<5ms"], 'did you mean "latency.p9'),
                             (["--rate", "5", "--trace", "x"], "give one"),
                             (["hello", "--rate", "none"], "is not a number"),
                             (["hello", "--minutes", "3"], "means nothing to a closed loop"),
                             (["https://x/"], "TLS"),
                             ([], "name a function"),
                             (["hello", "--keep"], "needs --deploy"),
                             (["hello", "-t", "4"], "threads cannot share"),
                             (["--trace", "no-such-folder"], "there is no trace at"),
                             (["Bad_Name", "-n", "1"], "Bad_Name"),
                             (["hello", "--rat", "5"], "--rate")):
        _, talk = bench(cluster, *arguments, status=2)
        check(words in talk, f"{arguments}: {talk}")
    check_equal(functions(cluster), [])
    _, talk = bench(cluster, "--deploy", "builtin:nonsense", status=1)
    check("nonsense" in talk, talk)
    cluster.admin = "127.0.0.1:1"
    _, talk = bench(cluster, "--deploy", "builtin:hello", status=4)
    check("127.0.0.1:1" in talk, talk)
    _, talk = bench(cluster, "hello", "--address", "127.0.0.1:1", status=1)
    check("cannot connect to 127.0.0.1:1" in talk, talk)


def test_files(cluster):
    """bench: JSON, CSV with Invitro's columns and plots are written, compared and replayed"""
    cluster.dev("--runtime", "simulated")
    out = lambda name: str(cluster.directory / name)
    trace = ["--deploy", "builtin:trace", "--form", cluster.roles[0].addresses["form"], "--functions", "4", "--run-time", "5ms"]
    bench(cluster, *trace, "--rate", "100", "-d", "1s", "--seed", "3", "-o", out("a.json"), "--csv", out("a.csv"), "--plot", out("a.svg"))
    with open(out("a.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    report = json.loads(pathlib.Path(out("a.json")).read_text())
    check_equal(list(rows[0]), COLUMNS)
    check_equal(len(rows), report["metrics"]["sent"])
    for row in rows:
        check(re.fullmatch(r"bench-[0-3]-\d+", row["instance"]), row)
        check(re.fullmatch(r"min0\.inv\d+", row["invocationID"]), row)
        check_equal((row["phase"], row["requestedDuration"], row["connectionTimeout"], row["functionTimeout"]), ("2", "5000", "false", "false"))
        check(0 < int(row["grpcConnEstablish"]) <= int(row["responseTime"]), row)
    check(pathlib.Path(out("a.svg")).read_text().startswith("<svg"), "a plot")
    bench(cluster, "--replay", out("a.csv"), "--speed", "4", "--deploy", "builtin:trace", "-o", out("b.json"), "--assert", f"sent=={len(rows)},err==0")
    table, _ = bench(cluster, "--compare", out("a.json"), out("b.json"), "--assert", "sent.ratio==1", "--plot", out("c.svg"))
    check("latency.p99" in table and "b / a" in table, table)
    bench(cluster, "--compare", out("a.json"), out("b.json"), "--assert", "sent.ratio>1", status=8)
    bench(cluster, "--compare", out("a.json"), out("a.csv"), status=2)
    check_equal(functions(cluster), [], "functions left behind")


def test_sweep(cluster):
    """bench: a sweep finds every first call cold and tells each rate"""
    cluster.dev("--runtime", "simulated")
    out, talk = bench(cluster, "--sweep", "4,8", "--cooldown", "1s", "-d", "900ms", "-o", "-")
    report = json.loads(out)
    first, second = report["sweep"]
    check_equal((first["rate"], second["rate"]), (4, 8))
    check_equal(first["metrics"]["sent"], 4)
    check_equal(first["metrics"]["cold.share"], 1, f"the first call of each function: {first}")
    check_equal(second["metrics"]["sent"], 8)
    check_equal(report["metrics"]["sent"], 12)
    check("4/s: 4 calls, 0 failed" in talk, talk)


def test_interrupted(cluster):
    """bench: the first interrupt ends the run in order, with its figures and without its functions"""
    cluster.dev("--runtime", "simulated")
    process = subprocess.Popen([BINARY, "bench", "--deploy", "builtin:hello", "--rate", "20", "-d", "1000s", "--server", cluster.admin],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        name = eventually(lambda: functions(cluster), "the function is registered")[0]
        requests = lambda: json.loads(cluster.ctl("describe", name, "-o", "json")[0])["status"]["requests_per_second"]
        eventually(lambda: requests() > 0, "calls are made")
        process.send_signal(signal.SIGINT)
        out, talk = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    check_equal(process.returncode, 130, talk)
    check("stopped early" in out and "latency, from the intended start" in out, out)
    check_equal(functions(cluster), [], "functions left behind")


def write_trace(folder):
    (folder / "invocations.csv").write_text("HashOwner,HashApp,HashFunction,Trigger,480\no,a,aa,http,20\no,a,bb,timer,10\n")
    head = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum," + ",".join(f"percentile_Average_{p}" for p in (0, 1, 25, 50, 75, 99, 100))
    (folder / "durations.csv").write_text(head + "\no,a,aa,9,9,9,9,20,20,20,20,20,20,20\no,a,bb,9,9,9,9,40,40,40,40,40,40,40\n")
    (folder / "memory.csv").write_text("HashFunction,HashOwner,HashApp,SampleCount,AverageAllocatedMb\naa,o,a,1,200\nbb,o,a,1,400\n")


def test_trace(cluster):
    """bench: a trace is played with its run times, slowdown and scheduling latency are told"""
    needs_root()
    cluster.dev()
    write_trace(cluster.directory)
    path = str(cluster.directory / "out.csv")
    out, _ = bench(cluster, "--trace", str(cluster.directory), "--speed", "60", "--iat", "equidistant", "--csv", path, "--assert", "sent==30,err==0,fn.min>=20ms,slowdown.min>=1")
    check("slowdown of a function" in out and "scheduling latency" in out and "cold calls" in out, out)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    check_equal(len(rows), 30)
    for row in rows:
        asked, inside, response = (int(row[c]) for c in ("requestedDuration", "actualDuration", "responseTime"))
        check(asked in (20000, 40000) and asked <= inside <= response, row)
    check_equal(sorted({re.sub(r"-\d+$", "", row["instance"]) for row in rows}), ["trace-func-0", "trace-func-1"])
    check_equal(functions(cluster), [], "functions left behind")


# --- the Invitro loader -------------------------------------------------------------------------------------------

def captured(capture, **changes):
    """A captured registration with another function name (and its length)."""
    head, _, body = (CAPTURES / capture).read_bytes().partition(b"\r\n\r\n")
    for key, value in changes.items():
        body = re.sub(rb"(^|&)%s=[^&]*" % key.encode(), rb"\g<1>%s=%s" % (key.encode(), value.encode()), body)
    head = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head)
    return head + b"\r\n\r\n" + body


def read_response(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


def exchange(address, data):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(data)
        return read_response(connection)


def go_invocation(name, image, milliseconds):
    """The bytes of Go's HTTP/1.1 client, as Invitro's main branch sends them."""
    return (f"POST / HTTP/1.1\r\nHost: {name}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\nFunction: {name}\r\n"
            f"Io_percentage: 0\r\nMultiplier: 80\r\nRequested_cpu: {milliseconds}\r\nRequested_memory: 2048\r\nWorkload: {image}\r\n"
            "Accept-Encoding: gzip\r\n\r\n").encode()


def check_answer(cluster, answer, name, least_us):
    """What the loader reads of an invocation, and what it ignores: all four fields, nothing else."""
    status, headers, body = answer
    check_equal(status, 200, body)
    check_equal(headers["content-type"], "application/json")
    fields = json.loads(body)
    check_equal(list(fields), ["Status", "Function", "MachineName", "ExecutionTime"])
    check_equal((fields["Status"], fields["Function"]), ("OK", name))
    nodes = [node["name"] for node in json.loads(cluster.ctl("nodes", "-o", "json")[0])["nodes"]]
    check(fields["MachineName"] in nodes, f"{fields['MachineName']} is none of {nodes}")
    check(isinstance(fields["ExecutionTime"], int) and fields["ExecutionTime"] >= least_us, fields)


def test_invitro_registers_and_invokes(cluster):
    """Invitro: its captured registrations and its HTTP/1.1 invocations get the answers it expects"""
    needs_root()
    form = cluster.dev().addresses["form"]
    for capture, image, least_us in (("register_main_trace.http1.req", "docker.io/cvetkovic/dirigent_grpc_function:latest", 30_000),
                                     ("register_main_busyloop_prepull.http1.req", "docker.io/cvetkovic/dirigent_empty_function:latest", 0)):
        bytes_sent = (CAPTURES / capture).read_bytes()
        name = re.search(rb"&name=([^&]*)", bytes_sent).group(1).decode()
        status, _, _ = exchange(form, f"GET /check?name={name} HTTP/1.1\r\nHost: {form}\r\n\r\n".encode())
        check_equal(status, 404, "before its registration")
        status, headers, body = exchange(form, bytes_sent)
        check_equal((status, body.decode()), (200, cluster.invoke_address))
        check_equal(int(headers["content-length"]), len(cluster.invoke_address))
        status, _, _ = exchange(form, bytes_sent)
        check_equal(status, 409, "the same name again")
        status, _, _ = exchange(form, f"GET /check?name={name} HTTP/1.1\r\nHost: {form}\r\n\r\n".encode())
        check_equal(status, 200, "after its registration")
        request = go_invocation(name, image, 30)
        answer = eventually(lambda: next((a for a in [exchange(cluster.invoke_address, request)] if a[0] != 404), None), "the data plane knows it")
        check_answer(cluster, answer, name, least_us)
        # Kept connections, as the loader's ten.
        host, _, port = cluster.invoke_address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            for _ in range(5):
                connection.sendall(request)
                check_answer(cluster, read_response(connection), name, least_us)


def test_invitro_rps_mode(cluster):
    """Invitro's rps_mode branch: POST /registerService with cold_start_sweep, and GET invocations"""
    needs_root()
    form = cluster.dev().addresses["form"]
    body = ("cold_start_sweep=true&image=docker.io%2Fcvetkovic%2Fdirigent_empty_function%3Alatest&name=cold-function-0-5102&port_forwarding=80&"
            "port_forwarding=tcp&requested_cpu=100&requested_memory=204&scaling_lower_bound=0&scaling_upper_bound=1")
    status, _, answer = exchange(form, (f"POST /registerService HTTP/1.1\r\nHost: {form}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {len(body)}\r\n"
                                        f"Content-Type: application/x-www-form-urlencoded\r\nAccept-Encoding: gzip\r\n\r\n{body}").encode())
    check_equal((status, answer.decode()), (200, cluster.invoke_address))
    request = go_invocation("cold-function-0-5102", "empty", 10).replace(b"POST", b"GET").replace(b"Content-Length: 0\r\n", b"")
    answer = eventually(lambda: next((a for a in [exchange(cluster.invoke_address, request)] if a[0] != 404), None), "the data plane knows it")
    check_answer(cluster, answer, "cold-function-0-5102", 0)
    scaling = json.loads(cluster.ctl("describe", "cold-function-0-5102", "-o", "json")[0])
    check("6000" in json.dumps(scaling), "the sweep's window of 6 s")


def test_invitro_storm(cluster):
    """Invitro: 500 registrations at once, each on a connection of its own, are all answered and callable"""
    form = cluster.dev("--runtime", "simulated", "--cpu", "1000", "--memory", "1000GiB").addresses["form"]
    names = [f"trace-func-{i}-90817" for i in range(500)]
    host, _, port = form.rpartition(":")
    connections = [socket.create_connection((host, int(port)), timeout=TIMEOUT) for _ in names]
    try:
        for connection, name in zip(connections, names):
            connection.sendall(captured("register_main_trace.http1.req", name=name))
        for connection, name in zip(connections, names):
            status, _, body = read_response(connection)
            check_equal((status, body.decode()), (200, cluster.invoke_address), name)
    finally:
        for connection in connections:
            connection.close()
    check_equal(sorted(functions(cluster)), sorted(names))
    failures = []

    def call(part):
        for name in part:
            request = go_invocation(name, "empty", 1)
            try:
                answer = eventually(lambda: next((a for a in [exchange(cluster.invoke_address, request)] if a[0] != 404), None), f"{name} is known")
                if answer[0] != 200 or not answer[2]:
                    failures.append((name, answer))
            except (OSError, Failure) as error:
                failures.append((name, error))

    threads = [threading.Thread(target=call, args=(names[i::10],)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_equal(failures[:3], [], f"{len(failures)} failures")


def needs_h2c(address):
    hello = h2_bytes.PREFACE + h2_bytes.frame(h2_bytes.SETTINGS, 0, 0)
    if not any(kind == h2_bytes.SETTINGS for kind, _, _, _ in h2_bytes.frames(raw_exchange(address, hello, timeout=1))):
        raise Skip("this data plane does not speak h2c")


def test_invitro_h2c(cluster):
    """Invitro: its captured HTTP/2 invocations, five streams of one connection, are answered with every field"""
    needs_root()
    form = cluster.dev().addresses["form"]
    needs_h2c(cluster.invoke_address)
    name = "trace-func-0-18389893220085039191"  # what the capture calls, for 99 or 100 ms each time
    exchange(form, captured("register_main_trace.http1.req", name=name))
    eventually(lambda: exchange(cluster.invoke_address, go_invocation(name, "empty", 1))[0] == 200, "the data plane knows it")
    answer = list(h2_bytes.frames(raw_exchange(cluster.invoke_address, (CAPTURES / "invoke_trace_mode.h2.req").read_bytes(), timeout=3)))
    for stream in (1, 3, 5, 7, 9):
        own = [frame for frame in answer if frame[2] == stream]
        blocks = [payload for kind, _, _, payload in own if kind == 1]
        # A change of the table's size may come first; then the one byte that stands for ":status 200".
        check(blocks and re.match(rb"([\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f])*\x88", blocks[0]), f"stream {stream}: {own}")
        body = json.loads(b"".join(payload for kind, _, _, payload in own if kind == 0))
        check_equal(list(body), ["Status", "Function", "MachineName", "ExecutionTime"])
        check_equal((body["Status"], body["Function"]), ("OK", name))
        check(body["ExecutionTime"] >= 99_000, body)
        check(any(flags & 1 for kind, flags, _, _ in own if kind in (0, 1)), f"stream {stream} has ended")


class Answers:
    """What comes back on an HTTP/2 connection on which captured frames are sent, no more streams at a time than are allowed."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.connection = socket.create_connection((host, int(port)), timeout=TIMEOUT)
        self.headers_of, self.body_of, self.whole = {}, {}, set()
        self.begun = 0
        self.allowed = 100  # as Go's client takes it until it is told
        self.settled = False
        self.reader = h2_bytes.HeaderReader()
        self.unread = b""

    def send(self, kind, flags, stream, payload):
        if kind == h2_bytes.SETTINGS and flags & h2_bytes.ACK:
            return  # sent for each SETTINGS that comes
        if kind == h2_bytes.HEADERS:
            while self.begun - len(self.whole) >= self.allowed or not self.settled:
                self.read()
            self.begun += 1
        self.connection.sendall(h2_bytes.frame(kind, flags, stream, payload))

    def read(self):
        received = self.connection.recv(1 << 18)
        if not received:
            raise Failure(f"the connection has ended, {len(self.whole)} of {self.begun} calls are answered")
        self.unread += received
        for kind, flags, stream, payload in h2_bytes.frames(self.unread):
            self.unread = self.unread[9 + len(payload):]
            self.take(kind, flags, stream, payload)

    def take(self, kind, flags, stream, payload):
        if kind == h2_bytes.SETTINGS and not flags & h2_bytes.ACK:
            settings = {int.from_bytes(payload[i:i + 2], "big"): int.from_bytes(payload[i + 2:i + 6], "big") for i in range(0, len(payload), 6)}
            self.allowed = settings.get(h2_bytes.MAX_CONCURRENT_STREAMS, 1000)
            self.settled = True
            self.connection.sendall(h2_bytes.frame(h2_bytes.SETTINGS, h2_bytes.ACK, 0))
        elif kind == h2_bytes.PING and not flags & h2_bytes.ACK:
            self.connection.sendall(h2_bytes.frame(h2_bytes.PING, h2_bytes.ACK, 0, payload))
        elif kind in (h2_bytes.RST_STREAM, h2_bytes.GOAWAY):
            raise Failure(f"frame {kind} of stream {stream}: {payload!r}")
        elif kind == h2_bytes.HEADERS:
            # Trailers come behind the body, as headers.
            self.headers_of.setdefault(stream, []).append(self.reader.read(payload))
        elif kind == h2_bytes.DATA:
            self.body_of[stream] = self.body_of.get(stream, b"") + payload
        if kind in (h2_bytes.HEADERS, h2_bytes.DATA) and flags & h2_bytes.END_STREAM:
            self.whole.add(stream)

    def replay(self, capture):
        """All of a client's bytes, and all answers to them."""
        self.connection.sendall(h2_bytes.PREFACE)
        for one in h2_bytes.frames(capture.removeprefix(h2_bytes.PREFACE)):
            if one[0] not in (h2_bytes.PING, h2_bytes.RST_STREAM, h2_bytes.GOAWAY):  # what it said to another server's answers
                self.send(*one)
        while len(self.whole) < self.begun:
            self.read()
        self.connection.close()


def calls_of(capture):
    """The request's fields of each stream."""
    reader = h2_bytes.HeaderReader()
    return {stream: reader.read(payload) for kind, _, stream, payload in h2_bytes.frames(capture.removeprefix(h2_bytes.PREFACE)) if kind == h2_bytes.HEADERS}


def test_invitro_minute(cluster):
    """Invitro: all 6,351 captured calls of a minute of the Azure trace on one HTTP/2 connection, each answered with every field"""
    needs_root()
    form = cluster.dev("--cpu", "512", "--memory", "1TiB", "--parked-sandboxes", "32").addresses["form"]
    needs_h2c(cluster.invoke_address)
    capture = lzma.decompress((CAPTURES / "azure500_1min_all_invocations.h2.req.xz").read_bytes())
    calls = calls_of(capture)
    names = sorted({fields["function"] for fields in calls.values()})
    check_equal((len(calls), len(names)), (6351, 101))
    for name in names:
        check_equal(exchange(form, captured("register_main_trace.http1.req", name=name))[0], 200, name)
    answers = Answers(cluster.invoke_address)
    answers.replay(capture)
    check_equal(len(answers.whole), len(calls))
    nodes = [node["name"] for node in json.loads(cluster.ctl("nodes", "-o", "json")[0])["nodes"]]
    for stream, call in calls.items():
        check_equal([head[":status"] for head in answers.headers_of[stream]], ["200"], f"stream {stream}: {answers.body_of.get(stream)}")
        check_equal(answers.headers_of[stream][0]["content-type"], "application/json")
        fields = json.loads(answers.body_of[stream])
        check_equal(list(fields), ["Status", "Function", "MachineName", "ExecutionTime"])
        check_equal((fields["Status"], fields["Function"], fields["MachineName"] in nodes), ("OK", call["function"], True))
        check(isinstance(fields["ExecutionTime"], int) and fields["ExecutionTime"] >= 0, fields)


def test_invitro_grpc(cluster):
    """Invitro: its captured gRPC call gets a reply with all three fields, and status 0 behind it"""
    needs_root()
    form = cluster.dev().addresses["form"]
    needs_h2c(cluster.invoke_address)
    capture = (CAPTURES / "invoke_grpc_one_connection.h2.req").read_bytes()
    name = calls_of(capture)[1][":authority"]
    check_equal(exchange(form, captured("register_main_trace.http1.req", name=name))[0], 200)
    answers = Answers(cluster.invoke_address)
    answers.replay(capture)
    head, trailers = answers.headers_of[1]
    check_equal((head[":status"], head["content-type"], trailers), ("200", "application/grpc", {"grpc-status": "0"}))
    frame = answers.body_of[1]
    check_equal((frame[0], int.from_bytes(frame[1:5], "big")), (0, len(frame) - 5))
    fields, place = {}, 5
    while place < len(frame):
        number, wire = frame[place] >> 3, frame[place] & 7
        value, shift, place = 0, 0, place + 1
        while True:
            value |= (frame[place] & 0x7f) << shift
            shift, place = shift + 7, place + 1
            if frame[place - 1] < 0x80:
                break
        if wire == 2:
            value, place = frame[place:place + value], place + value
        fields[number] = value
    # It was asked for 10 ms and 2048 MiB.
    check_equal((fields[1], fields[3]), (name.encode(), 2048 * 1024))
    check(fields[2] >= 10_000, fields)


def test_h2c(cluster):
    """bench: many functions over one h2c connection"""
    cluster.dev("--runtime", "simulated")
    needs_h2c(cluster.invoke_address)
    out, _ = bench(cluster, "--deploy", "builtin:hello", "--functions", "20", "--by", "host", "--protocol", "h2c", "-n", "500", "--streams", "30", "-o", "-",
                   "--assert", "ok==500,err==0,overhead.p50>0")
    check_equal(json.loads(out)["settings"]["connections"], "1")


if __name__ == "__main__":
    run_tests(globals())
