# SPDX-License-Identifier: MIT
"""What the end-to-end tests share: the real binary on loopback with port 0, and a look at what it leaves behind.

Every process is started with --exit-with-stdin, so that none outlives the test, and is ended by its own pid.
"""
import contextlib
import http.client
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

BINARY = os.environ["DIRIGENT"]
role_binary = BINARY  # of the next roles to be started; a test may put another build here
TIMEOUT = 60  # seconds: a bound for things that hang, not a measure


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def check_equal(actual, expected, what=""):
    check(actual == expected, f"{what}: expected {expected!r}, got {actual!r}")


def eventually(probe, what, timeout=TIMEOUT):
    """Until probe() returns something true; its last value otherwise is told."""
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"did not happen within {timeout} s: {what} (last: {value!r})")
        time.sleep(0.01)


class Role:
    """A dirigent process that has said its addresses."""

    def __init__(self, name, *arguments, expect_start=True, env=None, inside=()):
        self.name = name
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*inside, role_binary, name, "--print-addresses", "--exit-with-stdin", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, **(env or {})})
        self.addresses = {}
        if expect_start:
            ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
            line = self.process.stdout.readline() if ready else b""
            if not line:
                self.kill()
                raise Failure(f"{name} did not start: {self.output()}")
            self.addresses = json.loads(line)["addresses"]

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def stop(self):
        """SIGTERM and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self):
        try:
            status = self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.name} did not end within {TIMEOUT} s of SIGTERM: {self.output()[-2000:]}")
        self.process.stdin.close()
        self.process.stdout.close()
        return status

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


class Cluster:
    """Roles and a scratch directory that end with the test."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dirigent-test-"))
        self.roles = []
        self.admin = None
        self.invoke_address = None

    def start(self, name, *arguments, **options):
        role = Role(name, *arguments, **options)
        self.roles.append(role)
        return role

    def dev(self, *arguments):
        role = self.start("dev", "--listen", "127.0.0.1:0", "--form-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
                          "--data-admin-listen", "127.0.0.1:0", "--node-name", unique_name("dev"), *arguments)
        self.admin = role.addresses["admin"]
        self.invoke_address = role.addresses["invoke"]
        return role

    def control(self, *arguments, rpc="127.0.0.1:0", admin="127.0.0.1:0"):
        role = self.start("control", "--rpc-listen", rpc, "--form-listen", "127.0.0.1:0", "--admin-listen", admin, *arguments)
        self.admin = role.addresses["admin"]
        return role

    def data(self, rpc, *arguments, listen="127.0.0.1:0"):
        role = self.start("data", "--listen", listen, "--admin-listen", "127.0.0.1:0", "--control", rpc, *arguments)
        self.invoke_address = role.addresses["invoke"]
        return role

    def worker(self, rpc, *arguments, name=None, **options):
        return self.start("worker", "--admin-listen", "127.0.0.1:0", "--control", rpc, "--node-name", name or unique_name("worker"), *arguments, **options)

    def ctl(self, *arguments, check_status=0, stdin=None):
        """Runs `dirigent ctl`; returns (stdout, stderr)."""
        done = subprocess.run([BINARY, "ctl", *arguments, "--server", f"http://{self.admin}"], input=stdin,
                              capture_output=True, timeout=TIMEOUT, env={**os.environ, "NO_COLOR": "1"})
        if check_status is not None and done.returncode != check_status:
            raise Failure(f"ctl {' '.join(arguments)}: exit status {done.returncode}, expected {check_status}\n"
                          f"{done.stdout.decode()}{done.stderr.decode()}")
        return done.stdout.decode(), done.stderr.decode()

    def request(self, path, method="GET", body=None, headers=None, address=None, timeout=TIMEOUT):
        """One request; returns (status, headers, body)."""
        host, _, port = (address or self.invoke_address).rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def close(self):
        problems = []
        for role in reversed(self.roles):
            if role.process.poll() is None:
                with contextlib.suppress(Failure):
                    role.stop()
            role.kill()
            if "runtime error:" in role.output() or "AddressSanitizer" in role.output() or "ThreadSanitizer" in role.output():
                problems.append(f"{role.name}: {role.output()[-4000:]}")
            if "dirigent: bug:" in role.output():
                problems.append(f"{role.name}: {role.output()[-2000:]}")
        shutil.rmtree(self.directory, ignore_errors=True)
        return problems


@contextlib.contextmanager
def new_cluster():
    """A cluster that ends with the block; what its roles logged is shown when the block fails."""
    cluster = Cluster()
    try:
        yield cluster
    except Exception:
        for role in cluster.roles:
            print(f"--- {role.name} {role.pid}, exit status {role.process.poll()}\n{role.output()[-2000:]}", file=sys.stderr)
        raise
    finally:
        cluster.close()


_serial = 0


def unique_name(prefix):
    global _serial
    _serial += 1
    return f"{prefix}-{os.getpid()}-{_serial}"


def leftovers():
    """What sandboxes are made of, as far as this test's nodes made it: cgroups, processes, links, nft tables."""
    found = []
    mine = f"-{os.getpid()}-"
    for base, directories, _ in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(base, d) for d in directories if mine in d]
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            command = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
            if mine in command and int(entry) != os.getpid() and "e2e" not in command:
                found.append(f"process {entry}: {command}")
    return found


@contextlib.contextmanager
def two_hosts():
    """Two network namespaces with a link between them; yields, for each, the words that run a command in it."""
    names = [unique_name("dg-host") for _ in range(2)]
    run = lambda *words: subprocess.run(words, check=True, capture_output=True)
    try:
        try:
            for name in names:
                run("ip", "netns", "add", name)
            run("ip", "link", "add", "left", "netns", names[0], "type", "veth", "peer", "name", "right", "netns", names[1])
        except (OSError, subprocess.CalledProcessError) as error:
            raise Skip(f"network namespaces cannot be made here: {error}")
        for name, link, address in ((names[0], "left", "10.99.0.1/24"), (names[1], "right", "10.99.0.2/24")):
            run("ip", "-n", name, "address", "add", address, "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        # nsenter and not `ip netns exec`, which would hide the cgroup file systems.
        yield [("nsenter", f"--net=/run/netns/{name}") for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def needs_root():
    if os.geteuid() != 0:
        raise Skip("needs root: full sandboxes cannot be made without it")


def raw_exchange(address, data, timeout=10):
    """Sends bytes and reads until the peer closes or is silent for `timeout`."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(socket.timeout, ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
        return received


def run_tests(namespace):
    passed = failed = skipped = 0
    chosen = sys.argv[1:]
    for name, test in list(namespace.items()):
        if not name.startswith("test_") or (chosen and name not in chosen):
            continue
        title = (test.__doc__ or name).strip().splitlines()[0]
        cluster = Cluster()
        began = time.monotonic()
        error = None
        try:
            test(cluster)
        except Skip as skip:
            skipped += 1
            print(f"skip  {title}: {skip}", flush=True)
            cluster.close()
            continue
        except Exception:  # whatever it is, it is this test's failure
            error = traceback.format_exc()
            logs = "".join(f"--- {role.name} {role.pid}\n{role.output()[-3000:]}" for role in cluster.roles)
            error += logs
        problems = cluster.close()
        if problems and error is None:
            error = "\n".join(problems)
        if error is None:
            left = []
            with contextlib.suppress(Failure):
                eventually(lambda: not leftovers(), "nothing is left behind", timeout=10)
            left = leftovers()
            if left:
                error = "left behind: " + ", ".join(left)
        if error:
            failed += 1
            print(f"FAIL  {title}\n{error}", flush=True)
        else:
            passed += 1
            print(f"ok    {title} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)
