"""AutoSlim: one network at many widths, slimmed greedily to any budget."""

from secateur.methods.autoslim.front import Candidate as Candidate
from secateur.methods.autoslim.front import Configuration as Configuration
from secateur.methods.autoslim.front import Front as Front
from secateur.methods.autoslim.greedy import estimate as estimate
from secateur.methods.autoslim.greedy import greedy_slimming as greedy_slimming
from secateur.methods.autoslim.method import AutoSlim as AutoSlim
from secateur.methods.autoslim.searching import Speed as Speed

__all__ = ["AutoSlim", "Candidate", "Configuration", "Front", "Speed", "estimate", "greedy_slimming"]
