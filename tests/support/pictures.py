"""The former name of `tests.support.images`, until tests/batch says that one."""

from tests.support.images import *  # noqa: F403
