"""What people see of a run: tags, sums over ranks, TensorBoard, metrics.jsonl, console, FLOPs."""
