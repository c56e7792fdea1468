"""Models of torch with steps of their own, which share nothing with Keras' but the optimizer."""

import keras
import torch

L = keras.layers


class OwnLoss(keras.Model):
    """A step with a loss of its own, a penalty on the weights, and noise that both draw alike."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)
        self.seeds = keras.random.SeedGenerator(5)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data[:2]
        x = x + 0.1 * keras.random.normal(tuple(x.shape), seed=self.seeds)
        loss = ((self(x) - y) ** 2).amax(0).sum() + (self.dense.kernel.value**2).sum()
        self.zero_grad()
        loss.backward()
        weights = self.trainable_weights
        with torch.no_grad():
            self.optimizer.apply([w.value.grad for w in weights], weights)
        return {"loss": loss.detach()}


class Untracked(OwnLoss):
    """A step whose optimizer is none of Keras'."""

    def train_step(self, data):
        self.zero_grad()
        loss = self(data[0]).sum()
        loss.backward()
        torch.optim.SGD(self.parameters(), 0.1).step()
        return {"loss": loss.detach()}


class Adversaries(keras.Model):
    """Two models, one called on what the other made, with an optimizer for each."""

    def __init__(self):
        super().__init__()
        self.maker = keras.Sequential([keras.Input((6,)), L.Dense(3, "tanh")])
        self.judge = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"), L.Dense(1)])

    def compile(self, optimizer, **kwargs):
        super().compile(optimizer=optimizer, **kwargs)
        self.second = keras.optimizers.SGD(0.05)

    def call(self, x):
        return self.judge(self.maker(x))

    def train_step(self, data):
        x, y = data[:2]
        logits = {}
        for part, optimizer in ((self.judge, self.optimizer), (self.maker, self.second)):
            both = self.judge(torch.cat([self.maker(x), y]))
            sign = 1 if part is self.judge else -1
            loss = sign * (torch.tanh(both[: len(x)]).mean() - torch.tanh(both[len(x) :]).mean())
            self.zero_grad()
            loss.backward()
            weights = part.trainable_weights
            with torch.no_grad():
                optimizer.apply([w.value.grad for w in weights], weights)
            logits[part.name] = loss.detach()
        return {"loss": sum(logits.values()), "judge": logits[self.judge.name]}


def by_hand(start, x, y, index):
    """Returns what DistributedDataParallel makes of a network in two epochs of batches of 16.

    Args:
        start: The kernels and biases to begin with, of two layers.
        x: The inputs.
        y: The targets.
        index: Which of two processes this is.
    """
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    with torch.no_grad():
        for own, value in zip(net.parameters(), start, strict=True):
            own.copy_(torch.tensor(value.T))
    net = torch.nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        for place in range(0, len(x), 16):
            part = slice(place + 8 * index, place + 8 * index + 8)
            optimizer.zero_grad()
            error = net(torch.tensor(x[part])) - torch.tensor(y[part])
            (error**2).mean().backward()
            optimizer.step()
    return [own.detach().numpy().T for own in net.parameters()]
