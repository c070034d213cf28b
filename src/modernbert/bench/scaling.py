"""Cost of a token as sequences grow, and as threads are added."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch

from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import Setting, baseline, our_contestants
from modernbert.bench.timing import alternate, check_rounds, machine, use_threads
