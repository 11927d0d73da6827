"""One of two processes of a run: first losses under each optimizer, as JSON.

Called as ``pair.py PORT INDEX CORPUS``.
"""

import json
import sys
from pathlib import Path

import jax

from optimx.training.parallel.processes import Processes, join

if __name__ == "__main__":
    port, index, corpus = sys.argv[1:]
    join(Processes(coordinator=f"127.0.0.1:{port}", count=2, index=int(index)))

    from training.test_sharded_runs import OPTIMIZERS, PAIR, chosen, losses

    found = {
        name: losses(chosen(Path(corpus), name, **PAIR), jax.devices())
        for name in OPTIMIZERS
    }
    # A line of its own: libraries print as well.
    print(f"\n{json.dumps(found)}")
