"""What moves the run: ranks, engines, players, schedules, checkpoints and stopping."""
