"""Evaluation: frozen tasks, the loop that plays them, and intervals, tests, tables and videos of the results."""

from __future__ import annotations

from .accounting import ModelAccount
from .compare import Comparison, compare
from .episode import Decision, Episode, EpisodeRecorder
from .episode_log import EpisodeLog
from .evaluate import EnvWrapper, evaluate, floors, make_env
from .floors import NoOpPolicy, RandomPolicy, ReplayPolicy
from .provenance import fingerprint, run_info
from .report import compact_table, markdown_table, write_table
from .results import Summary, summarize, table, wilson
from .results_file import save_results
from .statistics import holm, mcnemar, paired_test
from .tasks import PROTOCOLS, Task, TaskSet, make_tasks, shipped_tasks
from .video import Inspect, Recorder, write_episode

__all__ = [
    "PROTOCOLS",
    "Comparison",
    "Decision",
    "EnvWrapper",
    "Episode",
    "EpisodeLog",
    "EpisodeRecorder",
    "Inspect",
    "ModelAccount",
    "NoOpPolicy",
    "RandomPolicy",
    "Recorder",
    "ReplayPolicy",
    "Summary",
    "Task",
    "TaskSet",
    "compact_table",
    "compare",
    "evaluate",
    "fingerprint",
    "floors",
    "holm",
    "make_env",
    "make_tasks",
    "markdown_table",
    "mcnemar",
    "paired_test",
    "run_info",
    "save_results",
    "shipped_tasks",
    "summarize",
    "table",
    "wilson",
    "write_episode",
    "write_table",
]
