"""Models and data of a user that are odd, broken or greedy: tests copy this file and name its functions."""

import collections
import dataclasses
import os
import pathlib
import resource
import sys
import time

import torch
from torch import nn


def net(num_classes=3, channels=1):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


class Net(nn.Module):
    """A network that takes or returns something of its own."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return self.inner(x)


class TwoInputs(Net):
    def forward(self, image, mask):
        return self.inner(image) * mask


class KeywordInput(Net):
    def forward(self, *, pixel_values):
        return self.inner(pixel_values)


class DictInput(Net):
    def forward(self, batch):
        return self.inner(dict(batch)["image"])


class ListInput(Net):
    def forward(self, batch):
        if not isinstance(batch, list):
            raise TypeError("give a list of images")
        return self.inner(batch[0])


class Exits(Net):
    def forward(self, x):
        sys.exit(3)


def signals():
    return nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))


def videos():
    return nn.Sequential(nn.Conv3d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3))


def colour():
    return net(channels=3)


def large():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 3))


def deep():
    return nn.Sequential(*(nn.Conv2d(1 if n == 0 else 8, 8, 3) for n in range(5)), nn.Flatten(), nn.Linear(8, 3))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.embedding(x).mean(1))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: object = None


class Returns(Net):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        logits = self.inner(x)
        return self.make(logits, x)


def a_dict():
    return Returns(lambda logits, x: {"aux": x, "out": logits})


def a_tuple():
    return Returns(lambda logits, x: (x, logits))


def a_list():
    return Returns(lambda logits, x: [logits])


def a_dataclass():
    return Returns(lambda logits, x: Output(logits))


class ModelOutput(collections.OrderedDict):
    pass


def an_output_object():
    return Returns(lambda logits, x: ModelOutput(logits=logits))


def nothing():
    return Returns(lambda logits, x: None)


def maps():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def dict_of_maps():
    return Returns(lambda logits, x: {"out": x, "aux": x})


def one_number():
    return Returns(lambda logits, x: logits[:, 0])


def transposed():
    return Returns(lambda logits, x: logits.t())


def two_classes():
    return net(2)


def seven_classes():
    return net(7)


class Heads(Net):
    def __init__(self, make):
        super().__init__()
        self.aux, self.make = nn.Linear(8, 3), make

    def forward(self, x):
        features = self.inner[:-1](x)
        logits = self.inner[-1](features)
        return self.make(logits, self.aux(features)) if self.training else logits


def auxiliary_tuple():
    return Heads(lambda logits, aux: (logits, aux, None))


def auxiliary_dict():
    return Heads(lambda logits, aux: {"out": logits, "aux": aux})


def nan():
    return Returns(lambda logits, x: (logits - logits) / (logits - logits))


def infinite():
    return Returns(lambda logits, x: logits.abs() / 0)


class NanInTraining(Net):
    def forward(self, x):
        return self.inner(x) * (float("nan") if self.training else 1)


class TrainingFails(Net):
    def forward(self, x):
        if self.training:
            raise ValueError("targets should not be None")
        return self.inner(x)


class NoLayers(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] * 1


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(torch.fft.fft(self.conv(x), dim=1).real.mean((2, 3)))


def number():
    return 3


def a_class():
    return nn.Linear


def raising():
    raise KeyError("depth")


def exiting():
    sys.exit("no licence")


def printing():
    print("building")
    return Prints()


class Prints(Net):
    def forward(self, x):
        print("running")
        return self.inner(x)


def limited(megabytes):
    """Leave so much memory to this process from now on."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


class Hungry(nn.Module):
    """Takes a lot of memory: 9 MB for each sample, or as much for each that it is trained on."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def forward(self, x):
        if self.when == "run":
            return x + 0 * x.repeat(1, 1, 60, 60).mean((2, 3), keepdim=True)
        if self.training and torch.is_grad_enabled():
            for _ in range(10):
                x = torch.sigmoid(x.repeat(1, 1, 15, 15)).mean((2, 3), keepdim=True) + x
        return x


def hungry_to_train():
    limited(500)
    return nn.Sequential(*net()[:2], Hungry("train"), *net()[2:])


def hungry_to_run():
    if "SECATEUR_TEST_MEGABYTES" in os.environ:
        limited(int(os.environ["SECATEUR_TEST_MEGABYTES"]))
    return nn.Sequential(*net()[:2], Hungry("run"), *net()[2:])


class Slow(Net):
    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            time.sleep(0.05)
        return self.inner(x)


def samples(count):
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 9, 9, generator=torch.Generator().manual_seed(count))
    return images + labels[:, None, None, None] * torch.eye(9), labels


def data():
    return {"train": samples(120), "test": samples(60)}


def too_much_data():
    import numpy as np

    return {"train": (np.ones((2**30, 2**20)), [0])}
