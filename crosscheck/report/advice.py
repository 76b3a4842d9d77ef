"""Says how to record what a report calls not recorded, or not tested."""

from collections.abc import Mapping

RECORD: Mapping[str, str] = {
    "optimizer": "attach the recorder before the first step, and let it see steps that move something",
    "clipping": "call recorder.after_backward() after the last backward of a step, and give the recorder clip_norm or clip_value",
    "average": "give the recorder the averaged model: Recorder(..., model=model, average=averaged)",
    "learning rate": "give the recorder the scheduler: Recorder(..., scheduler=scheduler)",
    "loss scale": "give the recorder the loss scaler: Recorder(..., scaler=scaler)",
    "options": "claim the options of each tensor: Recorder(..., claims=Claims(options={...}))",
    "gradient": "record the batch of some steps, which the trainer does: --crosscheck.gradient_steps [1]",
    "continuity": "record two steps in a row",
    "replicas": "record on every rank into one folder",
}
"""By check: what a loop has to do so that it is on record."""
TEST = "record more: steps at a larger rate, more steps (steps='all'), or more elements (budget='full')"
"""What lets a record tell a hyperparameter that it did not."""
