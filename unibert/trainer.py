"""The training loop.

    for each step: count the targets over all ranks; for each micro-batch: one student forward, one teacher
    forward, then each player goes back alone; step, log, evaluate, save, stop when due

The order of samples, the masks and every divisor depend on the step alone, so a run is the same whatever
the world size and micro-batch, and goes on after a checkpoint as if nothing had happened.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unibert.assembly import Run, assemble
from unibert.config import Recipe
from unibert.data.batches import Batch
from unibert.errors import Stopped
from unibert.export import export_run
from unibert.objectives import MicroStep, Objective, Term
from unibert.observe import flops
from unibert.observe.logger import RunLogger
from unibert.observe.meter import Meter
from unibert.runtime import checkpoint, dist, schedules
from unibert.runtime.players import Player
from unibert.runtime.stop import StopFlag

log = logging.getLogger(__name__)


def train(recipe: Recipe, *, resume: str = "auto") -> Path:
    """Train a recipe to its last step and return the run folder.

    Raises:
        Stopped: a signal or the STOP file asked to leave; everything is saved.
        UnibertError: what the command line turns into an exit code.
    """
    ranks = dist.start(threads=recipe.train.threads_per_rank)
    try:
        run = assemble(recipe, ranks=ranks, resume=resume)
        known = flops.peak_flops(run.device) is not None
        with RunLogger(
            run.folder, recipe=recipe, rank=ranks.rank, first_step=run.state.step, device_peak_known=known
        ) as logger:
            Trainer(run, logger=logger).run_to_end()
    finally:
        dist.stop()
    return recipe.run_folder


class Trainer:
    """One run's loop and what it remembers between steps."""

    def __init__(self, run: Run, *, logger: RunLogger) -> None:
        from unibert.evaluate.watch import HeldoutWatch

        self.run = run
        self.recipe = run.recipe
        self.logger = logger
        self.steps = run.recipe.train.steps
        self.meter = Meter(
            languages=run.recipe.languages,
            device=run.device,
            tokens=run.state.tokens,
            samples=run.state.samples,
            flops_per_token=_flops_per_token(run),
            peak_flops=flops.peak_flops(run.device),
        )
        self.watch = HeldoutWatch(run.recipe, shards=run.shards, device=run.device)
        self.stop = StopFlag(run.folder / "STOP")
        self.saved_step = run.state.step

    def run_to_end(self) -> None:
        """Steps until the last one, or until somebody asks to stop."""
        run = self.run
        if run.resumed_from is not None:
            self.logger.say(f"going on from {run.resumed_from}")
        micro_batches = run.stream.steps(run.state.step)
        try:
            for step in range(run.state.step + 1, self.steps + 1):
                self.meter.start()
                with self.meter.waiting():
                    micros = next(micro_batches)
                values = self.train_step(step, micros)
                if step % self.recipe.log.evaluate_every_steps == 0 or step == self.steps:
                    values |= self.evaluate()
                self.logger.log(step, values)
                stopping = self.agree(self.stop.wanted())
                if step % self.recipe.save.every_steps == 0 or step == self.steps or stopping:
                    self.save()
                if stopping and step < self.steps:
                    raise Stopped(f"stopped by {self.stop.reason or 'another rank'} after step {step}; all is saved")
        finally:
            self.stop.restore()
            micro_batches.close()

    def train_step(self, step: int, micros: list[Batch]) -> dict[str, float]:
        """One optimizer step of the student: every micro-batch, every player."""
        run = self.run
        run.players["student"].set_rate(self.rate(step))
        weights = {o.name: schedules.weight(o.weight, step=step, steps=self.steps) for o in run.objectives}
        counts, documents_by_language = self.count(micros)
        for index, batch in enumerate(micros):
            at = self.forward(batch.to(run.device))
            for player in run.players:
                first = index // player.window * player.window
                divisors = counts[first : first + player.window].sum(dim=0).clamp(min=1.0).tolist()
                with run.players.alone(player):
                    player.backward(self.loss(player, at, weights=weights, divisors=divisors))
                    player.move_if_due()
        return self.summarise(step, weights=weights, documents_by_language=documents_by_language)

    def rate(self, step: int) -> float:
        """The student's learning rate of a step."""
        return schedules.learning_rate(step, steps=self.steps, optimizer=self.recipe.optimizer)

    def count(self, micros: list[Batch]) -> tuple[Tensor, Tensor]:
        """Targets [A, O] of each micro-batch and objective, and documents [L] of each language, over all ranks."""
        own = torch.tensor([[o.count(batch) for o in self.run.objectives] for batch in micros], dtype=torch.float64)
        language = torch.cat([batch.language for batch in micros])
        documents = torch.bincount(language, minlength=len(self.recipe.languages)).double()
        both = torch.cat([own.flatten(), documents]).to(self.run.device)
        if self.run.ranks.world > 1:
            torch.distributed.all_reduce(both)
        both = both.cpu()
        return both[: own.numel()].view_as(own), both[own.numel() :]

    def forward(self, batch: Batch) -> MicroStep:
        """Student and teacher compute what the objectives need, once."""
        run, needs = self.run, self.run.needs
        teacher = None
        if run.teacher is not None:
            with self.meter.teaching():
                teacher = run.teacher.forward(batch, masked_logits="masked_logits" in needs.teacher)
        targets = batch.target_positions if "masked_logits" in needs.student else None
        student = run.players["student"].engine(batch.input_ids, batch.position_ids, batch.attention_mask(), targets)
        feature = self.recipe.discriminator.feature if self.recipe.discriminator else "cls"
        self.meter.count(tokens=batch.tokens, places=batch.input_ids.numel(), samples=batch.documents)
        return MicroStep(batch, student, teacher, feature)

    def loss(self, player: Player, at: MicroStep, *, weights: dict[str, float], divisors: list[float]) -> Tensor:
        """This rank's part of the player's weighted mean over its window."""
        if self.recipe.discriminator is not None:
            guesser = self.run.players["discriminator"]
            # The guesser answers as an engine when it learns itself, as a plain function when another one does.
            at.discriminate = guesser.engine if player is guesser else guesser.module
        loss = torch.zeros((), device=self.run.device)
        for number, objective in enumerate(self.run.objectives):
            if objective.player == player.name:
                term = objective.term(at)
                self.measure(objective, term, at.batch)
                loss = loss + weights[objective.name] / divisors[number] * term.total
        return loss

    def measure(self, objective: Objective, term: Term, batch: Batch) -> None:
        """Add what a term shows to the step's sums."""
        by_language = None
        if term.per_target is not None:
            by_language = sum_by_language(term.per_target, batch, languages=len(self.recipe.languages))
        self.meter.add(f"loss/{objective.name}", term.total, objective.count(batch), by_language=by_language)
        for tag, (total, count) in term.observed.items():
            self.meter.add(tag, total, count)

    def summarise(self, step: int, *, weights: dict[str, float], documents_by_language: Tensor) -> dict[str, float]:
        """The step's tags.

        Raises:
            NumericsError: a loss or a gradient is not finite; nothing of the step is saved.
        """
        run, note = self.run, self.meter.note
        note("optim/lr", self.rate(step))
        for name, weight in weights.items():
            note(f"schedule/weight/{name}", weight)
        for player in run.players:
            note(f"optim/grad_norm/{player.name}", player.grad_norm)
        if "discriminator" in run.players:
            note("adversary/chance", float(documents_by_language.max() / documents_by_language.sum()))
        reading = self.meter.reduce()
        reading.check_finite(step)
        values = reading.values
        own = [o.name for o in run.objectives if o.player == "student" and f"loss/{o.name}" in values]
        values["loss/total"] = sum(weights[name] * values[f"loss/{name}"] for name in own)
        run.state = replace(run.state, step=step, samples=self.meter.samples, tokens=self.meter.tokens)
        return values

    def evaluate(self) -> dict[str, float]:
        """The look at held-out text, by the student as it is."""
        engine, ranks = self.run.players["student"].engine, self.run.ranks
        engine.eval()
        found = self.watch.look(engine, rank=ranks.rank, world=ranks.world)
        if self.run.state.step == self.steps:
            embeddings_NH, languages, texts = self.watch.embeddings(engine)
            self.logger.projector(self.steps, embeddings_NH=embeddings_NH, languages=languages, texts=texts)
        engine.train()
        return found

    def agree(self, wanted: bool) -> bool:
        """Whether any rank wants it."""
        flag = torch.tensor([float(wanted)], device=self.run.device)
        if self.run.ranks.world > 1:
            torch.distributed.all_reduce(flag)
        return bool(flag.item())

    def save(self) -> None:
        """A checkpoint, and the Hugging Face folder beside it."""
        run = self.run
        self.logger.sync()
        path = checkpoint.save(
            run.checkpoints,
            players=run.players,
            state=run.state,
            rank=run.ranks.rank,
            keep_last=self.recipe.save.keep_last,
        )
        if self.recipe.save.export and run.ranks.is_first:
            export_run(run.folder, step=run.state.step)
        self.logger.say(f"saved {path}")


def _flops_per_token(run: Run) -> float:
    """Training FLOPs of student and teacher per token."""
    masking, teacher = run.recipe.masking.fraction, run.teacher
    student: Any = run.players["student"].module
    return flops.training_flops_per_token(
        flops.Dimensions.of(student.hf.config),
        row_tokens=run.recipe.data.max_sequence_tokens,
        target_fraction=masking if "masked_logits" in run.needs.student else 0.0,
        trainable=run.recipe.student.trainable,
        teacher=flops.Dimensions.of(teacher.encoder.hf.config) if teacher else None,
        teacher_head="masked_logits" in run.needs.teacher,
    )


def sum_by_language(per_target_M: Tensor, batch: Batch, *, languages: int) -> tuple[Tensor, Tensor]:
    """Sum and count [L] of a value per masked target, by the language of its document."""
    language_M = batch.language[batch.document.flatten()[batch.target_positions]]
    sums_L = torch.zeros(languages, dtype=torch.float64, device=per_target_M.device)
    sums_L.index_add_(0, language_M, per_target_M.double())
    return sums_L, torch.bincount(language_M, minlength=languages).double()
