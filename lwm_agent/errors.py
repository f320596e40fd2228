"""Errors that a user can mend: the command line shows their message alone. Any other exception is a bug.

Each is also an exception of Python's own, so that callers need not know this module.
"""

from __future__ import annotations


class UserError(ValueError):
    """A value that cannot be used; the message names it, the choices and the fix."""


class UserTypeError(UserError, TypeError):
    """A value of a type that cannot be used."""


class MachineError(UserError, RuntimeError):
    """Something that this machine lacks, or a process that it ended; the message says what helps."""


class DivergedError(UserError, FloatingPointError):
    """A training whose loss is no number any more."""


class FileError(UserError, OSError):
    """A file or folder that cannot be read or written; the message names it, the cause and the fix."""


class BudgetError(UserError):
    """A budget that is too small for any plan."""
