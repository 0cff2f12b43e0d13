"""What a transfer experiment says on its way: events in words and facts.

A unit is a repeat of an arm at an amount of labels, with the keys arm, labels and seed.
"""

from kclr.events import Event


def describe(unit) -> str:
    """A unit in a few words."""
    return f"{unit['arm']}, labels {unit['labels']:g}, seed {unit['seed']}"


def failure(unit) -> str:
    """Why a unit failed, and where its trace is."""
    trace = f" (trace: {unit['trace']})" if "trace" in unit else ""
    return f"{unit['failed']}{trace}"


def preparing(words) -> Event:
    """A longer step of an experiment."""
    return Event("step", "preparing", words=words, facts={"what": words})


def begun(units, kept, epochs) -> Event:
    """All units of an experiment, of which some were kept, of so many epochs each."""
    before = f", {kept} of them already finished" if kept else ""
    return Event(
        "begun",
        "begun",
        words=f"{units} units of {epochs} epochs{before}",
        facts={"units": units, "kept": kept, "epochs": epochs},
        done=kept * epochs,
        total=units * epochs,
    )


def started(unit) -> Event:
    """A unit begins."""
    return Event("item", "started", describe(unit), facts=_place(unit))


def epoch(unit, row, epochs, before) -> Event:
    """An epoch of a unit is complete; `row` is that of its history, `before` are those of other
    units."""
    words = f"epoch {row['epoch']} of {epochs}, test {row['test_accuracy']:.1%}"
    facts = {**_place(unit), **row}
    return Event("step", "epoch", describe(unit), words, facts, before + row["epoch"])


def ended(unit, done) -> Event:
    """A unit is on disk, finished or failed, after `done` epochs of all units."""
    if "failed" in unit:
        return Event("failed", "failed", describe(unit), f"failed: {failure(unit)}", unit, done)
    words = f"{unit['accuracy']:.1%} in {unit['seconds']:.1f} s"
    facts = {key: value for key, value in unit.items() if key not in ("history", "start")}
    return Event("done", "unit", describe(unit), words, facts, done)


def _place(unit):
    return {key: unit[key] for key in ("arm", "labels", "seed")}
