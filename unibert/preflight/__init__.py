"""A look at each node of a SLURM job before its ranks start, so that one bad node does not cost the others an hour.

    srun (a task a node)  look   this node by itself: devices, disks, the code and the data that it sees      no torch
    batch script          judge  compares the answers
    srun (a task a node)  meet   the nodes together: whom the first one can hear, clocks, MB/s                torch
    batch script          judge

`look` and `meet` print one line of JSON each, and the batch script (launch_slurm/preflight.sh) keeps them in a file;
a node that says nothing is bad. `judge` reads the file and names the bad nodes. What a node says against itself (no
device, no disk) counts at once. What sets nodes apart from each other (code, data, clock) makes the fewer ones bad,
and where no side is the smaller nobody is excluded: then the job ends, and says why.
"""
