"""Runs bench_steps and PyTorch in turn and prints one line a case: case dtype threads ours_ms peer_ms ratio.

Both programs stay alive and are asked for one round (half a second of steps) at a time, ours, the peer's, ours, ...; each
figure is the median of its rounds' medians, so noise of the machine meets both sides. Ratio = peer / ours.
Usage: steps.py BUILD_FOLDER [--device cpu|cuda] [--threads N] [--rounds N] [--out FILE] [CASE...]
"""

import argparse
import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys

CASES = ["mlp_b64", "mlp_b1", "lenet_b64"]


class Side:
    """A program that answers a case's name with the milliseconds of one round."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended with status {self.process.wait()}")
        return line.strip()

    def round(self, case):
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return float(self.read())


def processor():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(CASES))
    args = parser.parse_intermixed_args()
    if unknown := [case for case in args.cases if case not in CASES]:
        sys.exit(f"no case {unknown[0]}; there are {' '.join(CASES)}")

    options = ["--threads", str(args.threads), "--device", args.device]
    ours = Side([os.path.join(args.folder, "bench_steps"), *options])
    peer, peer_name = None, None
    if importlib.util.find_spec("torch"):
        peer = Side([sys.executable, os.path.join(os.path.dirname(__file__), "peers", "torch_step.py"), *options])
        peer_name = peer.process.stdout.readline().strip()
    if not peer_name:
        peer = None
        print(f"no PyTorch for {args.device} (pip install torch): our side alone", file=sys.stderr)

    rows = []
    print("case dtype threads ours_ms peer_ms ratio")
    for case in args.cases or CASES:
        mine, theirs = [], []
        for _ in range(args.rounds):
            mine.append(ours.round(case))
            if peer:
                theirs.append(peer.round(case))
        row = {"case": case, "dtype": "f32", "threads": args.threads, "ours_ms": statistics.median(mine)}
        row["peer_ms"] = statistics.median(theirs) if peer else None
        row["ratio"] = row["peer_ms"] / row["ours_ms"] if peer else None
        rows.append(row)
        shown = [f"{row[k]:.3f}" if row[k] is not None else "-" for k in ("ours_ms", "peer_ms")]
        print(case, "f32", args.threads, *shown, f"{row['ratio']:.2f}" if peer else "-", flush=True)
    if args.out:
        os.makedirs(os.path.dirname(args.out + ".json"), exist_ok=True)
        with open(args.out + ".json", "w") as file:
            json.dump({"date": datetime.date.today().isoformat(), "processor": processor(), "device": args.device,
                       "peer": peer_name, "rounds": args.rounds, "rows": rows}, file, indent=1)
            file.write("\n")
        print(f"wrote {args.out}.json", file=sys.stderr)


if __name__ == "__main__":
    main()
