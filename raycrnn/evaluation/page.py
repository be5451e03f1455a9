"""Templates of self-contained HTML pages, which request nothing from the network."""

from importlib import resources

import jinja2

from raycrnn.evaluation.alignment import visible


def template(package: str) -> jinja2.Template:
    """Return the template `report.html` of a package, which may extend `page.html` and import from `lines.html`."""

    def read(name: str) -> str:
        origin = "raycrnn.evaluation" if name in ("page.html", "lines.html") else package
        return resources.files(origin).joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["visible"] = visible
    return environment.get_template("report.html")
