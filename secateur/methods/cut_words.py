"""What methods say of how much is cut: what one cut takes, that nothing is left to cut, that a budget is missing."""

from secateur.cost import Budget
from secateur.errors import BudgetError
from secateur.graph import Plan
from secateur.wording import counted


def what_goes(step: Plan) -> str:
    """Say what one cut takes: ``3 groups lose units, 1 block dropped whole``."""
    parts = (
        (len(step.kept), "group loses units", "groups lose units"),
        (len(step.selected), "selection loses channels", "selections lose channels"),
        (len(step.drops), "block dropped whole", "blocks dropped whole"),
    )
    return ", ".join(counted(*part) for part in parts if part[0]) or "nothing goes"


def nothing_to_cut(budget: Budget | None) -> str:
    """Say why a plan is empty."""
    if budget is None:
        return "the method's settings leave every unit where it is: there is nothing to cut; let more go"
    return f"the model already holds {budget.describe()}: there is nothing to cut"


def require_budget(method: str, budget: Budget | None) -> Budget:
    """Return the budget that a method cannot do without.

    Raises:
        BudgetError: there is none.
    """
    if budget is None:
        raise BudgetError(f"the method {method} needs a budget, such as macs: 0.5 (--macs 0.5), and there is none")
    return budget
