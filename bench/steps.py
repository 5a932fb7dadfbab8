"""Runs training steps of ours and of PyTorch in turn: `scripts/bench steps`.

Prints one line a case: case dtype threads ours_ms peer_ms peer_name ratio ours_mb peer_mb. Each case has programs of its own, ours
and PyTorch's (with --compile also one that runs torch.compile's model; the faster counts), which are asked for a round of steps in
turn; each figure is the median of its rounds' medians. Ratio = peer / ours, above 1 if ours is faster. Precision bf16: parameters
in f32, ops cast. Memory, of PyTorch the uncompiled program's: on a CPU the most that the process held at once (VmHWM) less what it
held before the model was made; on a GPU what the allocator says. A run of all cases on the CPU leaves its table in bench/results.
Usage: steps.py BUILD_FOLDER [--device cpu|cuda] [--threads N] [--dtypes f32,bf16] [--rounds N] [--compile] [--quick]
                [--out PATH_WITHOUT_EXTENSION] [CASE...]
"""

import argparse
import importlib.util
import math
import os
import sys

from sides import Side, cells, geometric_mean, medians, processor, results, write_json, write_markdown

CASES = ["mlp_b64", "mlp_b1", "lenet_b64", "resnet18_b32", "gpt_tiny", "gpt_char", "gpt2_124m"]
COLUMNS = "case dtype threads ours_ms peer_ms peer_name ratio ours_mb peer_mb".split()


def start_peers(options, compiled):
    if not importlib.util.find_spec("torch"):
        return []
    script = os.path.join(os.path.dirname(__file__), "peers", "torch_step.py")
    commands = [[sys.executable, script, *options]] + [[sys.executable, script, *options, "--compile"]] * compiled
    return [Side(None, command) for command in commands]


def measure(case, dtype, args):
    options = ["--threads", str(args.threads), "--device", args.device, "--seconds", str(args.seconds)]
    ours = Side("anneal", [os.path.join(args.folder, "bench_steps"), *options])
    peers = start_peers(options, args.compile)
    line = f"{case} {dtype}"
    mine, *theirs = medians([ours, *peers], [line] * (1 + len(peers)), args.rounds)
    for side in [ours, *peers]:
        side.close()
    for side, (_, _, loss) in zip([ours, *peers], [mine, *theirs]):
        if not math.isfinite(loss):
            sys.exit(f"{line}: {side.name}'s loss is {loss}")
    row = {"case": case, "dtype": dtype, "threads": args.threads, "ours_ms": mine[0], "ours_mb": mine[1]}
    times = {peer.name: answer[0] for peer, answer in zip(peers, theirs)}
    best = min(times, key=times.get, default=None)
    return row | {"peer_ms": times.get(best), "peer_name": best, "ratio": times[best] / mine[0] if best else None,
                  "peer_mb": theirs[0][1] if theirs else None, "peers_ms": times}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=["f32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a round")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes minutes")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--out")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(CASES))
    args = parser.parse_intermixed_args()
    if unknown := [case for case in args.cases if case not in CASES]:
        sys.exit(f"no case {unknown[0]}; there are {' '.join(CASES)}")
    if args.quick:
        args.rounds, args.seconds = 1, 0.1
    if not importlib.util.find_spec("torch"):
        print("no PyTorch here (pip install torch): our side alone", file=sys.stderr)

    rows = []
    print(*COLUMNS)
    for case in args.cases or CASES:
        for dtype in args.dtypes:
            rows.append(measure(case, dtype, args))
            print(*cells(rows[-1], COLUMNS), flush=True)
    for dtype in args.dtypes:
        ratios = [row["ratio"] for row in rows if row["dtype"] == dtype and row["ratio"]]
        if ratios:
            print(f"# {dtype}: geometric mean of the ratios {geometric_mean(ratios):.2f}")
    if out := args.out or (None if args.quick or args.cases or args.device != "cpu" else results("steps")):
        write_json(out + ".json", device=args.device, rounds=args.rounds, rows=rows)
        write_markdown(out + ".md", [processor()], COLUMNS, rows)


if __name__ == "__main__":
    main()
