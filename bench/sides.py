"""What `scripts/bench steps` and `scripts/bench kernels` share: programs that are asked for rounds in turn, and tables of results."""

import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys


class Side:
    """A program that answers a line, the name of a case, with what it measured in one round of it, or "-" if it has no such case.
    One without a name says its own on its first line."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = name or self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name or self.process.args} ended with status {self.process.wait()}")
        return line.strip()

    def round(self, case):
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        answer = self.read()
        return None if answer == "-" else [float(number) for number in answer.split()]


def medians(sides, cases, rounds):
    """Asks the sides for rounds in turn (the first, the second, ..., the first, ...), so that noise of the machine meets all of them.
    `cases` holds the line for each side. Gives each side's medians; None for those that do not have the case."""
    answers = [[] for _ in sides]
    for _ in range(rounds):
        for side, case, mine in zip(sides, cases, answers):
            if None not in mine:
                mine.append(side.round(case))
    return [None if None in mine else [statistics.median(column) for column in zip(*mine)] for mine in answers]


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def cells(row, columns):
    """A row's values as words: ratios and shares to two digits, other numbers to three at least."""
    def text(column):
        value = row[column]
        if value is None:
            return "-"
        if not isinstance(value, float):
            return str(value).replace(" ", "_")
        if column in ("ratio", "share"):
            return f"{value:.2f}"
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return [text(column) for column in columns]


def processor():
    """Its name, and on x86 its family and model, which tell generations of one name apart."""
    words = {}
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                words.setdefault(key.strip(), value.strip())
    if "model name" not in words:
        return platform.processor() or platform.machine()
    generation = [f"{key} {words[word]}" for key, word in (("family", "cpu family"), ("model", "model")) if word in words]
    return ", ".join([words["model name"], *generation])


def results(name):
    """Where a whole run's results go, without extension."""
    return os.path.join(os.path.dirname(__file__), "results", name)


def write_json(path, **content):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w") as file:
        json.dump({"date": datetime.date.today().isoformat(), "processor": processor(), **content}, file, indent=1)
        file.write("\n")
    print(f"wrote {path}", file=sys.stderr)


def write_markdown(path, heading, columns, rows):
    lines = [*heading, "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cells(row, columns)) + " |" for row in rows]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    print(f"wrote {path}", file=sys.stderr)
