#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Asynchronous calls with the real program: as printed in the documents, from any data plane, after kills, on full disks."""
import contextlib
import http.server
import json
import os
import pathlib
import re
import ssl
import subprocess
import threading

from harness import Skip, check, check_equal, eventually, needs_root, raw_exchange, run_tests


class Receiver:
    """Takes callbacks on loopback and remembers them."""

    def __init__(self, certificate=None):
        received = self.received = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                received.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.server.handle_error = lambda *_: None  # a client that does not like the certificate
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def accept(cluster, path, body=b"", headers=None, address=None):
    status, answer, _ = cluster.request(path, "POST", body, headers, address)
    check_equal(status, 202, path)
    return answer["x-call-id"]


def result(cluster, call, address=None):
    return cluster.request(f"/async-function/result/{call}", address=address)


def wait_for_result(cluster, call, address=None):
    return eventually(lambda: (lambda r: r if r[0] != 202 else None)(result(cluster, call, address)), f"the result of {call}")


def holds(directory, marker):
    for path in pathlib.Path(directory).glob("*.calls"):
        with contextlib.suppress(FileNotFoundError):  # removed since it was listed
            if marker in path.read_bytes():
                return True
    return False


def test_as_printed(cluster):
    """asynchronous calls, callbacks and dead letters work as the documents print them"""
    needs_root()
    receiver = Receiver()
    try:
        cluster.dev("--async-backoff-max", "10ms", "--async-backoff-min", "10ms")
        cluster.ctl("deploy", "hello", "--image", "builtin:hello")
        cluster.ctl("deploy", "flaky", "--image", "builtin:fail")
        call = accept(cluster, "/async-function/hello", b"hi", {"X-Callback-Url": f"http://{receiver.address}/done"})
        check_equal(wait_for_result(cluster, call)[0], 200)
        eventually(lambda: receiver.received, "the callback comes")
        path, headers, body = receiver.received[0]
        check_equal(path, "/done")
        check_equal(headers["x-call-id"], call)
        check_equal(headers["x-function-status"], "200")
        check_equal(body, wait_for_result(cluster, call)[2])
        line = eventually(lambda: (lambda t: t if "delivered" in t else None)(cluster.ctl("async", "result", call)[0]), "the callback is noted")
        check(re.fullmatch(r"done  200  attempt 1 of 3  waited [\d.]+ \w+  ran [\d.]+ \w+  callback delivered \(204\)\n", line), line)
        check_equal(cluster.ctl("async", "result", call, "--body")[0].encode(), body)
        check(call in cluster.ctl("async", "list")[0], "the call is listed")

        dead = accept(cluster, "/async-function/flaky?status=500", b"xy")
        check_equal(wait_for_result(cluster, dead)[1]["x-async-state"], "dead")
        listing = cluster.ctl("dlq", "list")[0].splitlines()
        check_equal(listing[0].split(), ["CALL", "FUNCTION", "AGE", "ATTEMPTS", "LAST", "SIZE"])
        check(re.fullmatch(rf"{dead} +flaky +\d+s +3 +500 from fn +2 B", listing[1]), listing[1])
        shown = cluster.ctl("dlq", "show", dead)[0]
        check("POST /function/flaky?status=500" in shown and "xy" in shown, shown)
        check_equal(cluster.ctl("dlq", "redrive", dead)[0], "redriven, new attempt 1 of 3\n")
        eventually(lambda: json.loads(cluster.ctl("async", "list", "-o", "json")[0])[-1]["state"] == "dead", "it is a dead letter again")
        check_equal(cluster.ctl("dlq", "purge", "--all")[0], "purged 1 dead letters\n")
        check_equal(cluster.ctl("dlq", "list", "-q")[0], "")
        check_equal(result(cluster, dead)[0], 410)
        check_equal(cluster.ctl("async", "result", "nonsense", check_status=2)[0], "")
    finally:
        receiver.close()


def certificate_for(directory, name, subject):
    """A file with a key and a certificate that nobody has signed but itself."""
    path = directory / f"{name}.pem"
    try:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={subject}",
                        "-keyout", str(path), "-out", str(directory / f"{name}.crt")], check=True, capture_output=True)
    except OSError as error:
        raise Skip(f"openssl: {error}")
    path.write_text(path.read_text() + (directory / f"{name}.crt").read_text())
    return path


def test_secure_callbacks(cluster):
    """callbacks go over TLS to a receiver whose certificate is trusted, and to no other"""
    needs_root()
    good = certificate_for(cluster.directory, "good", "IP:127.0.0.1")
    other = certificate_for(cluster.directory, "other", "DNS:elsewhere.example")
    trusted = cluster.directory / "trusted.pem"
    trusted.write_text((cluster.directory / "good.crt").read_text() + (cluster.directory / "other.crt").read_text())
    stranger = certificate_for(cluster.directory, "stranger", "IP:127.0.0.1")
    receivers = [Receiver(path) for path in (good, other, stranger)]
    try:
        cluster.dev("--async-callback-ca", str(trusted), "--async-backoff-max", "10ms", "--async-backoff-min", "10ms")
        cluster.ctl("deploy", "hello", "--image", "builtin:hello")
        calls = [accept(cluster, "/async-function/hello", b"hi", {"X-Callback-Url": f"https://{receiver.address}/done?x=1"}) for receiver in receivers]
        state = lambda call: next(c for c in json.loads(cluster.ctl("async", "list", "-o", "json")[0]) if c["id"] == call)
        eventually(lambda: state(calls[0])["callback"] == "delivered", "the trusted one is told")
        path, headers, body = receivers[0].received[0]
        check_equal(path, "/done?x=1")
        check_equal(headers["host"], receivers[0].address)
        check_equal(headers["x-call-id"], calls[0])
        check_equal(body, wait_for_result(cluster, calls[0])[2])
        for call, receiver in zip(calls[1:], receivers[1:]):
            eventually(lambda: state(call)["callback"] == "failed", "the others are given up")
            check_equal(state(call)["callback_attempts"], 3)
            check_equal(receiver.received, [])
    finally:
        for receiver in receivers:
            receiver.close()


def test_retry_labels(cluster):
    """OpenFaaS retry labels of a function replace the data plane's settings"""
    needs_root()
    cluster.dev("--async-backoff-max", "10ms", "--async-backoff-min", "10ms")
    cluster.ctl("deploy", "stubborn", "--image", "builtin:fail", "--label", "com.openfaas.retry.attempts=5",
                "--label", "com.openfaas.retry.min_wait=1ms", "--label", "com.openfaas.retry.codes=500")
    call = accept(cluster, "/async-function/stubborn?status=500")
    answer = wait_for_result(cluster, call)
    check_equal((answer[1]["x-retry"], answer[1]["x-retry-max"]), ("5", "5"))
    call = accept(cluster, "/async-function/stubborn?status=503")
    check_equal(wait_for_result(cluster, call)[1]["x-retry"], "1")


def test_any_data_plane(cluster):
    """any data plane tells a result; of a dead one 503, and its calls go on when it is back or adopted"""
    needs_root()
    control = cluster.control()
    rpc = control.addresses["rpc"]
    cluster.worker(rpc, "--drain-time", "1s")
    directory = cluster.directory / "first"
    common = ("--async-directory", cluster.admin, "--async-store-max", "64MiB")
    first = cluster.data(rpc, "--async-dir", str(directory), *common)
    second = cluster.data(rpc, "--async-dir", str(cluster.directory / "second"), *common)
    cluster.ctl("deploy", "echo", "--image", "builtin:echo")
    cluster.ctl("deploy", "slow", "--image", "builtin:sleep")
    here, there = first.addresses["invoke"], second.addresses["invoke"]
    eventually(lambda: cluster.request("/function/echo", address=here)[0] == 200, "the first data plane knows the function")
    call = accept(cluster, "/async-function/echo", b"\x00body", address=here)
    check_equal(wait_for_result(cluster, call, here)[2], b"\x00body")
    status, headers, body = wait_for_result(cluster, call, there)
    check_equal((status, body, headers["x-call-id"]), (200, b"\x00body", call))
    waits = accept(cluster, "/async-function/slow?ms=300", address=here)

    first.kill()
    status, headers, body = result(cluster, call, there)
    check_equal((status, headers["x-dirigent-reason"]), (503, "store-unavailable"))
    check(b"another data plane" in body, body)
    first = cluster.data(rpc, "--async-dir", str(directory), *common)
    here = first.addresses["invoke"]
    check_equal(wait_for_result(cluster, call, here)[2], b"\x00body")
    check_equal(wait_for_result(cluster, waits, here)[0], 200)
    eventually(lambda: result(cluster, call, there)[0] == 200, "the second data plane finds it again")

    orphan = accept(cluster, "/async-function/slow?ms=300", address=here)
    first.kill()
    eventually(lambda: len(json.loads(cluster.request("/v1/data-planes", address=cluster.admin)[2])["data_planes"]) == 1, "the first is gone")
    check("has taken over" in cluster.ctl("async", "adopt", str(directory))[0], "adopted")
    check_equal(wait_for_result(cluster, orphan, there)[0], 200)
    check_equal(result(cluster, call, there)[2], b"\x00body")


def test_takes_over_by_itself(cluster):
    """a data plane takes over a listed directory when its owner dies"""
    needs_root()
    control = cluster.control()
    rpc = control.addresses["rpc"]
    cluster.worker(rpc, "--drain-time", "1s")
    directory = cluster.directory / "first"
    first = cluster.data(rpc, "--async-dir", str(directory), "--async-store-max", "64MiB")
    second = cluster.data(rpc, "--async-durability", "memory", "--async-adopt", str(directory), "--async-store-max", "64MiB")
    cluster.ctl("deploy", "slow", "--image", "builtin:sleep")
    here = first.addresses["invoke"]
    eventually(lambda: cluster.request("/function/slow?ms=1", address=here)[0] == 200, "the first data plane knows the function")
    call = accept(cluster, "/async-function/slow?ms=200", address=here)
    first.kill()
    eventually(lambda: result(cluster, call, second.addresses["invoke"])[0] == 200, "the second data plane runs it")


def test_as_the_original(cluster):
    """in the original's mode every request is accepted with 200 and polled on another port"""
    needs_root()
    control = cluster.control()
    cluster.worker(control.addresses["rpc"], "--drain-time", "1s")
    data = cluster.data(control.addresses["rpc"], "--async", "--async-poll-listen", "127.0.0.1:0")
    cluster.ctl("deploy", "hello", "--image", "builtin:hello")
    eventually(lambda: cluster.request("/", headers={"Host": "hello"})[0] == 200, "the data plane knows the function")
    status, _, call = cluster.request("/", headers={"Host": "hello"})
    check_equal((status, len(call)), (200, 36))
    # The bytes of the original's loader.
    poll = (b"GET / HTTP/1.1\r\nHost: dp\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 36\r\nAccept-Encoding: gzip\r\n"
            b"Connection: close\r\n\r\n" + call)
    answer = eventually(lambda: (lambda a: a if b" 200 " in a.split(b"\r\n")[0] else None)(raw_exchange(data.addresses["poll"], poll)), "the result is there")
    check(re.search(rb"\r\nDuration-Microseconds: \d+\r\n", answer), answer)
    check(len(answer.split(b"\r\n\r\n", 1)[1]) > 0, answer)
    unknown = poll.replace(call, b"00000000-0000-4000-8000-000000000000")
    check(raw_exchange(data.addresses["poll"], unknown).startswith(b"HTTP/1.1 204 "), "an unknown id has no answer")
    # Two captured polls on one connection, with ids that another system made.
    captured = (pathlib.Path(__file__).resolve().parent / "invitro" / "async_read.http1.req").read_bytes()
    heads = re.findall(rb"HTTP/1\.1 (\d+)", raw_exchange(data.addresses["poll"], captured, timeout=1))
    check_equal(heads, [b"204", b"204"], "neither has an answer")


def test_full_disk(cluster):
    """on a full disk there is no 202, synchronous calls go on, and all is well when there is room"""
    needs_root()
    disk = cluster.directory / "disk"
    disk.mkdir()
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True)
    if probe.returncode != 0:
        raise Skip("a small tmpfs cannot be mounted here")
    control = cluster.control()
    cluster.worker(control.addresses["rpc"], "--drain-time", "1s")
    inside = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=6m tmpfs "{disk}" && exec "$@"', "sh")
    data = cluster.start("data", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--control", control.addresses["rpc"],
                         "--async-dir", str(disk / "calls"), "--async-store-max", "32MiB", inside=inside)
    cluster.invoke_address = data.addresses["invoke"]
    cluster.ctl("deploy", "echo", "--image", "builtin:echo")
    eventually(lambda: cluster.request("/function/echo")[0] == 200, "the data plane knows the function")
    accepted = []
    refused = 0
    for i in range(300):
        body = b"%06d" % i + b"x" * 50_000
        status, headers, _ = cluster.request("/async-function/echo", "POST", body)
        check(status in (202, 503), f"status {status}")
        if status == 202:
            accepted.append((headers["x-call-id"], body))
        else:
            refused += 1
            check_equal(headers["x-dirigent-reason"], "store-unavailable")
            check_equal(cluster.request("/function/echo", "POST", b"now")[2], b"now")
    check(refused > 0 and accepted, f"{refused} refused, {len(accepted)} accepted")
    subprocess.run(["nsenter", "-t", str(data.pid), "-m", "mount", "-o", "remount,size=64m", str(disk)], check=True)
    accept(cluster, "/async-function/echo", b"x") if cluster.request("/async-function/echo", "POST", b"x")[0] == 202 else \
        eventually(lambda: cluster.request("/async-function/echo", "POST", b"x")[0] == 202, "calls are accepted again", timeout=5)
    for call, body in accepted:
        check_equal(wait_for_result(cluster, call)[2], body)


def test_expired_data_leaves_the_disk(cluster):
    """what has expired can no longer be found in the files"""
    needs_root()
    directory = cluster.directory / "calls"
    cluster.dev("--async-dir", str(directory), "--async-result-keep", "300ms", "--async-clean-after", "100ms",
                "--async-store-max", "16MiB")
    cluster.ctl("deploy", "echo", "--image", "builtin:echo")
    marker = os.urandom(24).hex().encode()
    call = accept(cluster, "/async-function/echo", marker)
    eventually(lambda: result(cluster, call)[0] == 410, "it expires")
    eventually(lambda: not holds(directory, marker), "its bytes are gone")


if __name__ == "__main__":
    run_tests(globals())
