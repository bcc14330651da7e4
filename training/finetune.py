"""Fine-tune a head: ``python training/finetune.py CONFIG.yaml [key=value ...] [--resume]``.

``mode=full`` trains the encoder too. ``training/configs/finetune`` has a file for every task.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from revision import git_revision

from gair_core.errors import GairError
from gair_core.finetune.config import read_config
from gair_core.finetune.trainer import finetune
from gair_core.yaml_config import to_yaml


def main() -> int:
    """Run the command; return its exit code: 0 finished, 1 failed, 128 + n stopped by signal n."""
    parser = argparse.ArgumentParser(description="Fine-tune a head on a pretrained model.")
    parser.add_argument("config", type=Path, help="YAML file; see training/configs/finetune")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example mode=full")
    parser.add_argument("--print-config", action="store_true", help="print every value and stop")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder 'output'")
    options = parser.parse_intermixed_args()
    try:
        config = read_config(options.config, options.overrides)
        if options.print_config:
            print(to_yaml(config), end="")
            return 0
        outcome = finetune(config, resume=options.resume, revision=git_revision())
    except GairError as error:
        print(f"finetune: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    if outcome.signal:
        print(f"Stopped after step {outcome.steps}; continue with --resume.", file=sys.stderr)
        return 128 + outcome.signal
    shown = {"validation": outcome.validation}
    if outcome.test is not None:
        shown["test"] = outcome.test.metrics
    for split, metrics in shown.items():
        for name, value in metrics.items():
            print(f"{split} {name}: {value:.4g}")
    print(f"head: {config.output / 'head.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
