"""What a model costs, or a plan not yet applied: budgets, allocation, profiles."""

from secateur.cost.allocate import MinimumWarning as MinimumWarning
from secateur.cost.allocate import Scope as Scope
from secateur.cost.allocate import allocate as allocate
from secateur.cost.budget import Budget as Budget
from secateur.cost.budget import parse_amount as parse_amount
from secateur.cost.keeping import kept_units as kept_units
from secateur.cost.latency_table import LatencyModel as LatencyModel
from secateur.cost.latency_table import LatencyTable as LatencyTable
from secateur.cost.latency_table import NetworkTime as NetworkTime
from secateur.cost.latency_table import OperatorTimes as OperatorTimes
from secateur.cost.latency_table import read_latency_table as read_latency_table
from secateur.cost.latency_table import write_latency_table as write_latency_table
from secateur.cost.milliseconds import Milliseconds as Milliseconds
from secateur.cost.profile import ModuleCost as ModuleCost
from secateur.cost.profile import Profile as Profile
from secateur.cost.profile import profile as profile
from secateur.cost.profile import profile_graph as profile_graph
from secateur.cost.size import dropped_header_bytes as dropped_header_bytes
from secateur.cost.size import size_bytes as size_bytes

__all__ = [
    "Budget",
    "LatencyModel",
    "LatencyTable",
    "Milliseconds",
    "MinimumWarning",
    "ModuleCost",
    "NetworkTime",
    "OperatorTimes",
    "Profile",
    "Scope",
    "allocate",
    "dropped_header_bytes",
    "kept_units",
    "parse_amount",
    "profile",
    "profile_graph",
    "read_latency_table",
    "size_bytes",
    "write_latency_table",
]
