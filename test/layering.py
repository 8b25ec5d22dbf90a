#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks who includes whom: the table of docs/architecture.md, section "The floors".

Every #include of a header of ours, and of a third-party library, must be allowed to the floor of the file that has it.
The deciding tower (policy, core) may not read a clock, start a thread, lock, wait or draw entropy either.
Prints one line per violation and "N passed, N failed" (one test per floor and rule).
"""
import pathlib
import re
import sys

FLOORS = {  # floor: floors it may include besides itself
    "base": set(),
    "model": {"base"},
    "policy": {"base", "model"},
    "core": {"base", "model", "policy"},
    "workload": {"base", "model"},
    "io": {"base"},
    "bench": {"base", "model", "workload", "io"},
    "rpc": {"base", "model", "io"},
    "store": {"base", "model"},
    "consensus": {"base", "model", "io", "rpc", "store"},
    "sandbox": {"base", "model", "io"},
    "roles": {"base", "model", "policy", "core", "io", "rpc", "store", "consensus", "sandbox"},
    "sim": {"base", "model", "policy", "core", "workload", "consensus"},  # of consensus what is pure: see below
    "cli": {"base", "model", "policy", "core", "io", "roles", "sim", "workload", "bench"},
}
THIRD_PARTY = {  # header pattern: floors that may include it ("public": also in include/)
    r"fmt/": set(FLOORS),
    r"tl/": {"base"},
    r"asio": {"io", "rpc", "consensus", "sandbox", "roles", "bench", "cli"},
    r"llhttp": {"io", "roles"},
    r"(capnp|kj)/": {"rpc", "consensus"},
    r"cluster\.capnp": {"rpc"},
    r"consensus\.capnp": {"consensus"},
    r"rocksdb/": {"store"},
    r"nghttp2/": {"roles", "bench", "sandbox"},
    r"nlohmann/": {"roles", "bench", "cli", "sandbox"},
    r"CLI/": {"cli"},
    r"nftables/": {"sandbox"},
    r"curl/": {"io"},
    r"(zlib\.h|zstd\.h)": {"sandbox"},
}
HEAVY = re.compile(r"nlohmann/(?!json_fwd)|CLI/|capnp/|kj/|rocksdb/|grpc")  # never in include/
IMPURE = re.compile(r"steady_clock::now|system_clock::now|random_device|entropy_seed|co_await|std::thread|std::mutex|std::async|<fstream>|fopen")

# What a member of a group decides, which the simulation of test/consensus runs.
PURE_CONSENSUS = {"core", "core_log", "core_members", "log", "messages", "group", "simulated_group"}

root = pathlib.Path(__file__).resolve().parent.parent
violations = {}


def complain(rule, path, line, text):
    violations.setdefault(rule, []).append(f"{path.relative_to(root)}:{line}: {text}")


def floor_of(path):
    parts = path.relative_to(root).parts
    if parts[:2] == ("include", "dirigent"):
        return parts[2]
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    return None


files = [p for d in ("include", "src") for p in (root / d).rglob("*") if p.suffix in (".h", ".cpp")]
for path in files:
    floor = floor_of(path)
    if floor is None:
        continue
    if floor not in FLOORS:
        complain("known floors", path, 1, f"{floor} is not a floor")
        continue
    is_public = path.relative_to(root).parts[0] == "include"
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        is_pure = floor in ("policy", "core") or (floor == "consensus" and path.stem in PURE_CONSENSUS)
        if is_pure and IMPURE.search(line.split("//")[0]):
            complain("deciding is pure", path, number, line.strip())
        match = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
        if not match:
            continue
        header = match.group(1)
        ours = re.match(r"dirigent/(\w+)/", header) or re.match(r"(\w+)/", header) if '"' in line else None
        if ours and ours.group(1) in FLOORS and ours.group(1) != floor and ours.group(1) not in FLOORS[floor]:
            complain(f"{floor} includes only the floors below it", path, number, f"includes {header}")
        if ours and floor == "sim" and ours.group(1) == "consensus" and pathlib.Path(header).stem not in PURE_CONSENSUS:
            complain("sim includes only the floors below it", path, number, f"includes {header}, which is not pure")
        for pattern, floors in THIRD_PARTY.items():
            if re.match(pattern, header) and floor not in floors:
                complain(f"{floor} uses only its own libraries", path, number, f"includes {header}")
        if is_public and HEAVY.match(header):
            complain("headers stay light", path, number, f"includes {header}")
    if not lines or "SPDX-License-Identifier: MIT" not in lines[0]:
        complain("every file names its licence", path, 1, "no SPDX line")

# A public header that no other floor uses, directly or through another public header, belongs beside its .cpp.
includes = {}
for path in files + [p for d in ("test", "bench") for p in (root / d).rglob("*") if p.suffix in (".h", ".cpp")]:
    includes[path] = set(re.findall(r'#include "(dirigent/[^"]+)"', path.read_text()))
public = {"/".join(path.relative_to(root).parts[1:]): path for path in files if path.relative_to(root).parts[0] == "include"}
reached = {}  # header: floors that see it
for path, headers in includes.items():
    seen, todo = set(), list(headers)
    while todo:
        header = todo.pop()
        if header not in seen and header in public:
            seen.add(header)
            todo += includes[public[header]]
    for header in seen:
        reached.setdefault(header, set()).add(floor_of(path) or "outside")
for header, path in public.items():
    if not reached.get(header, set()) - {floor_of(path)}:
        complain("a public header is used by another floor", path, 1, "only its own floor includes it")

rules = ["known floors", "deciding is pure", "headers stay light", "every file names its licence",
         "a public header is used by another floor"]
rules += [f"{floor} includes only the floors below it" for floor in FLOORS]
rules += [f"{floor} uses only its own libraries" for floor in FLOORS]
for rule in rules:
    for text in violations.get(rule, []):
        print(f"layering: {rule}: {text}")
failed = sum(1 for rule in rules if rule in violations)
print(f"{len(rules) - failed} passed, {failed} failed")
sys.exit(1 if failed else 0)
