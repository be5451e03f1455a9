"""`raycrnn words`: draw synthetic text lines, with the CSVs that list them."""

import json
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn.cli import Command, Metavar
from raycrnn.config import describe_keys
from raycrnn.data.synthetic import recipe
from raycrnn.errors import UsageError

if TYPE_CHECKING:
    from raycrnn.data.synthetic.generator import LineGenerator

logger = logging.getLogger("raycrnn.words")

OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


class Words(Command):
    """Draw synthetic text lines: text from files, word lists or patterns, in the fonts of folders, on worn paper.

    Writes OUTPUT/train.csv, OUTPUT/eval.csv and OUTPUT/images/. No text of an evaluation line is in training. The same
    recipe and seed give the same lines.
    """

    epilog: ClassVar[str] = (
        "Examples:\n"
        "  raycrnn words plates text.pattern='[A-Z]{2}-[0-9]{4}'\n"
        "  raycrnn words captcha examples/captcha.json --count 5000 --eval-count 500\n"
        "  raycrnn words --contact-sheet look.png text.language=el fonts.files=fonts\n\n"
        "Keys of a recipe; a range is a number or [minimum, maximum]:\n\n" + describe_keys(recipe.Recipe).strip("\n")
    )

    arguments: CliPositionalArg[Annotated[list[str], Metavar("ARGUMENT")]] = Field(min_length=1)
    """OUTPUT, a new or empty directory for the CSVs and images (not with --contact-sheet); a recipe, whose name ends in
    .json; and KEY=VALUE for keys of the recipe, such as text.language=en. A recipe or a source of text is required."""
    count: Annotated[int, Field(ge=0)] = 10_000
    """Number of training lines; with 0, there is no train.csv."""
    eval_count: Annotated[int, Field(ge=0)] = 1_000
    """Number of evaluation lines; with 0, there is no eval.csv."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Seed of all random choices."""
    contact_sheet: Annotated[Path | None, Metavar("FILE.png")] = None
    """Write one picture with some lines and their labels, and no set."""
    overwrite: bool = False
    """Replace the set in OUTPUT, or the contact sheet."""
    address: Annotated[str | None, Metavar("ADDRESS")] = None
    """Ray cluster to run on. Default: the environment variable RAY_ADDRESS, else this process for few lines and a local
    Ray for many."""
    as_json: Annotated[bool, Field(alias="json")] = False
    """Also print the result as a JSON object, on the last line of stdout."""

    def run(self) -> None:
        output, settings = self._parsed()
        # Here, because `--help` needs none of them.
        from raycrnn.data.synthetic.generator import LineGenerator
        from raycrnn.tools import word_sets

        import_seconds = time.process_time()
        generator = LineGenerator(settings, self.seed)
        left_out = self._left_out(generator)
        if self.contact_sheet:
            word_sets.write_contact_sheet(self.contact_sheet, generator, self.overwrite)
            result: dict = {"contact_sheet": str(self.contact_sheet)}
            print(f"{self.contact_sheet}: {word_sets.SHEET_LINES} lines")
        else:
            assert output
            generators = {"train": (generator, self.count)} if self.count else {}
            if self.eval_count:
                generators["eval"] = LineGenerator(settings, self.seed, "eval"), self.eval_count
            result = word_sets.write_sets(Path(output), generators, self.overwrite, self.address, import_seconds)
            for each in result.values():
                print("{file}: {lines:,} lines, {texts:,} different texts, {characters:,} characters".format(**each))
        if self.as_json:
            print(json.dumps(result | left_out))

    def _parsed(self) -> tuple[str | None, recipe.Recipe]:
        """Return OUTPUT, which is None if only a contact sheet is wanted, and the recipe."""
        overrides = [text for text in self.arguments if OVERRIDE.match(text)]
        names = [text for text in self.arguments if text not in overrides]
        recipes = [name for name in names if name.lower().endswith(".json")]
        outputs = [name for name in names if name not in recipes]
        if not self.count and not self.eval_count:
            raise UsageError("--count and --eval-count are both 0: there is nothing to write")
        if len(recipes) > 1:
            raise UsageError(f"{', '.join(recipes)}: one recipe at a time")
        if self.contact_sheet and outputs:
            raise UsageError(f"{outputs[0]}: --contact-sheet writes no set: leave the directory out")
        if not self.contact_sheet and len(outputs) != 1:
            named = f", not {', '.join(outputs)}" if outputs else ", such as `raycrnn words captcha captcha.json`"
            raise UsageError(f"name one directory to write to{named}")
        return outputs[0] if outputs else None, recipe.load(recipes[0] if recipes else None, overrides)

    def _left_out(self, generator: "LineGenerator") -> dict:
        """Log which words and fonts are not used, and return their numbers for JSON."""
        refusals, skipped = generator.source.refusals, generator.source.fonts.skipped
        if refusals.count:
            logger.warning(str(refusals))
        return {
            "left_out": {"words": refusals.count, "reasons": dict(refusals.reasons), "examples": refusals.examples},
            "skipped_fonts": dict(skipped),
        }


if __name__ == "__main__":
    Words.main()
