"""Which output of a call comes home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from anypool.errors import ConfigError

__all__ = ["Mode", "RelaySettings"]

Mode: TypeAlias = Literal["relay", "live", "off"]

KINDS = ("stdout", "stderr", "warnings", "logging")


@dataclass(frozen=True, kw_only=True, slots=True)
class RelaySettings:
    """Which output of a call comes home.

    Parameters
    ----------
    stdout, stderr, warnings, logging : "relay", "live" or "off"
        "relay": captured, and replayed by the caller when the result is delivered. "live": passed on at once,
        where it runs; nothing is captured. "off": left to the backend, whatever it does with it. The relay
        treats the last two alike; a pool that would redirect or close its workers' streams must not do so
        for "live".
    exclusive : bool
        The process runs one call at a time, and nothing but calls. Output of threads that the call
        started is then the call's; elsewhere nothing tells whose it is, and it goes where it went before.
    in_caller : bool
        The capture runs in the process that replays: warnings and log records are kept as they are.

    Attributes
    ----------
    relayed : frozenset of str
        Those of the four that are "relay". Kept, because a capture is made for each chunk.
    """

    stdout: Mode = "relay"
    stderr: Mode = "relay"
    warnings: Mode = "relay"
    logging: Mode = "relay"
    exclusive: bool = False
    in_caller: bool = False
    relayed: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        relayed = frozenset(kind for kind in KINDS if getattr(self, kind) == "relay")
        object.__setattr__(self, "relayed", relayed)

    @classmethod
    def of(cls, value: bool | str | Mapping[str, str] | RelaySettings) -> RelaySettings:
        """Return the settings that a user's `relay=` means.

        Parameters
        ----------
        value : bool, str, mapping or RelaySettings
            True is "relay" for all four, False is "off" for all four, a mode is that mode for all
            four; a mapping sets those it names, the others are "relay".

        Raises
        ------
        ConfigError
            An unknown mode, or a mapping that names something else than the four.

        Examples
        --------
        >>> RelaySettings.of({"stderr": "live"}).stderr
        'live'
        >>> RelaySettings.of(False).logging
        'off'
        """
        if isinstance(value, RelaySettings):
            return value
        if isinstance(value, bool):
            value = "relay" if value else "off"
        chosen = dict.fromkeys(KINDS, value) if isinstance(value, str) else dict(value)
        for kind, mode in chosen.items():
            if kind not in KINDS:
                raise ConfigError(f"relay: no output is called {kind!r}; known are {', '.join(KINDS)}")
            if mode not in get_args(Mode):
                raise ConfigError(f"relay: {kind}={mode!r} is none of {', '.join(map(repr, get_args(Mode)))}")
        return replace(cls(), **{str(kind): mode for kind, mode in chosen.items()})  # type: ignore[arg-type]
