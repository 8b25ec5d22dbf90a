#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs every test that meson knows in a build directory, one after another, and counts single tests, not programs.

usage: test/run_tests.py BUILD_DIRECTORY [NAME...]

Each program ends with its own summary: Catch2's, or "N passed, N failed[, N skipped]". A program without one counts as one
test. The last line is "N passed, N failed, N skipped".
"""
import json
import os
import re
import subprocess
import sys
import time

build = sys.argv[1]
chosen = sys.argv[2:]
tests = json.loads(subprocess.run(["meson", "introspect", "--tests", build], check=True, capture_output=True).stdout)
totals = [0, 0, 0]


def counts(output, status):
    plain = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", output, re.MULTILINE)
    if plain:
        return [int(x or 0) for x in plain[-1]]
    skipped = len(re.findall(r"^\s*(?:skipped|SKIPPED):", output, re.MULTILINE))
    whole = re.search(r"All tests passed \(.* in (\d+) test cases?\)", output)
    if whole:
        return [int(whole.group(1)) - skipped, 0, skipped]
    cases = re.search(r"^test cases:\s*(\d+)(.*)$", output, re.MULTILINE)
    if cases:
        found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped)", cases.group(2))}
        failed = found.get("failed", 0)
        return [int(cases.group(1)) - failed - skipped, failed, skipped]
    return [1, 0, 0] if status == 0 else [0, 1, 0]


def condensed(output):
    """What a failed program printed, without the log lines unless they are all there is: they would hide what failed."""
    without_log = "\n".join(line for line in output.splitlines() if not line.startswith('{"time":'))
    return f"{without_log[-12000:]}\n--- the end of it with its log:\n{output[-4000:]}"


for test in tests:
    name = test["name"]
    if chosen and name not in chosen:
        continue
    began = time.monotonic()
    environment = {**os.environ, **test["env"]}
    try:
        done = subprocess.run(test["cmd"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=test["timeout"],
                              cwd=test["workdir"], stdin=subprocess.DEVNULL)
        output, status = done.stdout.decode(errors="replace"), done.returncode
    except subprocess.TimeoutExpired as expired:
        output, status = (expired.stdout or b"").decode(errors="replace") + f"\nnot finished within {test['timeout']} s", -1
    result = counts(output, status)
    if status != 0 and result[1] == 0:
        result[1] = 1  # it crashed, or was ended by a sanitizer
    for i in range(3):
        totals[i] += result[i]
    mark = "ok  " if status == 0 else "FAIL"
    print(f"{mark}  {name}: {result[0]} passed, {result[1]} failed, {result[2]} skipped ({time.monotonic() - began:.1f} s)", flush=True)
    interesting = re.findall(r"^(?:golden group .*|\s*(?:skipped|SKIPPED|skip ).*)$", output, re.MULTILINE)
    for line in interesting:
        print(f"      {line.strip()}", flush=True)
    if status != 0:
        print(condensed(output), flush=True)
print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
sys.exit(1 if totals[1] else 0)
