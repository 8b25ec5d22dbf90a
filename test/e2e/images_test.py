#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images and secrets end to end: prefetching, placement by image, one digest for all nodes, files that nobody is shown."""
import json
import os
import pathlib
import shutil
import sys
import tarfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BINARY, check, check_equal, eventually, needs_root, run_tests, unique_name  # noqa: E402

CELL = pathlib.Path(BINARY).resolve().parent / "sandbox" / "cell"
SECRET = "open sesame, said nobody else"


def make_archive(path):
    """The files of a root with one program, which serves like builtin:hello."""
    with tarfile.open(path, "w") as archive:
        archive.add(CELL, arcname="cell")
    return f"tar:{path}"


def two_workers(cluster):
    control = cluster.control("--state-dir", str(cluster.directory / "state"))
    cluster.data(control.addresses["rpc"])
    names = []
    for number in range(2):
        names.append(unique_name("worker"))
        cluster.worker(control.addresses["rpc"], "--image-dir", str(cluster.directory / f"images-{number}"), name=names[-1])
    eventually(lambda: len(nodes(cluster)) == 2, "both workers have joined")
    return names


def nodes(cluster):
    return {n["name"]: n for n in json.loads(cluster.ctl("nodes", "-o", "json")[0])["nodes"]}


def test_prefetch(cluster):
    """ctl prefetch gets an image to one node, where its function is placed then; a failure says why"""
    needs_root()
    names = two_workers(cluster)
    image = make_archive(cluster.directory / "root.tar")
    _, talk = cluster.ctl("prefetch", image, "--node", names[1])
    check(f"{names[1]} has {image}" in talk, talk)
    check_equal([image in nodes(cluster)[name]["images"] for name in names], [False, True], "who has the image")
    cluster.ctl("deploy", "hello", "--image", image, "--arg", "/cell", "--arg", "builtin", "--arg", "hello", "--arg", "x")
    check_equal(cluster.request("/function/hello")[0], 200)
    placed = json.loads(cluster.ctl("describe", "hello", "-o", "json")[0])
    check_equal({s["node"] for s in placed["status"]["sandboxes"]}, {names[1]}, "where the function is")
    check("image 0" not in cluster.ctl("explain", "hello")[0], cluster.ctl("explain", "hello")[0])
    # By the function's name, and everywhere.
    cluster.ctl("prefetch", "hello")
    check(all(image in nodes(cluster)[name]["images"] for name in names), nodes(cluster))
    _, talk = cluster.ctl("prefetch", "tar:/no/such.tar", check_status=1)
    check(talk.count("/no/such.tar") >= 2, talk)
    cluster.ctl("prefetch", image, "--node", "nobody", check_status=3)
    _, talk = cluster.ctl("prefetch", "builtin:hello", check_status=None)
    check("there is nothing to get" in talk, talk)
    cluster.ctl("deploy", "again", "--image", image, "--prefetch", "--arg", "/cell", "--arg", "builtin", "--arg", "hello", "--arg", "x")


def test_secrets(cluster):
    """a secret is a file for the function, and is in no answer, no log and no output"""
    needs_root()
    two_workers(cluster)
    (cluster.directory / "key").write_text(SECRET)
    serve = "exec python3 -S -m http.server $PORT --directory /run/secrets"
    if not shutil.which("python3", path="/usr/bin"):
        serve = "exit 1"
    cluster.ctl("deploy", "keeper", "--image", "exec:/bin/sh", "--arg=-c", f"--arg={serve}", "--memory", "256MiB",
                "--secret", f"key.txt={cluster.directory / 'key'}")
    status, _, body = cluster.request("/function/keeper/key.txt")
    if status == 404:
        status, _, body = cluster.request("/key.txt", headers={"Host": "keeper"})
    check_equal((status, body.decode()), (200, SECRET), "what the function reads")
    answer = cluster.ctl("describe", "keeper", "-o", "json")[0]
    check_equal(json.loads(answer)["revisions"][0]["spec"]["secrets"], {"key.txt": None})
    import base64
    forms = [SECRET, base64.b64encode(SECRET.encode()).decode()]
    shown = [answer, cluster.ctl("list", "-o", "json")[0], cluster.ctl("explain", "keeper")[0], cluster.ctl("events", "keeper")[0]]
    shown += [role.output() for role in cluster.roles]
    for text in shown:
        check(not any(form in text for form in forms), f"a secret is in {text[:500]}")


if __name__ == "__main__":
    run_tests(globals())
