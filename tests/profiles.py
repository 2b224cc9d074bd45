"""How many examples a property test draws, and which.

By default few and always the same ones, so that whether a change lands is no lottery. The slow
suite (`--hypothesis-profile fresh`) draws many, and new ones every time; what those find becomes
an `@example` of its test.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES_AS_MANY = 20
# Triton's programs are tested in its interpreter, which it decides on when it is first imported.
os.environ.setdefault("TRITON_INTERPRET", "1")


def register() -> None:
    """Registers both profiles and loads the default one; timings never decide a test."""
    untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
    settings.register_profile("fixed", untimed, derandomize=True, database=None)
    settings.register_profile("fresh", untimed, max_examples=TIMES_AS_MANY * untimed.max_examples)
    settings.load_profile("fixed")


def examples(count: int) -> settings:
    """Draws `count` examples by default, and as many times more as the profile asks for."""
    return settings(max_examples=count * settings.default.max_examples // 100)
