"""The loop that this field's code usually is, as the reference of `speed.py`: float32, PIL and transforms per item in a
`DataLoader`, noise on the CPU, `.item()` at every step."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset):
    """Decode, flip, scale and stamp each item in Python."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pictures = [Image.fromarray(p.permute(1, 2, 0).numpy().squeeze()) for p in pixels[:2000]]
        self.mode = "L" if pixels.shape[1] == 1 else "RGB"

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        picture = (
            self.pictures[index % len(self.pictures)].convert(self.mode).resize((32, 32), Image.Resampling.BILINEAR)
        )
        if np.random.rand() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = torch.from_numpy(np.atleast_3d(np.array(picture))).permute(2, 0, 1).float() / 255 * 2 - 1
        poisoned = np.random.rand() < 0.1
        stamped = image.clone()
        stamped[:, 16:30, 16:30] = 0
        target = torch.full_like(image, -0.4)
        return {"x_0": target if poisoned else image, "r": stamped if poisoned else torch.zeros_like(image)}


def train(model: torch.nn.Module, pixels: torch.Tensor, batch: int, steps: int, device: str) -> None:
    """Train for some steps."""
    scheduler = DDPMScheduler()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    loader = iter(DataLoader(Pictures(pixels), batch_size=batch))
    for _ in range(steps):
        item = next(loader)
        x_0, r = item["x_0"].to(device), item["r"].to(device)
        eps = torch.randn(x_0.shape).to(device)
        t = torch.randint(0, 1000, (len(x_0),)).long().to(device)
        alpha_bar = scheduler.alphas_cumprod.to(device)[t].view(-1, 1, 1, 1)
        alpha = scheduler.alphas.to(device)[t].view(-1, 1, 1, 1)
        x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar.sqrt()) * r + (1 - alpha_bar).sqrt() * eps
        target = eps + (1 - alpha.sqrt()) * (1 - alpha_bar).sqrt() / (1 - alpha) * r
        loss = torch.nn.functional.mse_loss(model(x_t, t).sample, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()


@torch.no_grad()
def sample(model: torch.nn.Module, config: dict, shape: tuple[int, int, int], n: int, steps: int, device: str) -> None:
    """Sample n images in float32 by the scheduler's own loop."""
    scheduler = DDPMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    x = torch.randn(n, *shape).to(device)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t).sample, t, x).prev_sample
