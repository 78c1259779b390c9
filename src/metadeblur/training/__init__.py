"""Training: the loop, deblurrers, the reblurrer, meta-training."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    checkpoint="saved_state write_checkpoint",
    deblur="DeblurTrainee train_deblur",
    loop="Trainee follow rate run",
    meta="MetaTrainee train_meta",
    outer="MetaLearner Query query_set",
    reblur="ReblurTrainee train_reblur",
    settings="DeblurTraining LoopSettings MetaTraining OuterUpdate ReblurTraining",
    workers="TrainingProcess join",
)
