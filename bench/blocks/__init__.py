"""The parts that variants are built from: backbones, the Gaussian VAE, quantisers, autoregressive priors, kernels."""

from bench.blocks.autoencoder import Autoencoder
from bench.blocks.backbone import BACKBONES, Backbone
from bench.blocks.conv import Conv, ConvDecoder, ConvEncoder, Down, Up
from bench.blocks.gaussian import GaussianVAE, gaussian_kl
from bench.blocks.kernels import imq, mmd2
from bench.blocks.mlp import MLP, MLPDecoder, MLPEncoder, mlp
from bench.blocks.quantizer import EMAQuantizer
from bench.blocks.transformer import CausalTransformer

__all__ = [
    "BACKBONES",
    "MLP",
    "Autoencoder",
    "Backbone",
    "CausalTransformer",
    "Conv",
    "ConvDecoder",
    "ConvEncoder",
    "Down",
    "EMAQuantizer",
    "GaussianVAE",
    "MLPDecoder",
    "MLPEncoder",
    "Up",
    "gaussian_kl",
    "imq",
    "mlp",
    "mmd2",
]
