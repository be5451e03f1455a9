"""What is checked before the workers of a run start."""

import pytest

from raycrnn import config
from raycrnn.cluster import nodes
from raycrnn.data import csv_files
from raycrnn.errors import UsageError
from raycrnn.ingest import sample_table, training_data
from raycrnn.storage import Directory
from raycrnn.training import trainer


@pytest.mark.ray
def test_a_node_without_the_fonts_of_a_recipe_is_named(tmp_path, local_ray, monkeypatch):
    (tmp_path / "corpus.txt").write_text("quondam\n")
    recipe = tmp_path / "lines.json"
    recipe.write_text('{"text": {"files": "corpus.txt"}, "fonts": {"files": []}}')
    configuration = config.parse({"data": {"csv_files_train": str(recipe)}, "output_model_dir": str(tmp_path / "out")})
    samples, alphabet = sample_table.put_samples(
        csv_files.read_labelled_csvs([str(recipe)], configuration.data), None, configuration
    )
    data = training_data.TrainingData(alphabet, samples, None, {}, {})
    monkeypatch.setattr(nodes, "nodes_without", lambda paths: {"10.0.0.2": next(p for p in paths if "corpus" in p)})
    output = Directory(str(tmp_path))
    with pytest.raises(UsageError, match=r"corpus\.txt: exists on this machine but not on node 10\.0\.0\.2"):
        trainer.check_shared(output, data)
