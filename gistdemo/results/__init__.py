"""Records of answers, evaluations and comparisons: what is measured, imported, read, summed up and shown is made of these. No torch.

answer.py          `Answer`, the one schema of an answer, with what `assess` says about it
evaluation.py      `Results`, the figures of an evaluation; its files: found, read, exported
migrations.py      what older versions wrote, lifted to the format of this one
comparison.py      `Comparison`, a grid of answers as JSON
summary.py         `Entry`: what many answers add up to, per checkpoint, condition and budget
statistics.py      intervals and paired differences
imported.py        results of other programs, read into these records
earlier_format.py  the file and field names of an earlier experiment
references.py      figures that others published
"""
