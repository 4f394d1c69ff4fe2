"""AutoSlim: one network at many widths, slimmed greedily to any budget."""

from secateur.methods.autoslim.front import Candidate as Candidate
from secateur.methods.autoslim.front import Configuration as Configuration
from secateur.methods.autoslim.front import Front as Front
from secateur.methods.autoslim.greedy import greedy_slimming as greedy_slimming
from secateur.methods.autoslim.searching import Speed as Speed

__all__ = ["Candidate", "Configuration", "Front", "Speed", "greedy_slimming"]
