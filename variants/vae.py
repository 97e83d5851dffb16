"""The variational autoencoder. Kingma & Welling 2014, https://arxiv.org/abs/1312.6114."""

from __future__ import annotations

from bench.blocks import GaussianVAE


class VAE(GaussianVAE):
    """The vanilla VAE: -ELBO on a 784-400-20-400-784 perceptron with ReLU and Bernoulli pixels."""
