"""Changes of trees of values, as in JSON and TOML files: every place, and values of every kind."""

VALUES = (None, True, 0, -1, 5, 1e308, float("nan"), "", "x", [], [[]], [1.0], ["a"], {}, {"a": 1})


def places(content, path=()):
    """The paths of all values of a tree, itself included."""
    yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*path, key))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from places(value, (*path, i))


def replaced(content, path, value):
    """A copy of a tree with another value in one place."""
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy
