#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""End to end, with unmodified clients and servers: HTTP/2 (curl), gRPC, WebSocket, server-sent events.

Needs DIRIGENT=path of the binary, and Debian's python3-grpcio and python3-websockets (hence the system's interpreter).
"""
import asyncio
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

from harness import Skip, check, check_equal, eventually, needs_root, run_tests

FUNCTIONS = pathlib.Path(__file__).resolve().parent / "functions"


def needs_modules(*names):
    needs_root()
    for name in names:
        # Functions run with the system's interpreter, whatever runs this.
        if subprocess.run(["/usr/bin/python3", "-c", f"import {name}"], capture_output=True).returncode != 0:
            raise Skip(f"needs the Python module {name} of the system's interpreter")
        try:
            __import__(name)
        except ImportError:
            raise Skip(f"needs the Python module {name}") from None


def deploy(cluster, name, program, *flags):
    # Sandboxes see the program's directory only.
    directory = cluster.directory / name
    directory.mkdir(mode=0o755)
    shutil.copy(FUNCTIONS / program, directory / program)
    (directory / program).chmod(0o755)
    cluster.ctl("deploy", name, "--image", f"exec:{directory / program}", "--memory", "256MiB", "--cpu", "0.2", *flags)


def metric(cluster, role, name):
    with urllib.request.urlopen(f"http://{role.addresses['data-admin']}/metrics", timeout=30) as response:
        text = response.read().decode()
    return sum(float(m) for m in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE))


def all_given_back(cluster, role):
    eventually(lambda: metric(cluster, role, "dirigent_inflight") == 0 and metric(cluster, role, "dirigent_queue_depth") == 0,
               "every slot is given back")


def curl(cluster, path, *flags):
    done = subprocess.run(["curl", "-sS", "--max-time", "60", "-o", "-", "-w", "\n%{http_code} %{http_version}", *flags,
                           f"http://{cluster.invoke_address}{path}"], capture_output=True)
    check_equal(done.returncode, 0, done.stderr.decode())
    body, _, words = done.stdout.rpartition(b"\n")
    status, version = words.decode().split()
    return int(status), version, body


def test_curl_http2(cluster):
    """curl over HTTP/2, by prior knowledge and by upgrade: small and large bodies, errors, a cold start"""
    needs_root()
    role = cluster.dev()
    cluster.ctl("deploy", "echo", "--image", "builtin:echo")
    cluster.ctl("deploy", "hello", "--image", "builtin:hello")
    for flag in ("--http2-prior-knowledge", "--http2"):
        check_equal(curl(cluster, "/function/hello", flag), (200, "2", b"hello from hello-00001\n"), flag)
        check_equal(curl(cluster, "/function/nobody", flag)[:2], (404, "2"), flag)
        check_equal(curl(cluster, "/", flag, "-H", "Host: hello")[:2], (200, "2"), flag)
    with tempfile.NamedTemporaryFile() as body:
        content = bytes(range(256)) * 16384  # 4 MiB
        body.write(content)
        body.flush()
        for flag in ("--http2-prior-knowledge", "--http1.1"):
            status, _, answer = curl(cluster, "/function/echo", flag, "--data-binary", f"@{body.name}",
                                     "-H", "Content-Type: application/octet-stream")
            check_equal(status, 200)
            check(answer == content, f"{flag}: the echo differs: {len(answer)} bytes")
    cluster.ctl("scale", "hello", "0")
    check_equal(curl(cluster, "/function/hello", "--http2-prior-knowledge")[0], 200)
    check(metric(cluster, role, "dirigent_http2_connections_total") >= 7, "the connections were HTTP/2")
    all_given_back(cluster, role)


def test_500_functions_on_one_connection(cluster):
    """500 functions on one HTTP/2 connection are all answered"""
    if shutil.which("h2load") is None:
        raise Skip("needs h2load")
    needs_root()
    role = cluster.dev("--runtime", "simulated", "--cpu", "1000", "--memory", "1000GiB")
    for i in range(500):
        request = urllib.request.Request(f"http://{cluster.admin}/v1/functions", method="POST",
                                         data=json.dumps({"name": f"f{i}", "image": "builtin:hello"}).encode(),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            check(response.status in (200, 201, 202), response.status)
    with tempfile.NamedTemporaryFile("w") as list_of_urls:
        list_of_urls.write("".join(f"http://{cluster.invoke_address}/function/f{i}\n" for i in range(500)))
        list_of_urls.flush()
        done = subprocess.run(["h2load", "-n", "1000", "-c", "1", "-m", "500", "-i", list_of_urls.name],
                              capture_output=True, timeout=120)
    text = done.stdout.decode()
    check("1000 succeeded, 0 failed, 0 errored, 0 timeout" in text, text)
    check("status codes: 1000 2xx" in text, text)
    all_given_back(cluster, role)


def test_grpc(cluster):
    """an unmodified gRPC client and server: all four kinds of calls, metadata, a status with its details, cancellation"""
    needs_modules("grpc")
    import grpc
    role = cluster.dev()
    deploy(cluster, "calls", "grpc_function.py", "--port", "h2c:8080", "--start-timeout", "60s")
    with grpc.insecure_channel(cluster.invoke_address, options=(("grpc.default_authority", "calls"),)) as channel:
        echo = channel.unary_unary("/test.Calls/Echo")
        answer, call = echo.with_call(b"hello", timeout=60)
        check_equal(answer, b"hello")
        check_equal(dict(call.initial_metadata())["seen-host"], "calls")
        check("server-timing" in dict(call.initial_metadata()), call.initial_metadata())
        large = bytes(range(256)) * 8192
        check(echo(large, timeout=60) == large, "2 MiB come back")
        futures = [echo.future(b"%d" % i, timeout=60) for i in range(100)]
        check_equal([f.result() for f in futures], [b"%d" % i for i in range(100)])
        check_equal(list(channel.unary_stream("/test.Calls/Parts")(b"50", timeout=60)), [b"part %d" % i for i in range(50)])
        check_equal(channel.stream_unary("/test.Calls/Join")(iter([b"a", b"b", b"c"]), timeout=60), b"a+b+c")

        # Each message is answered before the next is sent.
        import queue
        outgoing = queue.Queue()
        chat = channel.stream_stream("/test.Calls/Chat")(iter(outgoing.get, None), timeout=60)
        for i in range(20):
            outgoing.put(b"%d" % i)
            check_equal(next(chat), b"<%d>" % i)
        outgoing.put(None)
        check_equal(list(chat), [])
        check_equal(chat.code(), grpc.StatusCode.OK)

        try:
            channel.unary_unary("/test.Calls/Fail")(b"", timeout=60)
            check(False, "the call must fail")
        except grpc.RpcError as error:
            check_equal((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "not like this"))
            check_equal(dict(error.trailing_metadata())["why"], "because")
        try:
            channel.unary_unary("/test.Calls/Nothing")(b"", timeout=60)
            check(False, "the call must fail")
        except grpc.RpcError as error:
            check_equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)

        # A call that is cancelled gives its slot back.
        never = queue.Queue()
        hanging = channel.stream_stream("/test.Calls/Chat")(iter(never.get, None), timeout=60)
        never.put(b"x")
        check_equal(next(hanging), b"<x>")
        check(metric(cluster, role, "dirigent_inflight") >= 1, "the call is in flight")
        hanging.cancel()
        never.put(None)
        all_given_back(cluster, role)

    # The same function for whoever speaks HTTP/1.1, and the other way round.
    status, headers, _ = cluster.request("/function/calls/test.Calls/Echo", method="POST", body=b"\0\0\0\0\2hi",
                                         headers={"Content-Type": "application/grpc", "TE": "trailers"})
    check_equal((status, headers["content-type"]), (200, "application/grpc"))
    all_given_back(cluster, role)


def test_grpc_cold(cluster):
    """a gRPC call waits for a sandbox like any other request"""
    needs_modules("grpc")
    import grpc
    role = cluster.dev()
    deploy(cluster, "calls", "grpc_function.py", "--port", "h2c:8080", "--start-timeout", "60s")
    cluster.ctl("scale", "calls", "0")
    with grpc.insecure_channel(cluster.invoke_address, options=(("grpc.default_authority", "calls"),)) as channel:
        answer, call = channel.unary_unary("/test.Calls/Echo").with_call(b"cold", timeout=60)
        check_equal(answer, b"cold")
        check('cold;desc="no"' not in dict(call.initial_metadata())["server-timing"], call.initial_metadata())
    all_given_back(cluster, role)


def test_websocket(cluster):
    """an unmodified WebSocket client and server: text, bytes, a large message, and who closes"""
    needs_modules("websockets")
    import websockets
    role = cluster.dev()
    deploy(cluster, "chat", "websocket_function.py", "--start-timeout", "60s")

    async def talk():
        async with websockets.connect(f"ws://{cluster.invoke_address}/function/chat/room") as connection:
            for i in range(20):
                await connection.send(f"message {i}")
                check_equal(await connection.recv(), f"<message {i}>")
            await connection.send(b"\0\1\2")
            check_equal(await connection.recv(), b"<\0\1\2>")
            await connection.send("x" * 500_000)
            check_equal(len(await connection.recv()), 500_002)
            await connection.ping()
            check_equal(metric(cluster, role, "dirigent_inflight"), 1)
        connection = await websockets.connect(f"ws://{cluster.invoke_address}/function/chat")
        await connection.send("close")
        await connection.wait_closed()
        check_equal((connection.close_code, connection.close_reason), (4321, "as told"))

    asyncio.run(asyncio.wait_for(talk(), 60))
    all_given_back(cluster, role)


def test_server_sent_events(cluster):
    """server-sent events arrive one by one, over HTTP/1.1 and HTTP/2"""
    needs_root()
    role = cluster.dev()
    deploy(cluster, "events", "events_function.py", "--start-timeout", "60s")
    host, _, port = cluster.invoke_address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", "/function/events/wait/one")
    for i in range(5):
        # The next event is not made before this one has been read.
        check_equal(cluster.request("/function/events/go/one")[0], 204)
        response = connection.getresponse() if i == 0 else response
        check_equal(response.readline() + response.readline(), b"data: %d\n\n" % i)
    connection.close()
    reader = subprocess.Popen(["curl", "-sSN", "--max-time", "60", "--http2-prior-knowledge",
                               f"http://{cluster.invoke_address}/function/events/wait/two"], stdout=subprocess.PIPE)
    try:
        for i in range(5):
            check_equal(cluster.request("/function/events/go/two")[0], 204)
            check_equal(reader.stdout.readline() + reader.stdout.readline(), b"data: %d\n\n" % i)
        check_equal(reader.wait(30), 0)
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close()
    all_given_back(cluster, role)


def test_limits_are_settings(cluster):
    """the limits of the data plane are settings, and wrong ones are refused by name"""
    role = cluster.start("dev", "--memory-max", "1", expect_start=False)
    check(role.wait() != 0 and "memory_max" in role.output(), role.output())
    needs_root()
    role = cluster.dev("--runtime", "simulated", "--connections-per-address-max", "1", "--streams-max", "7", "--body-max", "10",
                       "--target-max", "64", "--head-max", "2KiB", "--headers-max", "20")
    cluster.ctl("deploy", "hello", "--image", "builtin:hello")
    host, _, port = cluster.invoke_address.rpartition(":")
    kept = http.client.HTTPConnection(host, int(port), timeout=30)
    kept.request("POST", "/function/hello", body=b"12345678901")
    check_equal(kept.getresponse().status, 413)
    kept.close()
    eventually(lambda: metric(cluster, role, "dirigent_client_connections") == 0, "the connection is gone")
    kept = http.client.HTTPConnection(host, int(port), timeout=30)
    kept.request("GET", "/healthz")
    check_equal(kept.getresponse().status, 200)
    check_equal(cluster.request("/function/hello")[0], 429)
    kept.close()
    eventually(lambda: metric(cluster, role, "dirigent_client_connections") == 0, "the connection is gone")
    path = "/function/hello?"
    check_equal(cluster.request(path + "x" * (64 - len(path)))[0], 200)
    check_equal(cluster.request(path + "x" * (65 - len(path)))[0], 400)
    check_equal(cluster.request("/function/hello", headers={"X-Long": "x" * 2048})[0], 400)
    check_equal(cluster.request("/function/hello", headers={f"X-{i}": "1" for i in range(20)})[0], 400)


if __name__ == "__main__":
    run_tests(globals())
