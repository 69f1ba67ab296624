"""Jobs of SLURM: the readable files of launch_slurm/ filled in and submitted, and asked after. No torch here."""
