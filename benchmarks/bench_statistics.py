"""Size and power of the preservation test, against the errors that other reports use.

    python -m benchmarks.bench_statistics            # 20,000 evaluations a cell
    python -m benchmarks.bench_statistics --quick    # 1,000

Every cell draws evaluations with a known true loss (see `benchmarks.simulation`) and counts verdicts at δ = 5
points. "preserved" at a true loss of exactly δ is the size and should be 5 %; at no loss it is the power. So for
"equal personality" at a true difference of exactly 0.25 SD, and at none.
Exits with 1 if 60 × 16 leaves what the method promises, at most 7 %, at least 80 %; or "equal" at 0.25 SD the 7 %.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.simulated_study import Harm, World, draw_study, flat, ramp
from benchmarks.simulation import Chatter, Population, draw_personas, draw_shares
from skippy.core.inference.cells import Cell
from skippy.core.inference.curves import build_curves
from skippy.core.inference.frontier import matched_differences
from skippy.core.inference.loss_dose import loss_dose
from skippy.core.inference.paired import bootstrap_t, non_inferiority, pooled_sd, t_quantile, tost_paired
from skippy.core.inference.power import achievable_margin, estimate_spread, power_non_inferiority
from skippy.core.inference.predictors import regression_gain
from skippy.core.inference.seeds import non_inferiority_over_seeds
from skippy.core.inference.sensitivity import positive_control
from skippy.core.inference.study import LEVELS

MARGIN = 0.05
LARGEST_SIZE, SMALLEST_POWER = 0.07, 0.80
LARGEST_STUDY_SIZE = 0.09
"""Of the claims of a study; with four seeds the degrees of freedom are themselves an estimate."""
DESIGNS = ((30, 16), (60, 16), (120, 16), (240, 4), (60, 1))
LOSSES = (0.0, 0.025, 0.05, 0.10)
Shares = np.ndarray
Arms = Mapping[str, Harm]
Errors = Callable[[Shares, Shares, int], tuple[np.ndarray, float]]


def paired(base: Shares, variant: Shares, k: int) -> tuple[np.ndarray, float]:
    """Ours, for many evaluations at once; checked against `non_inferiority` in `main`."""
    n = base.shape[1]
    return (variant - base).std(axis=1, ddof=1) / math.sqrt(n), t_quantile(0.95, float(n - 1))


def unpaired(base: Shares, variant: Shares, k: int) -> tuple[np.ndarray, float]:
    """As if each arm had its own problems."""
    n = base.shape[1]
    error = np.sqrt((base.var(axis=1, ddof=1) + variant.var(axis=1, ddof=1)) / n)
    return error, t_quantile(0.95, float(2 * n - 2))


def within(base: Shares, variant: Shares, k: int) -> tuple[np.ndarray, float]:
    """As if these were all problems there are; for k = 1 the plain binomial error of each arm."""
    n, unbiased = base.shape[1], max(1, k - 1)
    error = np.sqrt((base * (1 - base) + variant * (1 - variant)).sum(axis=1) / unbiased) / n
    if k == 1:
        rates = base.mean(axis=1), variant.mean(axis=1)
        error = np.sqrt(sum(rate * (1 - rate) for rate in rates) / n)
    return error, t_quantile(0.95, 1e9)


METHODS: dict[str, Errors] = {"paired t (ours)": paired, "unpaired": unpaired, "within problems": within}


def draw(n: int, k: int, loss: float, population: Population, trials: int) -> tuple[Shares, Shares]:
    """`trials` evaluations as rows; problems are independent, so one long draw is cut into rows."""
    generator = np.random.default_rng([n, k, round(1000 * loss)])
    base, variant = draw_shares(n * trials, k, population.shift_for(-loss), population, generator)
    return base.reshape(trials, n), variant[0].reshape(trials, n)


def preserved(base: Shares, variant: Shares, k: int, method: Errors) -> float:
    """Share of evaluations whose lower bound lies above −δ."""
    error, quantile = method(base, variant, k)
    return float(((variant - base).mean(axis=1) - quantile * error > -MARGIN).mean())


def print_designs(population: Population, trials: int) -> dict[tuple[int, int, str, float], float]:
    """One table: designs × methods × true losses."""
    print(f'\n"preserved" at δ = 5 points, effects between problems ω = {population.effect_logits:g} logits')
    print(f"{'n × k':<10}{'errors':<18}" + "".join(f"{f'loss {100 * loss:g}':>10}" for loss in LOSSES))
    found = {}
    for n, k in DESIGNS:
        rows = {loss: draw(n, k, loss, population, trials) for loss in LOSSES}
        for name, method in METHODS.items():
            rates = {loss: preserved(*rows[loss], k, method) for loss in LOSSES}
            found |= {(n, k, name, loss): rate for loss, rate in rates.items()}
            print(f"{f'{n} × {k}':<10}{name:<18}" + "".join(f"{100 * rate:9.1f}%" for rate in rates.values()))
    return found


def print_bootstrap(population: Population, trials: int) -> None:
    """Ours against the bootstrap-t check, on the same evaluations."""
    print("\nbootstrap-t beside t, 60 × 16")
    for loss in (0.0, 0.05):
        base, variant = draw(60, 16, loss, population, trials)
        pairs = [
            (
                non_inferiority(d, MARGIN).verdict,
                bootstrap_t(d, MARGIN, seed=index, resamples=1000).verdict,
            )
            for index, d in enumerate(variant - base)
        ]
        rates = [100 * np.mean([pair[side].startswith("preserved") for pair in pairs]) for side in (0, 1)]
        same = 100 * np.mean([first == second for first, second in pairs])
        print(f"loss {100 * loss:g}: t {rates[0]:.1f}%  bootstrap-t {rates[1]:.1f}%  same words {same:.1f}%")


def print_seeds(trials: int) -> None:
    """Three training seeds with an effect of their own, treated rightly and wrongly."""
    print("\nthree training seeds that differ (τ = 0.25 logits), 60 × 16")
    population = Population(seed_logits=0.25)
    for loss in (0.0, 0.05):
        generator, shift = np.random.default_rng(9), population.shift_for(-loss)
        tables = []
        for _ in range(trials):
            base, variant = draw_shares(60, 16, shift, population, generator, seeds=3)
            tables.append(variant - base)
        tests = {
            "problems and seeds (ours)": lambda table: non_inferiority_over_seeds(table, MARGIN),
            "problems alone": lambda table: non_inferiority(table.mean(axis=0), MARGIN),
            "one seed only": lambda table: non_inferiority(table[0], MARGIN),
        }
        for name, test in tests.items():
            rate = np.mean([test(table).verdict.startswith("preserved") for table in tables])
            print(f"loss {100 * loss:g}: {name:<28}{100 * rate:6.1f}%")


def print_personality(trials: int) -> float:
    """Prompts as the unit, and each answer as one; returns the largest size of ours."""
    print('\n"equal personality" within ±0.25 SD, 66 prompts × 4 answers')
    print(f"{'arms differ by prompt':<24}{'unit':<18}{'0.25 SD apart':>14}{'alike':>10}")
    sizes = []
    for chatter in (Chatter(taste_sd=0.3), Chatter(), Chatter(taste_sd=0.8, answer_sd=0.6)):
        rates = {"prompt (ours)": [0.0, 0.0], "answer": [0.0, 0.0]}
        for column, apart in enumerate((0.25, 0.0)):
            generator = np.random.default_rng([7, column])
            for _ in range(trials):
                first, second = draw_personas(66, 4, apart * chatter.single_sd, chatter, generator)
                margin = 0.25 * pooled_sd(first.ravel(), second.ravel())
                pairs = ((first.mean(axis=1), second.mean(axis=1)), (first.ravel(), second.ravel()))
                for name, pair in zip(rates, pairs, strict=True):
                    rates[name][column] += tost_paired(*pair, margin).is_equal / trials
        for name, (size, power) in rates.items():
            told = f"SD {chatter.taste_sd / chatter.single_sd:.2f}"
            print(f"{told:<24}{name:<18}{100 * size:13.1f}%{100 * power:9.1f}%")
        sizes.append(rates["prompt (ours)"][0])
    return max(sizes)


def print_study(trials: int) -> float:
    """Every claim of a study's page: how often it is made where it is false, and where it is true.

    Returns the largest size of the claims about bounds.
    """
    print(f"\nclaims of a study, 60 problems × 4, 4 scales, {trials} studies a cell")
    print(f"{'seeds':<8}{'claim':<44}{'false':>9}{'true':>9}")
    sizes = []
    for seeds in (4, 6, 10):
        world = World(problems=60, seeds=seeds)
        for name, (false_world, true_world, is_claimed) in STUDY_CLAIMS.items():
            rates = []
            for column, arms in enumerate((false_world, true_world)):
                generator = np.random.default_rng([seeds, column])
                claims = (is_claimed(*draw_study(arms, world, generator), generator) for _ in range(trials))
                rates.append(sum(claims) / trials)
            sizes.append(rates[0])
            print(f"{seeds:<8}{name:<44}{100 * rates[0]:8.1f}%{100 * rates[1]:8.1f}%")
    return max(sizes)


def keeps_more(base: Cell, cells: list[Cell], generator: np.random.Generator) -> bool:
    """The page says that V4 keeps more than V3 at some persona."""
    found = matched_differences(build_curves(cells, base), [("v4", "v3")], LEVELS, generator)
    return any(one.bound is not None and one.bound.lower > 0 for one in found)


def has_lost(base: Cell, cells: list[Cell], generator: np.random.Generator) -> bool:
    """The page shows a dose at which V3 has lost δ."""
    lost = loss_dose(build_curves(cells, base)[0], MARGIN, generator, resamples=400)
    return lost is not None and lost.shown_alpha is not None


def has_control(base: Cell, cells: list[Cell], generator: np.random.Generator) -> bool:
    """The page says that the instrument saw a loss of δ."""
    curves = build_curves(cells, base)
    tables = {f"{c.arm} {row}": c.differences[row] for c in curves for row in range(1, len(c.alphas))}
    return positive_control(tables, MARGIN, generator).is_shown


def adds_much(base: Cell, cells: list[Cell], generator: np.random.Generator) -> bool:
    """The page says that a second predictor adds .05 or more of R²."""
    gain = regression_gain(cells, base, ["noise"], ["harm"], generator)
    return gain is not None and gain.lower >= 0.05


def adds_noise(base: Cell, cells: list[Cell], generator: np.random.Generator) -> bool:
    """The same of a second predictor that means nothing."""
    gain = regression_gain(cells, base, ["harm"], ["noise"], generator)
    return gain is not None and gain.lower >= 0.05


EQUAL: Arms = {"v3": ramp(2.0), "v4": ramp(2.0)}
APART: Arms = {"v3": ramp(2.0), "v4": ramp(0.7)}
UNHARMED: Arms = {"v3": flat, "v4": flat}
STUDY_CLAIMS: dict[str, tuple[Arms, Arms, Callable[[Cell, list[Cell], np.random.Generator], bool]]] = {
    "V4 keeps more than V3 at equal persona": (EQUAL, APART, keeps_more),
    "V3 has lost δ at some dose": (UNHARMED, EQUAL, has_lost),
    "the instrument saw a loss of δ": (UNHARMED, EQUAL, has_control),
    "a predictor adds .05 of R²: the cause": (UNHARMED, APART, adds_much),
    "a predictor adds .05 of R²: noise": (APART, APART, adds_noise),
}


def print_plan(population: Population) -> None:
    """What planning promises with the spread of this population."""
    base, variant = draw(4000, 16, 0.0, population, 1)
    counts = [np.rint(16 * shares[0]).astype(int).tolist() for shares in (base, variant)]
    spread = estimate_spread(*counts, 16)
    print(f"\nplanned with ω = {100 * spread.effect_sd:.1f} points, σ² = {spread.base_variance:.3f}")
    for n, k in DESIGNS:
        power = power_non_inferiority(n, k, MARGIN, spread=spread)
        margin = achievable_margin(n, k, spread=spread)
        print(f"{f'{n} × {k}':<10} power {100 * power:5.1f}%   achievable δ {100 * margin:4.1f} points")


def main() -> None:
    """Print all tables; fail where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer evaluations a cell")
    trials = 1000 if parser.parse_args().quick else 20_000
    base, variant = draw(60, 16, 0.05, Population(), 200)
    singly = np.mean([non_inferiority(d, MARGIN).verdict.startswith("preserved") for d in variant - base])
    if not math.isclose(singly, preserved(base, variant, 16, paired)):
        sys.exit("the vectorised test disagrees with non_inferiority")
    found = print_designs(Population(), trials)
    print_designs(Population(effect_logits=1.0), trials)
    print_bootstrap(Population(), trials // 10)
    print_seeds(trials // 10)
    study = print_study(max(100, trials // 40))
    equal = print_personality(max(1000, trials // 10))
    print_plan(Population())
    size, power = (found[60, 16, "paired t (ours)", loss] for loss in (0.05, 0.0))
    print(
        f"\n60 × 16: size {100 * size:.1f}% (≤ 7), power {100 * power:.1f}% (≥ 80); "
        f"equal at 0.25 SD {100 * equal:.1f}% (≤ 7); a false claim of a study {100 * study:.1f}% (≤ 9)"
    )
    if study > LARGEST_STUDY_SIZE or max(size, equal) > LARGEST_SIZE or power < SMALLEST_POWER:
        sys.exit("the test does not keep its promise")


if __name__ == "__main__":
    main()
