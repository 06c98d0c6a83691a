"""All families by name: adding one edits this table."""

from __future__ import annotations

from skippy.lab.families.bases import BASES
from skippy.lab.families.divisor import DIVISOR
from skippy.lab.families.exercise import Family
from skippy.lab.families.hailstone import HAILSTONE
from skippy.lab.families.multiples import MULTIPLES
from skippy.lab.families.powers import POWERS
from skippy.lab.families.recurrence import RECURRENCE
from skippy.lab.families.remainder import REMAINDER
from skippy.lab.families.roots import ROOTS
from skippy.lab.families.sequence import SEQUENCE
from skippy.lab.families.triangle import TRIANGLE

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        REMAINDER,
        POWERS,
        SEQUENCE,
        BASES,
        TRIANGLE,
        ROOTS,
        MULTIPLES,
        HAILSTONE,
        RECURRENCE,
        DIVISOR,
    )
}
