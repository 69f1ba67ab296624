"""`unibert` with a fault, $FAULT being one of

nan SAMPLE        the masked-LM loss of whichever micro-batch holds this sample of the stream is NaN
data RANK STEP    this rank's data cannot be read at this step
stall RANK STEP   this rank sleeps for ever at this step
die RANK STEP     this rank is gone at this step, without a word
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from unibert import cli, trainer
from unibert.data.batches import Stream
from unibert.errors import DataError
from unibert.objectives.masked_lm import MaskedLM

KIND, *NUMBERS = os.environ["FAULT"].split()
WHERE = tuple(map(int, NUMBERS))
healthy_term, healthy_step, healthy_training = MaskedLM.term, Stream.step, trainer.Trainer.train_step


def term(self, at):
    found = healthy_term(self, at)
    poisoned = KIND == "nan" and WHERE[0] in at.batch.sample_ids.tolist()
    return replace(found, total=found.total * float("nan")) if poisoned else found


def read(self, step):
    if KIND == "data" and (self.rank, step + 1) == WHERE:
        raise DataError("the shard of this test is gone")
    return healthy_step(self, step)


def train_step(self, step, micros):
    if (self.run.ranks.rank, step) == WHERE:
        if KIND == "stall":
            fall_asleep()
        if KIND == "die":
            os._exit(9)
    return healthy_training(self, step, micros)


def fall_asleep():
    time.sleep(10_000)


if __name__ == "__main__":
    MaskedLM.term, Stream.step, trainer.Trainer.train_step = term, read, train_step
    cli.main()
