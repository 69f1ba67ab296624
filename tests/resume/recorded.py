"""`unibert`, and a line in $RECORD/attempt_<n>_rank_<r>.jsonl for each step that it trains: samples and numbers."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from unibert import cli, trainer

trained = trainer.Trainer.train_step


def train_and_record(self, step, micros):
    values = trained(self, step, micros)
    rank = self.run.ranks.rank
    line = {
        "step": step,
        "world": self.run.ranks.world,
        "resumed_from": self.run.resumed_from and self.run.resumed_from.name,
        "samples": [batch.sample_ids.tolist() for batch in micros],
        "values": {tag: value for tag, value in values.items() if tag.startswith(("loss/", "optim/"))},
    }
    with open(f"{os.environ['RECORD']}_rank_{rank}.jsonl", "a") as out:
        out.write(json.dumps(line) + "\n")
    return values


if __name__ == "__main__":
    Path(f"{os.environ['RECORD']}_rank_{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    trainer.Trainer.train_step = train_and_record
    cli.main()
