"""Breed a circuit: generation after generation is measured on the boards of a farm.

    icefarm up                                    # in another terminal
    python examples/evolution/evolve.py --generations 20 --population 16 --boards 4

The first ancestor is a divider of the board's clock that makes 1,000 pulses a second; the fittest
is who comes nearest to 3,000. Needs icepack and iceunpack (Debian: fpga-icestorm), and matplotlib.
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

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


class Evolution:
    """Makes the circuits, each generation from what was measured of the one before."""

    def __init__(self, generations: int, population: int, target: int, seed: int) -> None:
        self._generations, self._population, self._target = generations, population, target
        self._rng = random.Random(seed)
        self._genomes: list[Genome] = []
        self._measured: list[Measured] = []

    def bitstreams(self) -> Iterator[bytes | None]:
        """All circuits of all generations; None while the next ones cannot be made yet."""
        design, ancestor = Design.of(_ANCESTOR)
        circuits = [mutate(ancestor, self._rng) for _ in range(self._population)]
        for generation in range(self._generations):
            if generation:
                while len(self._measured) < len(self._genomes):
                    yield None
                circuits = breed(self._measured[-self._population :], self._rng)
            self._genomes += circuits
            for genome in circuits:
                yield design.bitstream(genome)

    def take(self, result: icefarm.Result) -> Measured:
        """Judge a circuit by its result; one that has none is not fit at all."""
        generation, circuit = divmod(result.index, self._population)
        pulses, target = result.pulses, self._target
        measured = Measured(
            generation,
            circuit,
            self._genomes[result.index],
            result.board,
            pulses,
            None if result.error is None else str(result.error),
            min(pulses, target) / max(pulses, target) if pulses else 0.0,
            time.time(),
        )
        self._measured.append(measured)
        return measured

    def best(self, generation: int) -> Measured | None:
        """The fittest of a generation; None until all of it is measured."""
        members = [one for one in self._measured if one.generation == generation]
        if len(members) < self._population:
            return None
        return max(members, key=lambda one: one.fitness)


def breed(measured: list[Measured], rng: random.Random) -> list[Genome]:
    """The next generation: the best as it is, and mutated children of the best few.

    Of circuits that are equally fit only one is a parent, or all would soon be one family.
    """
    # They came in the order in which boards were done; the same seed is to give the same run.
    in_order = sorted(measured, key=lambda one: one.circuit)
    different = {one.fitness: one.genome for one in in_order}
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
    evolution = Evolution(generations, population, target, seed)
    with (
        results.open("w") as file,
        icefarm.Client() as farm,
        farm.reserve(boards, wait=600) as held,
    ):
        for result in held.evaluate(evolution.bitstreams()):
            measured = evolution.take(result)
            print(json.dumps(asdict(measured)), file=file, flush=True)
            best = evolution.best(measured.generation)
            if best is not None:
                print(
                    f"generation {best.generation + 1:3}: the best makes {best.pulses} pulses, "
                    f"fitness {best.fitness:.4f}",
                    flush=True,
                )
    draw(results, picture, disturbances)
    print(f"{results} has all results, {picture} shows them")


if __name__ == "__main__":
    typer.run(main)
