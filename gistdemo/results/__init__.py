"""Records of answers and of evaluations: what is measured, imported, read, summed up and shown is made of these. No torch.

answer.py          one answer as it is kept, with what `assess` says about it
evaluation.py      one evaluation: its files, found, read, exported
summary.py         what many answers add up to, per checkpoint, condition and budget
statistics.py      intervals and paired differences
imported.py        results of other programs, read into these records
earlier_format.py  the file and field names of an earlier experiment
references.py      figures that others published
"""
