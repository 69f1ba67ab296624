"""The training loop.

    for each step: agree that every rank has its batch, and count the targets over all ranks; for each micro-batch:
    one student forward, the teacher's answer, the student goes back alone while the teacher may already read the next
    micro-batch, the discriminator remembers the features and moves when its turn comes; the student moves; log,
    evaluate, save, stop when due

The order of samples, the masks and every divisor depend on the step alone, so a run is the same whatever
the world size and micro-batch, and goes on after a checkpoint as if nothing had happened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unibert.assembly import Run, assemble
from unibert.config import Recipe
from unibert.data.batches import Batch
from unibert.errors import NumericsError, Stopped
from unibert.export import export_run
from unibert.models.discriminator import Feature, judged_documents
from unibert.models.teacher import Lessons
from unibert.nonfinite import report_nonfinite
from unibert.objectives import MicroStep, Moved, Objective, Term, Turn, read
from unibert.observe import flops
from unibert.observe.logger import RunLogger
from unibert.observe.meter import Meter, sum_by_language
from unibert.plan import accumulation_steps, first_sample, turn_length
from unibert.runtime import dist, schedules
from unibert.runtime.checkpoint import Saver
from unibert.runtime.dist import Ranks
from unibert.runtime.players import Player
from unibert.runtime.stop import StopFlag
from unibert.runtime.watchdog import Watchdog

log = logging.getLogger(__name__)


def train(recipe: Recipe, *, resume: str = "auto") -> Path:
    """Train a recipe to its last step and return the run folder.

    Raises:
        Stopped: a signal, the time limit or the STOP file asked to leave; everything is saved.
        UnibertError: what the command line turns into an exit code.
    """
    began = time.monotonic()
    ranks = dist.start(threads=recipe.train.threads_per_rank)
    try:
        train_on(ranks, recipe=recipe, resume=resume, began=began)
    finally:
        dist.stop()
    return recipe.run_folder


def train_on(ranks: Ranks, *, recipe: Recipe, resume: str = "auto", began: float | None = None) -> None:
    """Train on ranks that have met; `began` is when the time limit began to run, now when absent."""
    run = assemble(recipe, ranks=ranks, resume=resume)
    known = flops.peak_flops(run.device) is not None
    first_step = run.state.step
    with (
        RunLogger(run.folder, recipe=recipe, rank=ranks.rank, first_step=first_step, device_peak_known=known) as logger,
        StopFlag(run.folder / "STOP", began=began, limit_minutes=recipe.train.time_limit_minutes) as stop,
        Watchdog(60 * recipe.train.stall_minutes, log_file=logger.rank_file) as watchdog,
    ):
        Trainer(run, logger=logger, stop=stop, watchdog=watchdog).run_to_end()


class Trainer:
    """One run's loop and what it remembers between steps."""

    def __init__(self, run: Run, *, logger: RunLogger, stop: StopFlag, watchdog: Watchdog) -> None:
        from unibert.evaluate.watch import HeldoutWatch

        self.run = run
        self.recipe = run.recipe
        self.logger, self.stop, self.watchdog = logger, stop, watchdog
        self.steps = run.recipe.train.steps
        self.feature: Feature = run.recipe.discriminator.feature if run.recipe.discriminator else "cls"
        self.meter = Meter(
            languages=run.recipe.languages,
            device=run.device,
            tokens=run.state.tokens,
            samples=run.state.samples,
            flops_per_token=run.flops_per_token,
            peak_flops=flops.peak_flops(run.device),
        )
        self.watch = HeldoutWatch(
            run.recipe,
            shards=run.shards,
            device=run.device,
            objectives=run.objectives,
            teacher=run.teacher,
            ranks=(run.ranks.rank, run.ranks.world),
        )
        self.saver = Saver(run.checkpoints, ranks=run.ranks, table=run.recipe.save)
        self.losses: list[Tensor] = []  # the student's, of each micro-step of the step
        wanted = {"masked": run.needs.teacher, "unmasked": run.needs.teacher_unmasked}
        self.lessons = None if run.teacher is None else Lessons(run.teacher, **wanted)
        self.stream: Iterator[list[Batch]] = iter(())
        self.read: list[Batch] | Exception | None = None  # the next step's micro-batches, when they were read early
        self.brought: tuple[Batch | None, Batch | None] = (None, None)  # a micro-batch, and the same on the device

    def run_to_end(self) -> None:
        """Steps until the last one, or until somebody asks to stop."""
        run = self.run
        if run.resumed_from is not None:
            self.logger.say(f"going on from {run.resumed_from}")
        stream = self.stream = run.stream.steps(run.state.step)
        try:
            if run.state.step == 0:
                self.logger.log(0, self.evaluate())
            for step in range(run.state.step + 1, self.steps + 1):
                self.watchdog.beat("waiting for data")
                self.step(step)
                stopping, writing = self.agree(self.stop.wanted(), self.saver.writing)
                if self.saver.pending and not writing:
                    self.finish_save()
                if step % self.recipe.save.every_steps == 0 or step == self.steps or stopping:
                    self.save()
                if stopping and step < self.steps:
                    self.finish_save()
                    raise Stopped(f"stopped by {self.stop.reason or 'another rank'} after step {step}; all is saved")
            self.finish_save()
        except NumericsError:
            self.finish_save()  # of a step before
            raise
        finally:
            stream.close()
            if run.teacher is not None:
                run.teacher.close()

    def step(self, step: int) -> None:
        """One step: trained on, or passed over, then logged."""
        self.meter.start()
        micros, self.read = self.read_step(), None
        if self.passed_over(step):
            self.count(step, micros)
            self.logger.say(f"step {step} is passed over (train.skip_steps)")
            values: dict[str, float] = {}
            self.meter.samples = first_sample(self.recipe, step + 1)
            self.run.state = replace(self.run.state, step=step, samples=self.meter.samples, score=None)
        else:
            values = self.train_step(step, micros)
        looks = [self.recipe.log.evaluate_every_steps, *[self.recipe.save.every_steps] * self.recipe.save.keep_best]
        if step == self.steps or any(step % every == 0 for every in looks):
            values |= self.evaluate()
        self.logger.log(step, values)

    def read_step(self) -> list[Batch] | Exception:
        """The next step's micro-batches, or why there are none."""
        if self.read is None:
            with self.meter.waiting():
                self.read = _next_or_error(self.stream)
        return self.read

    def passed_over(self, step: int) -> bool:
        """Whether train.skip_steps names the step."""
        parts = [text.partition(":") for text in self.recipe.train.skip_steps]
        return any(int(first) <= step <= int(last or first) for first, _, last in parts)

    def train_step(self, step: int, read: list[Batch] | Exception) -> dict[str, float]:
        """One optimizer step of the student: every micro-batch, every player.

        Args:
            step: from 1.
            read: this rank's micro-batches, or why there are none.
        """
        run, student = self.run, self.run.players["student"]
        student.set_rate(self.rate(step))
        weights = {o.name: schedules.weight(o.weight, step=step, steps=self.steps) for o in run.objectives}
        micros, counts_AO, judged_by_language = self.count(step, read)
        divisors = counts_AO.sum(dim=0).clamp(min=1.0).tolist()
        turn_steps = turn_length(self.recipe, accumulation=len(micros))
        self.losses, turn = [], None
        for index, batch in enumerate(micros):
            self.watchdog.beat(f"step {step}, micro-batch {index + 1} of {len(micros)}")
            student.at_boundary(index + 1 == len(micros))
            at = self.forward(self.bring(batch))
            self.look_ahead(step, micros[index + 1 :])
            with run.players.alone(student):
                loss = self.loss(student, at, weights=weights, divisors=divisors)
                self.losses.append(loss.detach())
                student.backward(loss)
            if "discriminator" in run.players:
                turn = turn or Turn(run.players["discriminator"].engine)
                turn.see(at)
                if (index + 1) % turn_steps == 0:
                    seen = counts_AO[index + 1 - turn_steps : index + 1].sum(dim=0).clamp(min=1.0).tolist()
                    self.take_turn(turn, weights=weights, divisors=seen)
                    turn = None
        student.move()
        for objective in run.objectives:
            objective.after_move(Moved(student.weights, dist.everyone_says))
        return self.summarise(step, micros, weights=weights, judged_by_language=judged_by_language)

    def bring(self, batch: Batch) -> Batch:
        """A micro-batch on the device, with the teacher at work on it."""
        before, moved = self.brought
        if moved is None or before is not batch:
            moved = batch.to(self.run.device)
            self.brought = batch, moved
        if self.lessons is not None:
            self.lessons.ask(moved)
        return moved

    def look_ahead(self, step: int, left: list[Batch]) -> None:
        """Let the teacher begin with the micro-batch after this one, of the next step when none is `left` of this."""
        if self.lessons is None or not self.lessons.early:
            return
        if not left and step < self.steps and not self.passed_over(step + 1):
            read = self.read_step()
            left = [] if isinstance(read, Exception) else read
        if left:
            self.bring(left[0])

    def take_turn(self, turn: Turn, *, weights: dict[str, float], divisors: list[float]) -> None:
        """The discriminator learns from what it has seen, k times."""
        table, player = self.recipe.discriminator, self.run.players["discriminator"]
        assert table is not None
        with self.run.players.alone(player):
            for move in range(table.moves):
                player.at_boundary(True)
                player.backward(self.loss(player, turn, weights=weights, divisors=divisors, measured=move == 0))
                player.move()

    def rate(self, step: int) -> float:
        """The student's learning rate of a step."""
        return schedules.learning_rate(step, recipe=self.recipe)

    def count(self, step: int, read: list[Batch] | Exception) -> tuple[list[Batch], Tensor, Tensor]:
        """What there is to do, by one all-reduce in which the ranks also agree that all of them have their batch.

        Returns:
            This rank's micro-batches, the targets [A, O] of each micro-step and objective over all ranks, and the
            features [L] of each language that a discriminator judges: one a document, or one a token.

        Raises:
            UnibertError: the same on every rank, when one has no batch.
        """
        failed, micros = isinstance(read, Exception), [] if isinstance(read, Exception) else read
        objectives, languages = self.run.objectives, len(self.recipe.languages)
        shape = (accumulation_steps(self.recipe, world=self.run.ranks.world, step=step), len(objectives))
        own_AO, judged_L = torch.zeros(shape, dtype=torch.float64), torch.zeros(languages, dtype=torch.float64)
        for row, batch in zip(own_AO, micros, strict=False):
            row += torch.tensor([objective.count(batch) for objective in objectives])
            judged_L += torch.bincount(batch.language[judged_documents(batch, self.feature)], minlength=languages)
        everything = torch.cat([own_AO.flatten(), judged_L, torch.tensor([float(failed)])]).to(self.run.device)
        if self.run.ranks.world > 1:
            torch.distributed.all_reduce(everything)
        everything = everything.cpu()
        if everything[-1]:
            self.finish_save()  # of a step before; all ranks are here
            dist.fail_together(read if isinstance(read, Exception) else None)
        return micros, everything[: own_AO.numel()].view(shape), everything[own_AO.numel() : -1]

    def forward(self, batch: Batch) -> MicroStep:
        """Student and teacher compute what the objectives need, once."""
        run, needs = self.run, self.run.needs
        answers = None, None
        if self.lessons is not None:
            with self.meter.teaching():
                answers = self.lessons.answers(batch)
        engine: Any = run.players["student"].engine
        at = read(engine, batch, needs=needs, answers=answers, feature=self.feature)
        at.beside = engine.module.beside
        texts = [batch] if needs.joined is None or batch.joined is None else [batch, batch.joined]
        tokens, places = sum(text.tokens for text in texts), sum(text.input_ids.numel() for text in texts)
        self.meter.count(tokens=tokens, places=places, samples=batch.documents)
        return at

    def loss(
        self,
        player: Player,
        at: MicroStep | Turn,
        *,
        weights: dict[str, float],
        divisors: list[float],
        measured: bool = True,
    ) -> Tensor:
        """This rank's part of the player's weighted mean over its window."""
        factors = {x.name: weights[x.name] / divisor for x, divisor in zip(self.run.objectives, divisors, strict=True)}
        if isinstance(at, MicroStep):
            at.factors = factors
            if "discriminator" in self.run.players:
                at.discriminate = self.run.players["discriminator"].module
        loss = torch.zeros((), device=self.run.device)
        for objective in self.run.objectives:
            if objective.player == player.name:
                term = objective.term(at)
                if measured:
                    self.measure(objective, term, at.batches)
                loss = loss + factors[objective.name] * term.total
        return loss

    def measure(self, objective: Objective, term: Term, batches: list[Batch]) -> None:
        """Add what a term shows to the step's sums."""
        by_language = None
        if term.per_target is not None:
            by_language = sum_by_language(term.per_target, batches[0], languages=len(self.recipe.languages))
        count = sum(objective.count(batch) for batch in batches)
        self.meter.add(f"loss/{objective.name}", term.total, count, by_language=by_language)
        for tag, (total, number) in term.observed.items():
            self.meter.add(tag, total, number)

    def summarise(
        self,
        step: int,
        micros: list[Batch],
        *,
        weights: dict[str, float],
        judged_by_language: Tensor,
    ) -> dict[str, float]:
        """The step's tags.

        Raises:
            NumericsError: a loss or a gradient is not finite; nothing of the step is saved.
        """
        run, note = self.run, self.meter.note
        note("optim/lr", self.rate(step))
        for name, weight in weights.items():
            note(f"schedule/weight/{name}", weight)
        for player in run.players:
            if player.grad_norm is not None:
                note(f"optim/grad_norm/{player.name}", player.grad_norm)
            if player.loss_scale is not None:
                note(f"optim/loss_scale/{player.name}", player.loss_scale)
                note(f"optim/skipped_steps/{player.name}", player.skipped)
        if (lamb := run.players["student"].lamb) is not None:
            for tag, ratio in lamb.ratio_summary().items():
                note(tag, ratio)
        if "discriminator" in run.players:
            note("adversary/chance", float(judged_by_language.max() / judged_by_language.sum()))
        reading = self.meter.reduce()
        if reading.nonfinite:
            report_nonfinite(reading, step=step, micros=micros, losses=self.losses, run=run)
        values = reading.values
        own = [o.name for o in run.objectives if o.player == "student" and f"loss/{o.name}" in values]
        values["loss/total"] = sum(weights[name] * values[f"loss/{name}"] for name in own)
        run.state = replace(run.state, step=step, samples=self.meter.samples, tokens=self.meter.tokens, score=None)
        return values

    def evaluate(self) -> dict[str, float]:
        """The look at held-out text, by the student as it is."""
        players = self.run.players
        engine: Any = players["student"].engine
        self.watchdog.beat("evaluating")
        for player in players:
            player.engine.eval()
        discriminate = players["discriminator"].module if "discriminator" in players else None
        found = self.watch.look(engine, lessons=self.lessons, discriminate=discriminate)
        if self.run.state.step == self.steps:
            embeddings_NH, languages, texts = self.watch.embeddings(engine)
            self.logger.projector(self.steps, embeddings_NH=embeddings_NH, languages=languages, texts=texts)
        for player in players:
            player.engine.train()
        self.run.state = replace(self.run.state, score=found["eval/masked_cross_entropy"])
        return found

    def agree(self, *wanted: bool) -> list[bool]:
        """For each question, whether any rank says yes."""
        flags = torch.tensor([float(flag) for flag in wanted], device=self.run.device)
        if self.run.ranks.world > 1:
            torch.distributed.all_reduce(flags)
        return [bool(flag) for flag in flags.tolist()]

    def save(self) -> None:
        """Begin a checkpoint; at the last step, or without save.background, also finish it."""
        run = self.run
        self.watchdog.beat("saving a checkpoint")
        self.finish_save()
        self.logger.sync()
        self.saver.begin(players=run.players, state=run.state, objectives={o.name: o.state() for o in run.objectives})
        if not self.recipe.save.background:
            self.finish_save()

    def finish_save(self) -> None:
        """Let the checkpoint that was begun count, if there is one, and write the Hugging Face folder beside it."""
        if not self.saver.pending:
            return
        self.watchdog.beat("finishing a checkpoint")
        path = self.saver.finish()
        if self.recipe.save.export and self.run.ranks.is_first:
            export_run(self.run.folder, step=int(path.name.removeprefix("step_")))
        self.logger.say(f"saved {path}")


def _next_or_error(stream: Iterator[list[Batch]]) -> list[Batch] | Exception:
    """The next step's micro-batches; an error is told to the other ranks before it ends this one."""
    try:
        return next(stream)
    except Exception as error:
        return error
