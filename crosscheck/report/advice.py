"""Says how to record what a report calls not recorded, or not tested."""

from collections.abc import Mapping

from crosscheck.report import check_names

RECORD: Mapping[str, str] = {
    check_names.OPTIMIZER: "attach the recorder before the first step, and let it see steps that move something",
    check_names.CLIPPING: (
        "call recorder.after_backward() after the last backward of a step, and give the recorder clip_norm or clip_value"
    ),
    check_names.AVERAGE: "give the recorder the averaged model: Recorder(..., model=model, average=averaged)",
    check_names.LEARNING_RATE: "give the recorder the scheduler: Recorder(..., scheduler=scheduler)",
    check_names.LOSS_SCALE: "give the recorder the loss scaler: Recorder(..., scaler=scaler)",
    check_names.OPTIONS: "claim the options of each tensor: Recorder(..., claims=Claims(options={...}))",
    check_names.GRADIENT: "record the batch of some steps, which the trainer does: --crosscheck.gradient_steps [1]",
    check_names.CONTINUITY: "record two steps in a row",
    check_names.REPLICAS: "record on every rank into one folder",
}
"""By check: what a loop has to do so that it is on record."""
TEST = "record more: steps at a larger rate, more steps (steps='all'), or more elements (budget='full')"
"""What lets a record tell a hyperparameter that it did not."""
