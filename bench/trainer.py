"""Runs steps through the Trainer, by hand, and through Lightning in turn: `scripts/bench trainer`.

Prints one line a case and loop: case loop us extra_us share ratio. `us` is the median of the rounds' microseconds a step, `extra_us`
and `share` what it is more than the loop that it is compared with (trainer and everything: by hand; ema: trainer), `ratio` that
of Lightning's steps and ours (trainer). A whole run leaves its table in bench/results.
Usage: trainer.py BUILD_FOLDER [--threads N] [--rounds N] [--quick] [--out PATH_WITHOUT_EXTENSION] [CASE...]
"""

import argparse
import importlib.util
import os
import sys
import tempfile

from sides import Side, cells, medians, processor, results, write_json, write_markdown

LOOPS = {"mlp_b1": ["hand", "trainer", "everything"], "lenet_b64": ["hand", "trainer", "everything"], "gpt_tiny": ["trainer", "ema"]}
PEER_LOOPS = ["default", "barebones"]
BASE = {"trainer": "hand", "everything": "hand", "ema": "trainer"}
COLUMNS = "case loop us extra_us share ratio".split()


def measure(case, sides, rounds):
    asked = [(sides[0], "anneal", loop) for loop in LOOPS[case]]
    if case != "gpt_tiny":
        asked += [(side, side.name, loop) for side in sides[1:] for loop in PEER_LOOPS]
    answers = medians([side for side, _, _ in asked], [f"{case} {loop}" for _, _, loop in asked], rounds)
    us = {(name, loop): answer[0] for (_, name, loop), answer in zip(asked, answers)}
    rows = []
    for (name, loop), time in us.items():
        base = us.get((name, BASE.get(loop)))
        ratio = time / us["anneal", "trainer"] if name != "anneal" else None
        rows.append({"case": case, "loop": loop if name == "anneal" else f"{name} {loop}", "us": time, "ratio": ratio,
                     "extra_us": time - base if base else None, "share": (time - base) / base if base else None})
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a round")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--out")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(LOOPS))
    args = parser.parse_intermixed_args()
    if unknown := [case for case in args.cases if case not in LOOPS]:
        sys.exit(f"no case {unknown[0]}; there are {' '.join(LOOPS)}")
    if args.quick:
        args.rounds, args.seconds = 1, 0.1
    options = ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side("anneal", [os.path.join(args.folder, "bench_trainer"), *options, os.path.join(folder, "run")])]
        if importlib.util.find_spec("lightning"):
            sides.append(Side(None, [sys.executable, os.path.join(os.path.dirname(__file__), "peers", "lightning_step.py"), *options]))
        else:
            print("no Lightning here (pip install lightning): our side alone", file=sys.stderr)
        rows = []
        print(*COLUMNS)
        for case in args.cases or LOOPS:
            for row in measure(case, sides, args.rounds):
                rows.append(row)
                print(*cells(row, COLUMNS), flush=True)
        for side in sides:
            side.close()
    if out := args.out or (None if args.quick or args.cases else results("trainer")):
        write_json(out + ".json", threads=args.threads, rounds=args.rounds, rows=rows)
        write_markdown(out + ".md", [processor()], COLUMNS, rows)


if __name__ == "__main__":
    main()
