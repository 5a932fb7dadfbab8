"""Lightning's side of `scripts/bench trainer`: the protocol of bench/trainer.cpp, the models of torch_step.py.

Each line on standard input is a case and a loop, "default" (its default callbacks and logger, no progress bar) or "barebones"; the
microseconds of a step go out, from the start of the first batch of an epoch to the end of its last.
"""

import argparse
import logging
import sys
import tempfile
import time
import warnings

import lightning
import torch
import torch.nn.functional as F
from torch_step import CASES


class Model(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch):
        x, y = batch
        loss = F.cross_entropy(self.net(x).flatten(0, -2), y.flatten())
        if not self.trainer.barebones:
            self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 0:
            self.start = time.perf_counter()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.is_last_batch:
            self.end = time.perf_counter()


def run(case, loop, steps, folder):
    torch.manual_seed(0)
    net, x, y = CASES[case]("cpu")
    data = torch.utils.data.TensorDataset(x.repeat(steps, *[1] * (x.dim() - 1)), y.repeat(steps, *[1] * (y.dim() - 1)))
    loader = torch.utils.data.DataLoader(data, batch_size=len(x))
    options = {"barebones": True} if loop == "barebones" else {"enable_progress_bar": False, "default_root_dir": folder}
    model = Model(net)
    lightning.Trainer(max_epochs=1, accelerator="cpu", devices=1, **options).fit(model, loader)
    return (model.end - model.start) / steps


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    answers, sys.stdout = sys.stdout, sys.stderr  # Lightning prints
    print("Lightning", lightning.__version__, "on PyTorch", torch.__version__.split("+")[0], file=answers, flush=True)
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            case, loop = line.split()
            if case not in steps:
                steps[case] = max(20, int(args.seconds / run(case, loop, 20, folder)))
            print(run(case, loop, steps[case], folder) * 1e6, file=answers, flush=True)


if __name__ == "__main__":
    main()
