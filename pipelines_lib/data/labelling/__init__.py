"""Labels: what is predicted, made from clean rows and what came after them.

values     the row's own column: as it is, mapped, or split by a threshold
events     what happened to the same entity within a time
truth      ground truth from a source of its own, joined by key
votes      labelling functions and what their votes make of a row
due        which partitions are closed, and whose labels are older than what they are made from
partition  labelling them
"""
