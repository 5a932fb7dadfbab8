"""Runs our kernels, probes of the machine and other libraries' kernels in turn: `scripts/bench kernels`.

Prints one line a case: kernel shape dtype threads ours unit share peer peer_name ratio. `share` is ours / what a probe of the
machine reached between our rounds: multiply-adds (dot products of bf16) in registers for what computes, the same mix of reads and
writes over arrays of the same size for what moves data. `peer` is the fastest of the others; ratio = ours / peer, above 1 if ours
is faster. A run of all cases leaves the table and all peers' figures in bench/results.
Usage: kernels.py BUILD_FOLDER [--threads N,...] [--rounds N] [--quick] [--out PATH_WITHOUT_EXTENSION] [PATTERN...]
"""

import argparse
import dataclasses
import importlib.util
import os
import re
import sys

from sides import Side, cells, geometric_mean, medians, processor, results, write_json, write_markdown


@dataclasses.dataclass
class Case:
    kernel: str
    dtype: str
    sizes: tuple
    work: float  # operations or bytes
    unit: str
    probe: str
    probe_work: float

    @property
    def line(self):
        return " ".join([self.kernel, self.dtype, *map(str, self.sizes)])

    @property
    def shape(self):
        return "x".join(map(str, self.sizes))


PEAK_WORK = 100_000_000


def computing(kernel, dtype, sizes, flops):
    return Case(kernel, dtype, sizes, flops, "GFLOP/s", ("dot bf16" if dtype == "bf16" else "fma f32") + f" {PEAK_WORK}", PEAK_WORK)


def moving(kernel, sizes, elements, updated=0, read=0, written=0):
    bytes_moved = 4 * elements * (2 * updated + read + written)
    probe = f"stream f32 {elements} {updated} {read} {written}"
    return Case(kernel, "f32", sizes, bytes_moved, "GB/s", probe, bytes_moved)


def gemm(form, dtype, m, n, k):
    return computing(f"gemm_{form}", dtype, (m, n, k), 2 * m * n * k)


def linear(dtype, rows, inputs, outputs):
    """y = x weight^T, dx = dy weight, dweight = dy^T x."""
    return [gemm("nt", dtype, rows, outputs, inputs), gemm("nn", dtype, rows, inputs, outputs), gemm("tn", dtype, outputs, inputs, rows)]


def conv(dtype, n, c_in, size, c_out, window, stride=1, input_grad=True):
    """Operations of the direct form, those on the padding included."""
    out = (size + 2 * (window // 2) - window) // stride + 1
    kernels = ["conv", "conv_input_grad", "conv_weight_grad"] if input_grad else ["conv", "conv_weight_grad"]
    sizes = (n, c_in, size, size, c_out, window, stride, window // 2)
    return [computing(kernel, dtype, sizes, 2 * n * c_out * out * out * c_in * window * window) for kernel in kernels]


def attention(dtype, batch, heads, time, depth):
    """Causal: half of the full square's operations; the gradient has 5 products where forward has 2."""
    flops = 2 * batch * heads * time * time * depth
    sizes = (batch, heads, time, depth)
    return [computing("attention", dtype, sizes, flops), computing("attention_grad", dtype, sizes, 2.5 * flops)]


# rows, inputs, outputs
LINEARS = [
    (64, 784, 512), (64, 512, 512), (64, 512, 10),  # mlp_b64
    (768, 128, 384), (768, 128, 128), (768, 128, 512), (768, 512, 128),  # gpt_tiny
    (2048, 384, 1152), (2048, 384, 384), (2048, 384, 1536), (2048, 1536, 384), (2048, 384, 65),  # gpt_char
    (256, 768, 2304), (256, 768, 768), (256, 768, 3072), (256, 3072, 768), (256, 768, 50257),  # gpt2_124m
]
# n, c_in, size, c_out, window, stride
CONVS = [
    (32, 64, 32, 64, 3), (32, 128, 16, 128, 3), (32, 256, 8, 256, 3), (32, 512, 4, 512, 3),  # resnet18_b32
    (32, 64, 32, 128, 3, 2), (32, 64, 32, 128, 1, 2), (32, 256, 16, 64, 1),
    (64, 32, 14, 64, 3),  # lenet_b64
]


def all_cases():
    cases = [gemm(form, dtype, n, n, n) for dtype in ("f32", "bf16") for n in (256, 512, 1024, 2048) for form in ("nn", "nt", "tn", "tt")]
    for dtype in ("f32", "bf16"):
        for shape in LINEARS:
            cases += linear(dtype, *shape)
    for dtype in ("f32", "bf16"):
        for shape in CONVS:
            cases += conv(dtype, *shape)
        cases += conv(dtype, 64, 1, 28, 32, 3, input_grad=False)  # lenet_b64's first layer; nobody wants an image's gradient
    for dtype in ("f32", "bf16"):
        cases += attention(dtype, 8, 12, 256, 64) + attention(dtype, 1, 12, 1024, 64)
    n = 4096 * 768
    cases += [moving("layer_norm", (4096, 768), n, read=1, written=1), moving("layer_norm_grad", (4096, 768), n, read=2, written=1)]
    cases += [moving("cross_entropy_and_grad", (1024, 50257), 1024 * 50257, read=1, written=1)]
    n = 2048 * 3072
    cases += [moving("gelu", (2048, 3072), n, read=1, written=1), moving("gelu_grad", (2048, 3072), n, read=2, written=1)]
    cases += [moving("adamw", (n,), n, updated=3, read=1) for n in (55_050, 10_000_000)]
    return cases


PEERS = {"OpenBLAS": "bench_openblas", "Eigen": "bench_eigen", "oneDNN": "bench_onednn"}


def start_peers(folder, options):
    programs = {name: os.path.join(folder, program) for name, program in PEERS.items()}
    peers = [Side(name, [program, *options]) for name, program in programs.items() if os.path.exists(program)]
    if importlib.util.find_spec("torch"):
        script = os.path.join(os.path.dirname(__file__), "peers", "torch_kernels.py")
        peers.append(Side(None, [sys.executable, script, *options]))
    else:
        print("no PyTorch here (pip install torch): without it", file=sys.stderr)
    return peers


COLUMNS = "kernel shape dtype threads ours unit share peer peer_name ratio".split()


def measure(case, threads, ours, probes, peers, rounds):
    probe, mine, *theirs = medians([probes, ours, *peers], [case.probe] + [case.line] * (1 + len(peers)), rounds)
    rates = {peer.name: case.work / answer[0] / 1e9 for peer, answer in zip(peers, theirs) if answer}
    best = max(rates, key=rates.get, default=None)
    rate = case.work / mine[0] / 1e9
    row = {"kernel": case.kernel, "shape": case.shape, "dtype": case.dtype, "threads": threads, "ours": rate, "unit": case.unit}
    row["share"] = rate / (case.probe_work / probe[0] / 1e9) if probe else None
    row |= {"peer": rates.get(best), "peer_name": best, "ratio": rate / rates[best] if best else None, "peers": rates}
    return row


def ping(probes):
    ns = probes.round("pingpong ns")[0] * 1e9
    print(f"# a cache line to another core and back: {ns:.0f} ns", flush=True)
    return ns


def summary(rows):
    """Markdown: for each kind of kernel the least and the mean share, and against every peer the least ratio and the geometric mean."""
    lines = ["| kernel | dtype | threads | cases | share: least, mean | ratio to: least, geometric mean |", "|---|---|---|---|---|---|"]
    kinds = dict.fromkeys((row["kernel"], row["dtype"], row["threads"]) for row in rows)
    for kind in kinds:
        mine = [row for row in rows if (row["kernel"], row["dtype"], row["threads"]) == kind]
        shares = [row["share"] for row in mine if row["share"] is not None]
        ratios = {}
        for row in mine:
            for name, rate in row["peers"].items():
                ratios.setdefault(name, []).append(row["ours"] / rate)
        against = [f"{name} {min(r):.2f}, {geometric_mean(r):.2f}" for name, r in ratios.items()]
        share = f"{min(shares):.2f}, {sum(shares) / len(shares):.2f}" if shares else "-"
        lines.append("| " + " | ".join([*map(str, kind), str(len(mine)), share, "; ".join(against) or "-"]) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[min(2, os.cpu_count())], help="such as 1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.06, help="length of a round")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--out")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help='only cases that contain a match, such as "gemm.* f32"')
    args = parser.parse_intermixed_args()
    if args.quick:
        args.rounds, args.seconds = 1, 0.01
    cases = [case for case in all_cases() if not args.patterns or any(re.search(pattern, case.line) for pattern in args.patterns)]
    if not cases:
        sys.exit(f"no case matches {' or '.join(args.patterns)}")

    rows, pingpong = [], []
    print(*COLUMNS)
    for threads in args.threads:
        options = ["--threads", str(threads), "--seconds", str(args.seconds)]
        ours = Side("anneal", [os.path.join(args.folder, "bench_kernels"), *options])
        probes = Side("probes", [os.path.join(args.folder, "bench_probes"), *options])
        peers = start_peers(args.folder, options)
        pingpong.append(ping(probes))
        for case in cases:
            rows.append(measure(case, threads, ours, probes, peers, args.rounds))
            print(*cells(rows[-1], COLUMNS), flush=True)
        pingpong.append(ping(probes))
        for side in [ours, probes, *peers]:
            side.close()
    if out := args.out or (None if args.quick or args.patterns else results("kernels")):
        names = ", ".join(peer.name for peer in peers)
        write_json(out + ".json", rounds=args.rounds, peers=names, pingpong_ns=pingpong, rows=rows)
        trips = ", ".join(f"{trip:.0f}" for trip in pingpong)
        heading = f"{processor()}; beside {names}; a cache line to another core and back: {trips} ns"
        write_markdown(out + ".md", [heading, "", *summary(rows)], COLUMNS, rows)


if __name__ == "__main__":
    main()
