"""A second judgement beside health: is the answer about what was asked?

    calibration.py   what the judge is and what it was calibrated with: assets/judge.json
    judge.py         Judge: one answer and its example -> `gistdemo.metrics.task.Task`
    reader.py        Reader: the model behind it; how likely it finds a text after prompts

docs/METHOD.md says how it was calibrated, and how often it errs.
"""
