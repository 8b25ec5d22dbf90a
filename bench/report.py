# SPDX-License-Identifier: MIT
"""What the benchmark scripts share: a line per measurement, and tables inside a document."""
import datetime
import math
import os
import pathlib
import platform
import re


def say(**figures):
    """One line of key=value."""
    print(" ".join(f"{key}={value:.3f}" if isinstance(value, float) else f"{key}={value}" for key, value in figures.items()), flush=True)


def quantile(values, q):
    """The smallest value that at least q of all do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * q) - 1)]


def machine():
    """The machine, its load as of now, and the date."""
    model = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return (f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, load average "
            f"{os.getloadavg()[0]:.1f} at the end; {datetime.date.today().isoformat()}")


def figure_table(rows):
    """Lines of markdown; a row: (figure, measured, ratio, target, reached)."""
    return ["| figure | measured | ratio | target | reached |", "|---|---|---|---|---|"] + ["| " + " | ".join(row) + " |" for row in rows]


def write_markdown(path, part, text):
    """Replaces what stands between `<!-- PART begin -->` and `<!-- PART end -->`, or appends it with them."""
    begin, end = f"<!-- {part} begin -->", f"<!-- {part} end -->"
    old = path.read_text() if path.exists() else ""
    new = f"{begin}\n{text}{end}\n"
    if begin in old and end in old:
        head, _, rest = old.partition(begin)
        path.write_text(head + new + rest.partition(end + "\n")[2])
    else:
        path.write_text(old + ("\n" if old else "") + new)
