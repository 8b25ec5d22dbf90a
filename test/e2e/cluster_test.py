#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""End to end: the real binary as its users run it. Needs DIRIGENT=path of the binary."""
import json
import os
import re
import subprocess
import threading

from harness import BINARY, check, check_equal, eventually, needs_root, raw_exchange, run_tests, two_hosts, unique_name


def deploy(cluster, name, image, *flags):
    return cluster.ctl("deploy", name, "--image", image, *flags)


def sandboxes_of(cluster, name):
    return json.loads(cluster.ctl("describe", name, "-o", "json")[0])["status"]["sandboxes"]


def nodes_of(cluster):
    return json.loads(cluster.ctl("nodes", "-o", "json")[0])["nodes"]


def test_five_minutes(cluster):
    """dev: deploy, invoke warm and cold with the phases, list, describe, delete"""
    needs_root()
    cluster.dev()
    out, talk = deploy(cluster, "hello", "builtin:hello")
    check("hello is ready in" in out + talk, out + talk)
    check("test instance" in out + talk, out + talk)
    check("traffic 100% -> hello-00001" in out + talk, out + talk)
    status, headers, body = cluster.request("/function/hello")
    check_equal((status, body), (200, b"hello from hello-00001\n"))
    check(re.fullmatch(r"[0-9A-Z]{26}", headers["x-call-id"]), headers)
    check('cold;desc="no"' in headers["server-timing"], headers)
    for phase in ("queue", "proxy", "fn"):
        check(f"{phase};dur=" in headers["server-timing"], headers)
    cluster.ctl("scale", "hello", "0")
    out, talk = cluster.ctl("invoke", "hello", "-v")
    check_equal(out, "hello from hello-00001\n")
    check("cold start on" in talk, talk)
    for phase in ("queue", "schedule", "create", "network", "start", "probe", "route"):
        check(phase in talk, f"{phase} is missing in {talk}")
    cluster.request("/function/hello", headers={"X-Call-Id": "end-to-end-1"})
    out = eventually(lambda: cluster.ctl("trace", "end-to-end-1", check_status=None)[0] or None, "the call is remembered")
    check(re.search(r"call end-to-end-1  hello-00001  status 200  at \d\d:\d\d:\d\d", out) and "function" in out, out)
    out, _ = cluster.ctl("trace", "--cold")
    check(re.search(r"hello-00001 .* cold$", out, re.MULTILINE), out)
    cluster.ctl("trace", "nobody-called-this", check_status=3)
    out, _ = cluster.ctl("top", "--once")
    check(re.search(r"^hello +00001 ", out, re.MULTILINE) and "NODE" in out, out)
    out, _ = cluster.ctl("list")
    check("hello-00001" in out and "/function/hello" in out, out)
    out, _ = cluster.ctl("describe", "hello")
    check("invocable: yes" in out, out)
    out, _ = cluster.ctl("explain", "hello")
    check(re.search(r"why \d+ sandbox", out) and "target" in out and "last failure: none" in out, out)
    cluster.ctl("delete", "hello")
    cluster.ctl("describe", "hello", check_status=3)
    status, headers, body = cluster.request("/function/hello")
    check_equal(status, 404)
    problem = json.loads(body)
    check_equal((problem["reason"], problem["ran"], headers["content-type"]), ("not-found", False, "application/problem+json"))


def test_spares(cluster):
    """a spare is started unasked, answers the first call, and another is started behind it; scaling to nothing leaves it"""
    needs_root()
    cluster.dev()
    deploy(cluster, "hello", "builtin:hello", "--warm", "1")

    def spares():
        return [one["id"] for one in sandboxes_of(cluster, "hello") if one["spare"] and one["state"] == "ready"]

    def only_a_spare():
        return spares() if len(sandboxes_of(cluster, "hello")) == 1 else None

    eventually(spares, "the spare is ready")
    cluster.ctl("scale", "hello", "0")
    spare = eventually(only_a_spare, "a spare and nothing else")[0]
    status, headers, _ = cluster.request("/function/hello")
    check_equal(status, 200)
    check_equal(headers.get("x-dirigent-sandbox", spare), spare, "the spare answers")
    for phase in ("create", "start", "probe"):
        took = re.search(rf"{phase};dur=([0-9.]+)", headers["server-timing"])
        check(took is None or float(took.group(1)) == 0, f"something was started for the call: {headers['server-timing']}")
    in_use = [one["id"] for one in sandboxes_of(cluster, "hello") if not one["spare"]]
    check(spare in in_use, f"{spare} is in use, not {in_use}")
    check(eventually(spares, "another spare is ready")[0] != spare, "another one")
    check("1 spare" in cluster.ctl("describe", "hello")[0], "describe says how many")
    cluster.ctl("delete", "hello")


def test_failing_deploy(cluster):
    """dev: a function that cannot start says why, with its last output and its exit status"""
    needs_root()
    cluster.dev()
    out, talk = cluster.ctl("deploy", "bad", "--image", "exec:/bin/false", check_status=1)
    check("start-failed" in talk or "exited" in talk, talk)
    check("status 1" in talk, talk)
    check("dirigent ctl delete bad" in talk, talk)
    out, talk = cluster.ctl("deploy", "loud", "--image", "exec:/bin/sh -c", "--arg", "echo last words; exit 7", check_status=1)
    check("last words" in talk and "status 7" in talk, talk)
    status, headers, body = cluster.request("/function/bad")
    check_equal(status, 503)
    check_equal(json.loads(body)["ran"], False)
    check("retry-after" in headers, headers)
    # A good revision heals it, a bad one afterwards does not break it.
    deploy(cluster, "bad", "builtin:hello")
    check_equal(cluster.request("/function/bad")[0], 200)
    cluster.ctl("deploy", "bad", "--image", "exec:/bin/false", check_status=1)
    check_equal(cluster.request("/function/bad")[0], 200)


def test_names_and_mistakes(cluster):
    """ctl: unknown names, verbs and flags have a suggestion and the documented exit status"""
    cluster.dev("--runtime", "simulated")
    deploy(cluster, "hello", "builtin:hello")
    _, talk = cluster.ctl("describe", "helo", check_status=3)
    check('did you mean "hello"' in talk, talk)
    _, talk = cluster.ctl("descrbe", "hello", check_status=2)
    check('did you mean "describe"' in talk, talk)
    _, talk = cluster.ctl("deploy", "x", "--imge", "builtin:hello", check_status=2)
    check("--image" in talk, talk)
    _, talk = cluster.ctl("deploy", "x", "--image", "builtin:helo", check_status=1)
    check("hello" in talk, talk)
    _, talk = cluster.ctl("deploy", "Bad_Name", "--image", "builtin:hello", check_status=1)
    check("Bad_Name" in talk, talk)
    good = cluster.admin
    cluster.admin = "127.0.0.1:1"
    cluster.ctl("list", check_status=4)
    cluster.admin = good


def test_three_roles(cluster):
    """control, data and two workers as processes of their own, started in the wrong order"""
    needs_root()
    first = cluster.control()
    rpc = first.addresses["rpc"]
    admin = first.addresses["admin"]
    check_equal(first.stop(), 0, "control's exit status")
    cluster.data(rpc)
    cluster.worker(rpc)
    cluster.worker(rpc)
    cluster.control(rpc=rpc, admin=admin)
    eventually(lambda: len(nodes_of(cluster)) == 2, "both workers join")
    deploy(cluster, "hello", "builtin:hello")
    eventually(lambda: cluster.request("/function/hello")[0] == 200, "the data plane has learnt the function")
    cluster.ctl("scale", "hello", "4")
    eventually(lambda: sum(s["state"] == "ready" for s in sandboxes_of(cluster, "hello")) == 4, "four sandboxes")
    check_equal(len({s["node"] for s in sandboxes_of(cluster, "hello")}), 2, "nodes used")
    for role in cluster.roles[1:]:
        check_equal(role.stop(), 0, f"{role.name}'s exit status")


def test_every_role_dies(cluster):
    """killing any role and starting it again loses no function and leaves no orphan"""
    needs_root()
    state = str(cluster.directory / "state")
    control = cluster.control("--state-dir", state)
    rpc, admin = control.addresses["rpc"], control.addresses["admin"]
    data = cluster.data(rpc)
    listen = data.addresses["invoke"]
    name = unique_name("worker")
    worker = cluster.worker(rpc, name=name)
    deploy(cluster, "hello", "builtin:hello")
    eventually(lambda: cluster.request("/function/hello")[0] == 200, "first answer")

    control.kill()
    check_equal(cluster.request("/function/hello")[0], 200, "warm call without a control plane")
    control = cluster.control("--state-dir", state, rpc=rpc, admin=admin)
    eventually(lambda: len(nodes_of(cluster)) == 1, "the worker joins again")
    check_equal(cluster.request("/function/hello")[0], 200, "after the control plane's return")
    check("hello" in cluster.ctl("list", "-o", "name")[0], "the function is back")

    data.kill()
    data = cluster.data(rpc, listen=listen)
    eventually(lambda: cluster.request("/function/hello")[0] == 200, "after the data plane's return")

    worker.kill()
    worker = cluster.worker(rpc, name=name)
    eventually(lambda: cluster.request("/function/hello", timeout=20)[0] == 200, "after the worker's return")


def test_leftovers_after_kill(cluster):
    """a worker that is killed leaves no process, cgroup or link, even when it does not come back"""
    needs_root()
    role = cluster.dev()
    deploy(cluster, "hello", "builtin:hello")
    cluster.ctl("scale", "hello", "5")
    eventually(lambda: sum(s["state"] == "ready" for s in sandboxes_of(cluster, "hello")) == 5, "five sandboxes")
    role.kill()  # run_tests looks for leftovers


def test_concurrency_limit(cluster):
    """a sandbox never gets more requests at a time than its limit, and none is lost in a burst"""
    needs_root()
    cluster.dev("--shards", "2")
    deploy(cluster, "slow", "builtin:sleep", "--concurrency-limit", "1", "--scale", "0..3")
    statuses, lock = [], threading.Lock()

    def call():
        status = cluster.request("/function/slow?ms=20")[0]
        with lock:
            statuses.append(status)

    threads = [threading.Thread(target=call) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_equal(statuses, [200] * 60)
    check(len(sandboxes_of(cluster, "slow")) <= 3, "more sandboxes than --scale allows")


def test_queue_limits(cluster):
    """a full queue refuses at once with the whole problem document, a long wait ends with 503"""
    needs_root()
    cluster.dev()
    deploy(cluster, "slow", "builtin:sleep", "--concurrency-limit", "1", "--scale", "1..1", "--queue-depth", "1", "--queue-timeout", "200ms")
    results = []

    def call():
        results.append(cluster.request("/function/slow?ms=1500"))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reasons = sorted(json.loads(body)["reason"] if status != 200 else "ok" for status, _, body in results)
    check_equal(reasons, ["ok", "queue-full", "queue-full", "queue-timeout"])
    for status, headers, body in results:
        if status == 200:
            continue
        problem = json.loads(body)
        check_equal((status, problem["ran"], problem["component"], problem["function"]), (503, False, "data", "slow.default"))
        check(int(headers["retry-after"]) >= 1, headers)
        check_equal(headers["x-dirigent-reason"], problem["reason"])


def test_logs_and_exits(cluster):
    """what a function prints is kept, and its crash in a request is a 502 that may have run"""
    needs_root()
    cluster.dev()
    deploy(cluster, "talker", "exec:/bin/sh -c",
           "--arg", "echo to stdout; echo to stderr >&2; exec python3 -m http.server --bind 0.0.0.0 $PORT") if os.path.exists("/usr/bin/python3") else None
    if os.path.exists("/usr/bin/python3"):
        out, _ = cluster.ctl("logs", "talker")
        check("to stdout" in out and "to stderr" in out, out)
    deploy(cluster, "crasher", "builtin:fail")
    status, _, body = cluster.request("/function/crasher?exit=3")
    check_equal(status, 502)
    check_equal(json.loads(body)["ran"], "maybe")
    eventually(lambda: cluster.request("/function/crasher?status=418")[0] == 418, "a new sandbox answers")


def test_streaming(cluster):
    """bodies stream in both directions, whatever their size"""
    needs_root()
    cluster.dev()
    deploy(cluster, "echo", "builtin:echo")
    body = os.urandom(8 << 20)
    status, _, answer = cluster.request("/function/echo", method="POST", body=body)
    check_equal(status, 200)
    check(answer == body, "the echo differs")
    deploy(cluster, "stream", "builtin:stream")
    status, headers, answer = cluster.request("/function/stream?n=5&ms=1")
    check_equal((status, headers["content-type"].split(";")[0]), (200, "text/event-stream"))
    check(answer.count(b"data:") >= 5, answer)


INVITRO_REGISTRATION = (
    "POST {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {length}\r\n"
    "Content-Type: application/x-www-form-urlencoded\r\nAccept-Encoding: gzip\r\n\r\n{body}")
INVITRO_FORM = ("image=docker.io%2Fcvetkovic%2Fdirigent_empty_function%3Alatest&name={name}&node_affinity=&node_port=0&num_args=0"
                "&num_rets=0&port_forwarding=80&port_forwarding=tcp&prepull_mode=&requested_cpu=100&requested_gpu=0"
                "&requested_memory=204&scaling_lower_bound=0&scaling_upper_bound=1")


def register(cluster, address, name, path="/"):
    form = INVITRO_FORM.format(name=name)
    data = INVITRO_REGISTRATION.format(path=path, address=address, length=len(form), body=form).encode()
    host, _, port = address.rpartition(":")
    import socket
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        received = b""
        while b"\r\n\r\n" not in received or len(received.split(b"\r\n\r\n", 1)[1]) < int(re.search(rb"(?i)content-length: (\d+)", received).group(1)):
            chunk = connection.recv(65536)
            if not chunk:
                break
            received += chunk
    return received


def test_invitro(cluster):
    """the original's load generator registers and invokes over HTTP/1.1, byte by byte"""
    needs_root()
    role = cluster.dev()
    form = role.addresses["form"]
    for path in ("/", "/registerService"):
        name = f"trace-func-{len(path)}-13167500157998781162"
        answer = register(cluster, form, name, path)
        check(answer.startswith(b"HTTP/1.1 200"), answer)
        check_equal(answer.split(b"\r\n\r\n", 1)[1], cluster.invoke_address.encode())
        status, _, body = cluster.request("/", method="POST", headers={
            "Host": name, "Function": name, "Workload": "docker.io/cvetkovic/dirigent_empty_function:latest", "Requested_cpu": "10",
            "Requested_memory": "2048", "Multiplier": "80", "Io_percentage": "0", "Content-Length": "0"})
        check_equal(status, 200)
        answer = json.loads(body)
        check_equal(sorted(answer), ["ExecutionTime", "Function", "MachineName", "Status"])
        check_equal((answer["Status"], answer["Function"]), ("OK", name))
    check(register(cluster, form, name, "/registerService").startswith(b"HTTP/1.1 409"), "registered twice")


def test_registration_storm(cluster):
    """500 functions registered over 500 simultaneous connections: none fails"""
    role = cluster.dev("--runtime", "simulated", "--state-dir", str(cluster.directory / "state"))
    form = role.addresses["form"]
    answers, lock = [], threading.Lock()

    def one(i):
        answer = register(cluster, form, f"cold-function-{i}-1017105844244447410")
        with lock:
            answers.append(answer)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_equal(sum(a.startswith(b"HTTP/1.1 200") for a in answers), 500, "registrations")
    check_equal(len(cluster.ctl("list", "-o", "name")[0].split()), 500, "functions")


def test_bad_input(cluster):
    """malformed bytes on every port: a clear answer or a closed connection, and the cluster goes on"""
    role = cluster.dev("--runtime", "simulated")
    deploy(cluster, "hello", "builtin:hello")
    garbage = [b"\0" * 64, b"\xff" * 4096, b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
               b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", b"G" * 100_000,
               b"POST /v1/functions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{\"name\":x"]
    for label, address in role.addresses.items():
        for data in garbage:
            answer = raw_exchange(address, data, timeout=0.5)
            check(not answer.startswith(b"HTTP/1.1 2"), f"{label} accepted {data[:40]!r}: {answer[:80]!r}")
    for document, field in (('{"name":"x","image":"builtin:hello","prot":1}', "prot"), ('{"name":"x","image":7}', "image"),
                            ('{"name":"x","image":"builtin:hello","port":99999}', "port"), ('[', "JSON"), ('{"image":"builtin:hello"}', "name")):
        status, _, body = cluster.request("/v1/functions", method="POST", body=document, address=cluster.admin)
        check_equal(status, 400, document)
        check(field in body.decode(), f"{document}: {body!r} does not name {field}")
    check_equal(cluster.request("/function/hello")[0], 200, "the cluster still works")
    check_equal(cluster.ctl("list", "-o", "name")[0].split(), ["hello"], "nothing half-applied")


def test_bad_settings(cluster):
    """unknown flags, keys and words stop the start with a suggestion"""
    path = cluster.directory / "bad.toml"
    path.write_text('[control]\nautoscaler = "knativ"\n')
    for arguments, words in ((["--autoscaler", "knativ"], ["knative"]), (["--autoscalr", "mu"], ["--autoscaler"]),
                             (["--config", str(path)], ["knative", "bad.toml"]), (["--rpc-listen", "nowhere"], ["rpc"])):
        role = cluster.start("control", *arguments, expect_start=False)
        check(role.wait() != 0, f"{arguments} was accepted")
        for word in words:
            check(word in role.output(), f"{arguments}: {role.output()} does not name {word}")
    path.write_text('[control]\nautoscalr = "mu"\n')
    role = cluster.start("control", "--config", str(path), expect_start=False)
    check(role.wait() != 0 and "autoscaler" in role.output() and ":2" in role.output(), role.output())


def test_health(cluster):
    """every role has health and metrics, and readiness follows the cluster"""
    control = cluster.control()
    rpc = control.addresses["rpc"]
    data = cluster.data(rpc)
    worker = cluster.worker(rpc, "--runtime", "simulated")
    for role in (control, data, worker):
        address = role.addresses["admin"]
        check_equal(cluster.request("/healthz", address=address)[0], 200, role.name)
        eventually(lambda: cluster.request("/readyz", address=address)[0] == 200, f"{role.name} is ready")
        status, _, body = cluster.request("/metrics", address=address)
        check_equal(status, 200)
        check(b"dirigent_build_info" in body, f"{role.name}: {body[:200]}")
    control.kill()
    eventually(lambda: cluster.request("/readyz", address=worker.addresses["admin"])[0] == 503, "the worker says that it is alone")


def test_graceful_stop(cluster):
    """SIGTERM lets running requests finish and ends with status 0; a second signal does not wait"""
    needs_root()
    role = cluster.dev()
    deploy(cluster, "slow", "builtin:sleep")
    result = []
    thread = threading.Thread(target=lambda: result.append(cluster.request("/function/slow?ms=700")[0]))
    thread.start()
    metrics = role.addresses["data-admin"]
    eventually(lambda: b'dirigent_inflight' in cluster.request("/metrics", address=metrics)[2]
               and re.search(rb"dirigent_inflight\S* [1-9]", cluster.request("/metrics", address=metrics)[2]), "the request is in flight")
    check_equal(role.stop(), 0, "exit status")
    thread.join()
    check_equal(result, [200])


def test_many_simulated_workers(cluster):
    """one process holds hundreds of simulated workers, and functions spread over them"""
    control = cluster.control()
    cluster.data(control.addresses["rpc"])
    cluster.worker(control.addresses["rpc"], "--runtime", "simulated", "--nodes", "500")
    eventually(lambda: len(nodes_of(cluster)) == 500, "all workers join")
    deploy(cluster, "hello", "builtin:hello")
    cluster.ctl("scale", "hello", "400")
    eventually(lambda: sum(s["state"] == "ready" for s in sandboxes_of(cluster, "hello")) == 400, "400 sandboxes")
    check(len({s["node"] for s in sandboxes_of(cluster, "hello")}) > 100, "they share few nodes")
    check_equal(cluster.request("/function/hello")[0], 200)


def test_two_hosts(cluster):
    """a data plane on another host reaches the sandboxes through the worker's published ports"""
    needs_root()
    with two_hosts() as (left, right):
        control = cluster.start("control", "--rpc-listen", "10.99.0.1:0", "--admin-listen", "10.99.0.1:0", "--form-listen", "127.0.0.1:0", inside=left)
        rpc = control.addresses["rpc"]
        worker = cluster.start("worker", "--control", rpc, "--admin-listen", "127.0.0.1:0", "--node-name", unique_name("worker"),
                               "--publish-host", "10.99.0.1", inside=left)
        data = cluster.start("data", "--control", rpc, "--listen", "10.99.0.2:0", "--admin-listen", "127.0.0.1:0", inside=right)

        def ctl(*arguments):
            return subprocess.run([*right, BINARY, "ctl", *arguments, "--server", f"http://{control.addresses['admin']}"],
                                  capture_output=True, timeout=60)

        def joined():
            planes = ctl("nodes", "-o", "name").stdout.split()
            return len(planes) == 1
        eventually(joined, "the worker joins")
        done = ctl("deploy", "hello", "--image", "builtin:hello")
        check_equal(done.returncode, 0, done.stderr.decode())
        eventually(lambda: ctl("invoke", "hello").stdout == b"hello from hello-00001\n", "an answer from the other host")
        for role in (data, worker, control):
            check_equal(role.stop(), 0, role.name)


if __name__ == "__main__":
    run_tests(globals())
