"""Exceptions for mistakes that a user can mend.

The launcher prints the message of any exception whose class, or a base of it, is called ``UserError`` without a
traceback. The subclasses here also derive from the exception that upstream raises in the same place.
"""

from omegaconf.errors import MissingMandatoryValue, ValidationError


class UserError(ValueError):
    """One clear message that says what is wrong and what to do."""


class ConfigError(UserError, TypeError):
    """A config has an unknown key, or is not a mapping at all."""


class ConfigValueError(UserError, ValidationError):
    """A config value does not have the type that its key asks for."""


class ConfigMissingError(UserError, MissingMandatoryValue):
    """A config key still holds ``???`` where its value is needed."""


class NonFiniteError(UserError):
    """A loss, gradient or parameter is NaN or infinite; training stops before a bad checkpoint is written."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, unsafe to open, or does not hold what was asked for."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """The file that a user named is not there."""
