"""What methods say of a budget: that there has to be one, or that it leaves nothing to cut."""

from secateur.cost import Budget
from secateur.errors import BudgetError


def nothing_to_cut(budget: Budget | None) -> str:
    """Say why a plan is empty."""
    if budget is None:
        return "the method's settings leave every unit where it is: there is nothing to cut; give larger ratios"
    return f"the model already holds {budget.describe()}: there is nothing to cut"


def require_budget(method: str, budget: Budget | None) -> Budget:
    """Return the budget that a method cannot do without.

    Raises:
        BudgetError: there is none.
    """
    if budget is None:
        raise BudgetError(f"the method {method} needs a budget, such as macs: 0.5 (--macs 0.5), and there is none")
    return budget
