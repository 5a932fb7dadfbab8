#!/usr/bin/env python3
"""Checks the conformance list of the Trainer's specification, or runs the tests of one of its rows.

conformance.py LIST PROGRAM...         each row is there once, and each test that it names is in one of the programs
conformance.py LIST PROGRAM... C-041   runs that row's tests
"""
import collections
import re
import subprocess
import sys

ROWS = range(1, 201)
LINE = re.compile(r"C-(\d{3})((?: [\w/]+\.[\w/]+)*)(?: (partly|none): (\S.*))?")
Row = collections.namedtuple("Row", "tests kind missing")


def read_list(path):
    """The rows by their numbers, and what is wrong with the list."""
    rows, errors, last = {}, [], 0
    for place, line in enumerate(open(path, encoding="utf-8"), 1):
        line = line.rstrip("\n")
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if not match:
            errors.append(f"line {place} is no row: {line}")
            continue
        number, tests, kind = int(match[1]), match[2].split(), match[3] or "asserted"
        if number <= last:
            errors.append(f"line {place}: C-{number:03} is there twice or not in its place")
        if (kind == "none") == bool(tests):
            errors.append(f"line {place}: a row names its tests, or says `none: ` and what is missing")
        rows[number], last = Row(tests, kind, match[4]), number
    errors += [f"C-{number:03} is not in the list" for number in ROWS if number not in rows]
    errors += [f"C-{number:03} is no row of the specification" for number in rows if number not in ROWS]
    return rows, errors


def tests_of(program):
    """Full names, those of parameterized tests without their parameter as well."""
    output = subprocess.run([program, "--gtest_list_tests"], check=True, capture_output=True, text=True).stdout
    suite, names = "", set()
    for line in output.splitlines():
        name = line.split("#")[0].strip()
        if not line.startswith(" "):
            suite = name
        else:
            names |= {suite + name, suite + name.split("/")[0]}
    return names


def main(arguments):
    wanted = arguments.pop() if arguments and re.fullmatch(r"C-\d{3}", arguments[-1]) else None
    if len(arguments) < 2:
        sys.exit(__doc__)
    path, *programs = arguments
    rows, errors = read_list(path)
    known = {program: tests_of(program) for program in programs}
    for number, row in rows.items():
        for test in row.tests:
            if not any(test in names for names in known.values()):
                errors.append(f"C-{number:03}: no program has a test {test}")
    if errors:
        sys.exit("\n".join(errors))

    if not wanted:
        count = collections.Counter(row.kind for row in rows.values())
        print(f"{len(rows)} rows: {count['asserted']} asserted, {count['partly']} partly, {count['none']} not")
        return 0
    row = rows.get(int(wanted[2:]))
    if not row:
        sys.exit(f"{wanted} is no row of the specification")
    if row.missing:
        print(f"{wanted} {row.kind}: {row.missing}")
    code = 0
    for program, names in known.items():
        chosen = [test for test in row.tests if test in names]
        if chosen:
            pattern = ":".join(f"{test}:{test}/*" for test in chosen)
            code |= subprocess.run([program, f"--gtest_filter={pattern}"]).returncode
    return code if row.tests else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
