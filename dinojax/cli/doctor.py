"""Say whether dinojax works on this machine; see --help."""

import sys
from argparse import ArgumentParser, Namespace
from functools import partial

from dinojax.cli.arguments import Parser
from dinojax.cli.terminal import json_encoder
from dinojax.doctor.examination import examine
from dinojax.messages import count, visible
from dinojax.startup import num_cores, start_jax

FAULTY = 1
WIDTH = 24
"""Of the column with the names of the checks."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax doctor`."""
    help_json = "print one object with all findings and figures"
    parser.add_argument("--json", action="store_true", help=help_json)


def main(parser: Parser, arguments: Namespace) -> int:
    """Print a line for each check; returns 1 if there is a fault."""
    findings = []
    for finding in examine(partial(start_jax, num_cores())):
        findings.append(finding)
        if not arguments.json:
            line = f"{finding.state:5}  {finding.name:{WIDTH}}  {finding.said}"
            print(visible(line), flush=True)
    faults = [finding.name for finding in findings if finding.state == "fault"]
    if arguments.json:
        answer = {"ok": not faults, "findings": [finding._asdict() for finding in findings]}
        print(json_encoder(sys.stdout.encoding, indent=2)(answer))
    else:
        print(f"\n{count(len(faults), 'fault')}{': ' if faults else ''}{', '.join(faults)}")
    return FAULTY if faults else 0
