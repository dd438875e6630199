"""The backends that come with anypool, a leaf each. Nobody imports them but the registry, by name."""
