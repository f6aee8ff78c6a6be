"""A bare PyTorch loop with the sizes of `latent.py`, for the interpreter of an environment of its own.

Prints the least CPU milliseconds a pass over several bursts.
"""

import sys
import time

import numpy as np
import torch
from torch import nn


def main(path, bursts, passes):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.from_numpy(np.load(path))
    encoder = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 16))
    decoder = nn.Sequential(nn.Linear(8, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64))
    log_scale = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters(), log_scale], 1e-3, weight_decay=1e-2)

    def one_pass():
        for batch in torch.randperm(len(x)).split(128):
            data = x[batch]
            mean, log_deviation = encoder(data).chunk(2, dim=1)
            z = mean + log_deviation.exp() * torch.randn_like(mean)
            rate = 0.5 * (mean**2 + (2 * log_deviation).exp() - 1) - log_deviation
            error = (data - decoder(z)) * (-log_scale).exp()
            log_likelihood = -0.5 * error**2 - log_scale
            loss = rate.sum(1).mean() - log_likelihood.sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    one_pass()
    times = []
    for _ in range(bursts):
        start = time.process_time()
        for _ in range(passes):
            one_pass()
        times.append((time.process_time() - start) / passes)
    print(1e3 * min(times))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
