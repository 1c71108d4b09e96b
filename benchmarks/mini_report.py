"""The report of the embedded weights, on people and speech that they were not trained on, into the model card.

    python benchmarks/mini_report.py --portraits DIR --videos DIR --syllables DIR --sentences DIR \
        [--model FOLDER] [--only N] [--work DIR] -o docs/mini.md

`--only 6` is a quick look. Finished clips are kept in the work folder, one folder for each set of weights, and made once.
JOYHALLO_WEIGHTS must name a folder with the 478-point face models. The package `mini_report` beside this file does the work.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

from mini_report.command import main

if __name__ == "__main__":
    main()
