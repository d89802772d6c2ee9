"""How many people each group needs: a seeded share of the groups goes to one more person than the others.

So that agreement is known even where one judgement settles a group, at the price of that share.
"""

from tasks.context import EpochContext

__all__ = ["judgements_wanted", "repeated"]


def judgements_wanted(context: EpochContext) -> dict[str, int]:
    """Group → distinct people whose judgements settle it, in plan order."""
    wanted, more = context.configuration.labels.judgements_per_group, repeated(context)
    return {group: wanted + (group in more) for group in context.groups()}


def repeated(context: EpochContext) -> frozenset[str]:
    """The groups that go to one more person.

    Each group draws a number from (run seed, epoch, group); the lowest ones are taken, as many as the share says.
    """
    groups, labels = context.groups(), context.configuration.labels
    number = round(labels.repeat_fraction * len(groups))
    if not number:
        return frozenset()
    from d3po_core.noise import generator

    drawn = {
        group: generator("repeat", run_seed=context.configuration.seed, epoch=context.number, group=group).random()
        for group in groups
    }
    return frozenset(sorted(drawn, key=lambda group: (drawn[group], group))[:number])
