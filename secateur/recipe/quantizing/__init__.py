"""From a trained model to the INT8 file that ships: calibrated in one pass, written, run, and measured as a file.

The five steps: capture and fold (``ready``), one pass over calibration images (``calibrating``), ranges, where asked
for picked on a validation split (``calibrating``), the file (``shipping``), and what the file itself does
(``shipping``). ``call`` does them for a model in memory, ``saved`` for one that is named; recipes do them after their
own training. ``settings`` is imported by recipes, so that nothing is imported here.
"""
