"""``secateur prune``."""

from secateur.cli import choices, method_choices, show
from secateur.cli.compact_options import CompactOptions, compact
from secateur.cli.method_options import MethodOptions
from secateur.cli.options import (
    BudgetOptions,
    CommonOptions,
    ControlOptions,
    DataOptions,
    ModelOptions,
    RestoreOptions,
    RunOptions,
    SearchOptions,
    TrainingOptions,
    spread,
)


@spread
def prune(
    model: ModelOptions,
    data: DataOptions,
    budget: BudgetOptions,
    search: SearchOptions,
    method: MethodOptions,
    restoring: RestoreOptions,
    training: TrainingOptions,
    control: ControlOptions,
    compact_file: CompactOptions,
    run: RunOptions,
    common: CommonOptions,
) -> None:
    """Cut a trained network to a budget, fine-tune it, prove the cut, and write the smaller model.

    Give at least one budget, or --max-drop; how much each layer loses is found from it. The folder of the run gets the
    model file, an ONNX file, the plan, a report and checkpoints: the same command continues a run that was stopped.

    Example: `secateur prune --model resnet56-b --weights resnet56.safetensors --data parquet:cifar10 --macs 0.5
    --epochs 2 --out runs/r56`
    """
    from secateur import recipe

    job = recipe.Recipe(
        model=choices.model_choice(model),
        data=choices.data_choice(data),
        budget=choices.budget(budget, method, search),
        latency_table=budget.latency_table,
        max_drop=choices.max_drop(search),
        method=method_choices.method(method, seed=common.seed, training=training, restoring=restoring),
        train_epochs=training.train_epochs,
        train=recipe.dense_training(training.train_lr, training.batch_size),
        control=control.control,
        compact=compact(compact_file),
        seed=common.seed,
        machine=choices.machine(common, workers=data.workers),
    )
    result = recipe.compress(
        job, run.out, force=run.force, command=show.words(), progress=show.progress(quiet=common.quiet)
    )
    show.show_result(result, as_json=common.as_json)
