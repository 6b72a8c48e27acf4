"""Background jobs that nothing can lose: a job is a directory, run by a process of its own; everybody else reads.

RUNS/ID/job.json     the record: what to run, its state, its process (written under one lock, replaced in one move)
RUNS/ID/output.txt   what the process printed      RUNS/ID/stop      there while the job is asked to stop
RUNS/ID/...          what the job itself writes: for training see `gistdemo.train.run`
"""
