"""Errors of ouroflow: one small family, each with the exit code that the command line ends with.

A message says what was found, where (file and row when there is one), and what to do about it.
"""

from __future__ import annotations


class OuroflowError(Exception):
    """Base of every error that ouroflow raises on purpose."""

    exit_code = 1


class UsageError(OuroflowError):
    """The call itself does not make sense: unknown option value, unknown company, contradictory settings."""

    exit_code = 2


class InputError(OuroflowError):
    """The input data cannot be used as it is: unreadable file, missing column, bad rows, sums past int64."""

    exit_code = 3


class ResourceError(OuroflowError):
    """Device, memory or disk are not sufficient for what was asked."""

    exit_code = 4


class Interrupted(OuroflowError):
    """The run was stopped before its end; what was written is whole."""

    exit_code = 5


class VerificationError(OuroflowError):
    """A stored result does not agree with its certificate."""

    exit_code = 6


class KernelError(OuroflowError):
    """A kernel was given what it does not take, or does not compile: a defect of ouroflow, never of the data."""
