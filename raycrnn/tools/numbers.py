"""`raycrnn numbers`: make a data set of numbers from MNIST's digits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn.cli import Command
from raycrnn.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

Count = Annotated[int, Field(ge=1)]


class Numbers(Command):
    """Compose images of numbers from MNIST's digits: a small data set for trying out raycrnn.

    Writes OUTPUT/train.csv, OUTPUT/eval.csv and OUTPUT/images/. No digit image is used in both sets.
    """

    epilog: ClassVar[str] = (
        "Example: raycrnn numbers t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz numbers --count 2000"
    )

    images: CliPositionalArg[Path]
    """IDX file of MNIST's images, gzip-compressed or not."""
    labels: CliPositionalArg[Path]
    """IDX file of their labels, gzip-compressed or not."""
    output: CliPositionalArg[Path]
    """New or empty directory to write to."""
    count: Count = 10_000
    """Number of training images."""
    eval_count: Count = 1_000
    """Number of evaluation images."""
    eval_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the digit images that is reserved for the evaluation images."""
    least: Count = 3
    """Minimum number of digits in an image."""
    most: Count = 8
    """Maximum number of digits in an image."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random choices."""
    as_json: Annotated[bool, Field(alias="json")] = False
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        if self.least > self.most:
            raise UsageError(f"--least {self.least} is greater than --most {self.most}")
        # Here, because `--help` needs neither NumPy nor Pillow.
        import numpy as np

        from raycrnn.tools.mnist_numbers import draw_numbers, read_digits, split_digits, write_sets

        digits, labels = read_digits(self.images, self.labels)
        split_generator, *generators = np.random.default_rng(self.seed).spawn(3)
        pools = split_digits(len(digits), self.eval_share, split_generator)
        counts = (self.count, self.eval_count)
        sets = {
            name: draw_numbers(pool, count, self.least, self.most, random)
            for name, pool, count, random in zip(("train", "eval"), pools, counts, generators, strict=True)
        }
        write_sets(self.output, digits, labels, sets)
        self._print(sets, pools)

    def _print(self, sets: Mapping[str, Sequence["np.ndarray"]], pools: Sequence["np.ndarray"]) -> None:
        results = {
            name: {"file": f"{self.output / name}.csv", "numbers": len(numbers), "digit_images": len(pool)}
            for (name, numbers), pool in zip(sets.items(), pools, strict=True)
        }
        for result in results.values():
            print("{file}: {numbers} numbers, composed from {digit_images} digit images".format(**result))
        if self.as_json:
            print(json.dumps(results))


if __name__ == "__main__":
    Numbers.main()
