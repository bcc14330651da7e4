"""Pretrain a model: ``python training/pretrain.py CONFIG.yaml [key=value ...] [--resume]``.

Several GPUs: ``devices=8``, or start it with torchrun on each machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from revision import git_revision

from gair_core.errors import GairError
from gair_core.pretrain.config import read_config
from gair_core.pretrain.trainer import pretrain
from gair_core.yaml_config import to_yaml


def main() -> int:
    """Run the command; return its exit code: 0 finished, 1 failed, 128 + n stopped by signal n."""
    parser = argparse.ArgumentParser(description="Pretrain a model from a store.")
    parser.add_argument("config", type=Path, help="YAML file; see training/configs")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for example optimizer.peak_rate=1e-4"
    )
    parser.add_argument("--print-config", action="store_true", help="print every value and stop")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder 'output'")
    options = parser.parse_intermixed_args()
    try:
        config = read_config(options.config, options.overrides)
        if options.print_config:
            print(to_yaml(config), end="")
            return 0
        outcome = pretrain(config, resume=options.resume, revision=git_revision())
    except GairError as error:
        print(f"pretrain: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    if outcome.signal:
        print(f"Stopped after step {outcome.steps}; continue with --resume.", file=sys.stderr)
        return 128 + outcome.signal
    for name, value in outcome.metrics.items():
        print(f"{name}: {value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
