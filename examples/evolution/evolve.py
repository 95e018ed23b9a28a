"""Breed a circuit: generation after generation is measured on the boards of a farm.

    icefarm up                                    # in another terminal
    python examples/evolution/evolve.py --generations 20 --population 16 --boards 4

The first ancestor is a divider of the board's clock that makes 1,000 pulses a second; the fittest
is who comes nearest to 3,000. Needs icepack and iceunpack (Debian: fpga-icestorm), and matplotlib.
"""

import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, TextIO

import typer
from genome import Design, Genome, cross, mutate
from plot import draw

import icefarm

_ANCESTOR = Path(__file__).parents[1] / "circuits" / "pulse_1khz.bin"
_PARENTS = 4


@dataclass(frozen=True)
class Measured:
    """A circuit of a generation, and what a board made of it: a line of the results' file."""

    generation: int
    circuit: int
    genome: Genome
    board: str
    pulses: int | None
    error: str | None
    fitness: float
    at: float
    """When the result came, in seconds since 1970."""


def fitness_of(pulses: int | None, target: int) -> float:
    """From 0, for a silent circuit or an error, to 1, for exactly the target."""
    return min(pulses, target) / max(pulses, target) if pulses else 0.0


def measure(
    boards: icefarm.Reservation,
    design: Design,
    population: list[Genome],
    generation: int,
    target: int,
    results: TextIO,
) -> list[Measured]:
    """Measure each circuit of a generation once, on whichever board is free."""
    bitstreams = (design.bitstream(genome) for genome in population)
    measured = []
    for result in boards.evaluate(bitstreams):
        one = Measured(
            generation,
            result.index,
            population[result.index],
            result.board,
            result.pulses,
            None if result.error is None else str(result.error),
            fitness_of(result.pulses, target),
            time.time(),
        )
        print(json.dumps(asdict(one)), file=results, flush=True)
        measured.append(one)
    # They came in the order in which boards were done; the same seed is to give the same run.
    return sorted(measured, key=lambda one: one.circuit)


def breed(measured: list[Measured], rng: random.Random) -> list[Genome]:
    """The next generation: the best as it is, and mutated children of the best few.

    Of circuits that are equally fit only one is a parent, or all would soon be one family.
    """
    different = {one.fitness: one.genome for one in measured}
    parents = [different[fitness] for fitness in sorted(different, reverse=True)[:_PARENTS]]
    children: list[Genome] = []
    while len(children) < len(measured) - 1:
        # Twice each, since there may be only one.
        mother, father = rng.sample(2 * parents, 2)
        children.append(mutate(cross(mother, father, rng), rng))
    return [parents[0], *children]


def main(
    generations: Annotated[int, typer.Option(min=1)] = 20,
    population: Annotated[int, typer.Option(min=2, help="Circuits of a generation.")] = 16,
    boards: Annotated[int, typer.Option(min=1)] = 4,
    target: Annotated[int, typer.Option(min=1, help="Pulses in a second.")] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 11,
    results: Annotated[Path, typer.Option(help="JSON lines.")] = Path("evolution.jsonl"),
    picture: Annotated[Path, typer.Option(help="SVG or PNG.")] = Path("evolution.svg"),
    disturbances: Annotated[
        Path | None, typer.Option(help="What to mark in the picture, see plot.py.")
    ] = None,
) -> None:
    """Breed a circuit that makes TARGET pulses a second."""
    rng = random.Random(seed)
    design, ancestor = Design.of(_ANCESTOR)
    circuits = [mutate(ancestor, rng) for _ in range(population)]
    # A client that has lost its network for a minute still has its boards.
    with (
        results.open("w") as file,
        icefarm.Client(grace=90) as farm,
        farm.reserve(boards, wait=600) as held,
    ):
        for generation in range(generations):
            began = time.monotonic()
            measured = measure(held, design, circuits, generation, target, file)
            best = max(measured, key=lambda one: one.fitness)
            print(
                f"generation {generation + 1:3}: {len(measured)} results in "
                f"{time.monotonic() - began:.1f} s; the best makes {best.pulses} pulses, "
                f"fitness {best.fitness:.4f}",
                flush=True,
            )
            circuits = breed(measured, rng)
    draw(results, picture, disturbances)
    print(f"{results} has all results, {picture} shows them")


if __name__ == "__main__":
    typer.run(main)
