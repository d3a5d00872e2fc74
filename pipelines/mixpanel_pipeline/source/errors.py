"""What can go wrong between us and Mixpanel, as the caller has to tell it apart."""


class ConfigurationError(Exception):
    """A setting is missing or wrong: nothing was requested, nothing will be until it is mended."""

    is_told = False
    """Whether those were told of it who are told of failures."""


class ExportError(Exception):
    """Mixpanel did not deliver: the message says what happened and what to do."""


class BrokenAnswer(ExportError):
    """An answer that is not whole: none of it counts, asking again may bring all of it."""


class DayNotBegun(ExportError):
    """A day was asked for that has not begun where the project is."""


class AccessRefused(ExportError):
    """Mixpanel knows no such credentials or address, or they have no access to the project."""


class NotInPlan(ExportError):
    """The project's plan at Mixpanel does not include the API."""
