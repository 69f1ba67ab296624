"""`unibert slurm`: print, check and submit the jobs of a recipe, and ask after them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from unibert.config import load_recipe
from unibert.schema import Recipe
from unibert.slurm.options import Options


@dataclass(frozen=True)
class Slurm(Options):
    """Print the script that trains a RECIPE through SLURM, checked by sbatch, and submit it when told to.

    Or ask after a run's jobs: status, tail, stop (save and leave) or cancel RECIPE; or serve its TensorBoard. Call it
    from the checkout: the script is launch_slurm/train.sbatch with its #SBATCH lines filled in.
    """

    def run(self, overrides: Sequence[str]) -> None:
        action, recipe = self.action, load_recipe(self.recipe, overrides)
        from unibert.slurm import watch

        if action == "status":
            watch.status(recipe)
        elif action == "tail":
            watch.tail(recipe, rank=self.rank, lines=self.lines, follow=self.follow)
        elif action == "stop":
            watch.stop(recipe)
        elif action == "cancel":
            watch.cancel(recipe)
        else:
            self._jobs(recipe, overrides)

    def _jobs(self, recipe: Recipe, overrides: Sequence[str]) -> None:
        from unibert.slurm import stages, submit

        self.check()
        names = ["tensorboard"] if self.action == "tensorboard" else stages.stages_of(self)
        if "train" in names:
            submit.say(self._planned(recipe, prepared="data" in names))
        ready = [stages.job_of(name, recipe=recipe, options=self, overrides=overrides) for name in names]
        if not self.submit:
            submit.show(ready)
            submit.say("not submitted: the same command with --submit does")
            return
        submit.submit(ready, recipe=recipe, after=self.after)
        submit.say(f"{shlex.join(['unibert', 'slurm', 'status', self.recipe, *overrides])} says how it goes")

    def _planned(self, recipe: Recipe, *, prepared: bool) -> str:
        """A word about the batch, after refusing whatever `unibert plan` would refuse."""
        from unibert.plan import make_plan
        from unibert.runtime import dsconfig

        tree = dsconfig.load(recipe.engines.student, owned=dsconfig.owned_by_recipe(recipe, world=self.world))
        plan = make_plan(recipe, world=self.world, student_engine=tree)
        said = (
            f"{self.nodes} node(s) x {self.ranks_per_node} = {plan.world} rank(s); a batch of {plan.global_batch} is "
            f"{plan.micro} x {plan.world} x {plan.accumulation}"
        )
        if not plan.languages and not prepared:
            said += f"\nnote: {recipe.data.folder} has no shards yet: prepare them, or put data into --stages"
        return said
