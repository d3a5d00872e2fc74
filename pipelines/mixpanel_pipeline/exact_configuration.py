"""dlt's configuration, each setting read in its own section alone.

dlt also looks in every shorter section, and there too in the environment before the files: a
variable `REGION` or `CREDENTIALS` of another program's would be ours.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from dlt.common.configuration import resolve_configuration
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers import CustomLoaderDocProvider
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.configuration.specs.config_providers_context import ConfigProvidersContainer
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

_Spec = TypeVar("_Spec", bound=BaseConfiguration)

Section = tuple[str, ...]


def configured(spec: type[BaseConfiguration], section: Section) -> dict[str, Any]:
    """The settings of `spec` that stand in `section` itself, as they stand there."""
    found = {}
    for name, hint in spec.get_resolvable_fields().items():
        value = configured_value(name, hint, section)
        if value is not None:
            found[name] = value
    return found


def configured_value(name: str, hint: Any, section: Section) -> Any:
    """One setting as it stands in `section`; None if it does not."""
    for provider in Container()[PluggableRunContext].providers.providers:
        value, _ = provider.get_value(name, hint, "", *section)
        if value is not None:
            return value
    return None


def resolved(
    spec: _Spec, section: Section, values: Mapping[str, Any], native: object = None
) -> _Spec:
    """The configuration that has these values, which take the types that they should have.

    Args:
        spec: What to resolve.
        section: Where its settings stand.
        values: The settings by name.
        native: All of it in one value, as a URL; it comes before the values.

    Raises:
        ConfigurationException: dlt's, as when it looks for them itself.
    """
    given: Mapping[str, Any] = values
    for name in reversed(section):
        given = {name: given}
    # dlt itself adds the section that a specification names.
    sections = section[:-1] if spec.__section__ else section
    context = Container()[PluggableRunContext]
    providers = context.providers
    context.providers = ConfigProvidersContainer(
        [CustomLoaderDocProvider("given", lambda: dict(given))]
    )
    try:
        return resolve_configuration(spec, sections=sections, explicit_value=native)
    finally:
        context.providers = providers
