"""PyTorch's side of `scripts/bench kernels`: the cases and the protocol of bench/rounds.h.

Where PyTorch has more than one way to do a thing (layouts of images), the fastest counts.
"""

import argparse
import statistics
import sys
import time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}
REPETITIONS = 5


def gemm(form):
    def make(dtype, m, n, k):
        a = torch.randn(k, m, dtype=dtype).t() if form[0] == "t" else torch.randn(m, k, dtype=dtype)
        b = torch.randn(n, k, dtype=dtype).t() if form[1] == "t" else torch.randn(k, n, dtype=dtype)
        out = torch.empty(m, n, dtype=dtype)
        return [lambda: torch.mm(a, b, out=out)]
    return make


def conv(kernel):
    def make(dtype, n, c_in, h, w, c_out, window, stride, padding):
        def call(layout):
            x = torch.randn(n, c_in, h, w, dtype=dtype).to(memory_format=layout)
            weight = torch.randn(c_out, c_in, window, window, dtype=dtype).to(memory_format=layout)
            y = F.conv2d(x, weight, None, stride, padding)
            if kernel == "conv":
                return lambda: F.conv2d(x, weight, None, stride, padding)
            wanted = [kernel == "conv_input_grad", kernel == "conv_weight_grad", False]
            return lambda: torch.ops.aten.convolution_backward(
                y, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, wanted)
        return [call(torch.contiguous_format), call(torch.channels_last)]
    return make


def heads_of(dtype, batch, heads, length, depth):
    """Queries, keys and values as parts of one tensor."""
    qkv = torch.randn(batch, length, 3, heads, depth, dtype=dtype)
    return [part.transpose(1, 2).requires_grad_() for part in qkv.unbind(2)]


def attention(dtype, *sizes):
    q, k, v = heads_of(dtype, *sizes)
    return [lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)]


def attention_grad(dtype, *sizes):
    q, k, v = heads_of(dtype, *sizes)
    with torch.enable_grad():
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    dy = torch.randn_like(y)
    return [lambda: torch.autograd.grad(y, [q, k, v], dy, retain_graph=True)]


def layer_norm(dtype, rows, cols):
    x, weight, bias = torch.randn(rows, cols, dtype=dtype), torch.randn(cols, dtype=dtype), torch.randn(cols, dtype=dtype)
    return [lambda: F.layer_norm(x, (cols,), weight, bias)]


def layer_norm_grad(dtype, rows, cols):
    x, weight, bias = torch.randn(rows, cols, dtype=dtype), torch.randn(cols, dtype=dtype), torch.randn(cols, dtype=dtype)
    y, mean, rstd = torch.ops.aten.native_layer_norm(x, (cols,), weight, bias, 1e-5)
    return [lambda: torch.ops.aten.native_layer_norm_backward(y, x, (cols,), mean, rstd, weight, bias, [True, True, True])]


def gelu(dtype, rows, cols):
    x = torch.randn(rows, cols, dtype=dtype)
    return [lambda: F.gelu(x, approximate="tanh")]


def gelu_grad(dtype, rows, cols):
    x, dy = torch.randn(rows, cols, dtype=dtype), torch.randn(rows, cols, dtype=dtype)
    return [lambda: torch.ops.aten.gelu_backward(dy, x, approximate="tanh")]


def cross_entropy_and_grad(dtype, rows, cols):
    logits = torch.randn(rows, cols, dtype=dtype, requires_grad=True)
    classes = torch.randint(cols, (rows,))

    def call():
        logits.grad = None
        with torch.enable_grad():
            F.cross_entropy(logits, classes).backward()
    return [call]


def adamw(dtype, n):
    def call(**how):
        weight = torch.randn(n, dtype=dtype, requires_grad=True)
        weight.grad = torch.randn(n, dtype=dtype)
        return torch.optim.AdamW([weight], **how).step
    return [call(fused=True), call(foreach=True)]


MAKERS = {"attention": attention, "attention_grad": attention_grad, "layer_norm": layer_norm, "layer_norm_grad": layer_norm_grad, "gelu": gelu, "gelu_grad": gelu_grad,
          "cross_entropy_and_grad": cross_entropy_and_grad, "adamw": adamw}
MAKERS |= {f"gemm_{form}": gemm(form) for form in ("nn", "nt", "tn", "tt")}
MAKERS |= {kernel: conv(kernel) for kernel in ("conv", "conv_input_grad", "conv_weight_grad")}


def seconds_of(call, iterations=1):
    start = time.perf_counter()
    for _ in range(iterations):
        call()
    return (time.perf_counter() - start) / iterations


def fastest(calls):
    """The fastest call and how long it takes."""
    def least(call):
        call()
        return min(seconds_of(call) for _ in range(3))
    times = [least(call) for call in calls]
    return calls[times.index(min(times))], min(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    print("PyTorch", torch.__version__.split("+")[0], flush=True)
    current, call, iterations = None, None, 0
    for line in sys.stdin:
        kernel, dtype, *sizes = line.split()
        if kernel not in MAKERS:
            print("-", flush=True)
            continue
        if line != current:
            call = None  # its memory is free before the next is made
            torch.manual_seed(0)
            call, once = fastest(MAKERS[kernel](DTYPES[dtype], *map(int, sizes)))
            current, iterations = line, max(1, int(args.seconds / REPETITIONS / once))
        print(statistics.median(seconds_of(call, iterations) for _ in range(REPETITIONS)), flush=True)


if __name__ == "__main__":
    main()
