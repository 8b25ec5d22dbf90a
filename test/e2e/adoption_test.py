#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A worker that is killed and started again goes on with its sandboxes: real processes, under load.

    DIRIGENT=build/src/dirigent python3 test/e2e/adoption_test.py [TEST...]

DIRIGENT_ROUNDS says how often the worker is killed in the test of many rounds (default 5).
"""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Skip, check, check_equal, eventually, needs_root, run_tests, unique_name  # noqa: E402

class Containerd:
    """A containerd of the test's own, in its cluster's directory."""

    def __init__(self, directory):
        self.directory = directory
        self.address = str(directory / "containerd.sock")
        config = directory / "containerd.toml"
        config.write_text(f"""version = 2
root = "{directory}/containerd"
state = "{directory}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{self.address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
""")
        self.process = subprocess.Popen(["containerd", "--config", str(config), "--log-level", "error"],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: os.path.exists(self.address), "containerd listens")

    def close(self):
        self.process.terminate()
        self.process.wait()


class Load:
    """Threads that call a function one after the other, and what they were answered."""

    def __init__(self, cluster, path, threads=4):
        self.cluster, self.path = cluster, path
        self.good, self.bad, self.slowest = 0, [], 0.0
        self.lock = threading.Lock()
        self.going = True
        self.threads = [threading.Thread(target=self.work) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self):
        while self.going:
            began = time.monotonic()
            try:
                status, _, body = self.cluster.request(self.path)
                answer = None if status == 200 else (status, body[:200])
            except OSError as error:
                answer = error
            with self.lock:
                self.slowest = max(self.slowest, time.monotonic() - began)
                if answer is None:
                    self.good += 1
                else:
                    self.bad.append(answer)

    def stop(self):
        self.going = False
        for thread in self.threads:
            thread.join()


class Setting:
    """A control plane, a data plane, and a worker of one runtime that can be killed."""

    def __init__(self, cluster, runtime, *flags):
        needs_root()
        for program in {"process": (), "oci": ("crun",), "containerd": ("containerd", "runc")}[runtime]:
            if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
                raise Skip(f"needs {program}")
        self.cluster, self.runtime = cluster, runtime
        self.daemon = None
        self.flags = ["--runtime", runtime, "--image-dir", str(cluster.directory / "images"), *flags]
        if runtime == "containerd":
            self.daemon = Containerd(cluster.directory)
            self.flags += ["--containerd-address", self.daemon.address, "--oci-program", shutil.which("runc", path="/usr/sbin:/sbin:/usr/bin")]
        control = cluster.control()
        self.rpc = control.addresses["rpc"]
        cluster.data(self.rpc)
        self.name = unique_name("worker")
        self.worker = cluster.worker(self.rpc, *self.flags, name=self.name)

    def deploy(self, name, image, sandboxes, *flags):
        self.function = name
        self.cluster.ctl("deploy", name, "--image", image, "--scale", f"{sandboxes}..{sandboxes}", *flags)
        eventually(lambda: len(self.ready()) == sandboxes, f"{sandboxes} sandboxes are ready")

    def sandboxes(self):
        return json.loads(self.cluster.ctl("describe", self.function, "-o", "json")[0])["status"]["sandboxes"]

    def ready(self):
        return [s for s in self.sandboxes() if s["state"] == "ready"]

    def seen(self):
        """What must be the same before and after: of each sandbox its id, revision and address."""
        return sorted((s["id"], s["revision"], s["address"]) for s in self.ready())

    def processes(self):
        """The ids of all processes in the node's cgroups."""
        found = set()
        for base, _, files in os.walk("/sys/fs/cgroup"):
            if f"/dirigent/{self.name}" in base and "cgroup.procs" in files:
                with contextlib.suppress(OSError):  # ENODEV: removed between the open and the read
                    found |= set(pathlib.Path(base, "cgroup.procs").read_text().split())
        return found

    def kill(self):
        self.worker.kill()

    def start(self):
        self.worker = self.cluster.worker(self.rpc, *self.flags, name=self.name)

    def close(self):
        self.worker.stop()
        if self.daemon:
            self.daemon.close()


def adopted_under_load(cluster, runtime):
    setting = Setting(cluster, runtime, "--parked-sandboxes", "0")
    try:
        setting.deploy("echo", "builtin:echo", 3)
        before, processes = setting.seen(), setting.processes()
        load = Load(cluster, "/function/echo")
        eventually(lambda: load.good > 50, "the load runs")
        setting.kill()
        during = load.good
        eventually(lambda: load.good > during + 20, "the sandboxes serve without their worker")
        setting.start()
        eventually(lambda: setting.seen() == before, "the same sandboxes are ready")
        after = load.good
        eventually(lambda: load.good > after + 50, "the load goes on")
        load.stop()
        check_equal(load.bad, [], "calls that failed")
        check(setting.processes() >= processes, f"the same processes: {processes} before, {setting.processes()} after")
        # They are sandboxes like any other: an end is noticed, and they can be removed.
        cluster.ctl("scale", "echo", "1")
        eventually(lambda: len(setting.sandboxes()) == 1, "one sandbox is left")
        cluster.ctl("delete", "echo")
        eventually(lambda: not setting.processes(), "no process is left")
        print(f"      {runtime}: {load.good} calls, none failed, the slowest took {load.slowest * 1000:.0f} ms", flush=True)
    finally:
        setting.close()


def test_process(cluster):
    """process: a worker killed under load comes back to the same sandboxes, and no call fails"""
    adopted_under_load(cluster, "process")


def test_oci(cluster):
    """oci: a worker killed under load comes back to the same sandboxes, and no call fails"""
    adopted_under_load(cluster, "oci")


def test_containerd(cluster):
    """containerd: a worker killed under load comes back to the same sandboxes, and no call fails"""
    adopted_under_load(cluster, "containerd")


def counted(setting):
    """What could leak with each round, as numbers."""
    pids = [setting.worker.pid] + [int(p) for p in os.listdir("/proc") if p.isdigit() and is_guard(p)]
    return {"guards": len(pids) - 1,
            "links": sum(name.startswith("dg") for name in os.listdir("/sys/class/net")),
            "cgroups": sum(setting.name in base for base, _, _ in os.walk("/sys/fs/cgroup"))}


def is_guard(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"dirigent-cell\0") and \
            pathlib.Path(f"/proc/{pid}/status").read_text().count("NSpid:\t" + pid + "\n") == 1
    except OSError:
        return False


def rounds(cluster, runtime):
    count = int(os.environ.get("DIRIGENT_ROUNDS", "5"))
    setting = Setting(cluster, runtime, "--parked-sandboxes", "2")
    try:
        setting.deploy("echo", "builtin:echo", 4)
        before = setting.seen()
        first = None
        for number in range(count):
            setting.kill()
            setting.start()
            eventually(lambda: setting.seen() == before, f"the same sandboxes after round {number}")
            # Without what is prepared ahead of time.
            settled = lambda: counted(setting)
            if first is None:
                first = settled()
            else:
                eventually(lambda: all(settled()[key] <= first[key] + 4 for key in first), f"nothing has grown: {first} at first")
        check_equal(cluster.request("/function/echo")[0], 200, "a call after the last round")
    finally:
        setting.close()


def test_rounds_process(cluster):
    """process: many kills and starts keep the sandboxes and leave nothing"""
    rounds(cluster, "process")


def test_rounds_oci(cluster):
    """oci: many kills and starts keep the sandboxes and leave nothing"""
    rounds(cluster, "oci")


def test_rounds_containerd(cluster):
    """containerd: many kills and starts keep the sandboxes and leave nothing"""
    rounds(cluster, "containerd")


def test_nobody_comes(cluster):
    """the sandboxes of a killed worker end when no other comes in time"""
    setting = Setting(cluster, "process", "--adopt-time", "500ms")
    setting.deploy("echo", "builtin:echo", 2)
    check(setting.processes(), "there are processes")
    setting.kill()
    eventually(lambda: not setting.processes(), "no process is left")


def test_another_setting(cluster):
    """a worker with another runtime does not take over, it ends what is there and starts anew"""
    setting = Setting(cluster, "process")
    try:
        setting.deploy("echo", "builtin:echo", 2)
        before = setting.processes()
        setting.kill()
        setting.flags += ["--adopt-time", "0s"]
        setting.start()
        eventually(lambda: len(setting.ready()) == 2, "two new sandboxes")
        check(not before & setting.processes(), "none of the old processes is left")
    finally:
        setting.close()


def test_output_goes_on(cluster):
    """what a function prints without a worker does not make it wait, and its logs go on afterwards"""
    setting = Setting(cluster, "process")
    try:
        script = "i=0; while :; do i=$((i+1)); echo line $i; done & exec python3 -S -m http.server $PORT"
        setting.deploy("chatty", "exec:/bin/sh", 1, "--arg=-c", f"--arg={script}", "--memory", "256MiB")
        setting.kill()
        eventually(lambda: cluster.request("/function/chatty")[0] == 200, "it serves")
        setting.start()
        eventually(lambda: len(setting.ready()) == 1, "the sandbox is ready")
        eventually(lambda: "line" in cluster.ctl("logs", "chatty", "--tail", "5")[0], "lines of its log")
    finally:
        setting.close()


if __name__ == "__main__":
    run_tests(globals())
