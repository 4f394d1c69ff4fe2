"""ThiNet: filters chosen by what the next layer gives, layer by layer."""

from secateur.methods.thinet.method import ThiNet as ThiNet

__all__ = ["ThiNet"]
