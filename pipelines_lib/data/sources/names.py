"""Column names that tables take."""


def unique_names(given: list[str]) -> list[str]:
    """Each name once (Delta tells no case apart); c0, c1, … where there is none."""
    names: list[str] = []
    taken: set[str] = set()
    for index, cell in enumerate(given):
        name, copy = cell or f"c{index}", 2
        while name.casefold() in taken:
            name, copy = f"{cell or f'c{index}'}_{copy}", copy + 1
        taken.add(name.casefold())
        names.append(name)
    return names
