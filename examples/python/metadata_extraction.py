"""Metadata of a folder of tables, extracted where the files are: one task for each file.

The tables are the CSV files that come with scikit-learn; give another folder as the first argument. Extraction is the
first of the case studies that function serving for science was built for: files stay where they are, only a few
numbers about each come back.
"""

import pathlib
import sys

from connect import ENDPOINT, client, results


def describe(path):
    """Shape of a table, and for each column its type, its range and how much is missing."""
    import csv
    import os

    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    width = max(map(len, rows))
    columns = []
    for index in range(width):
        cells = [row[index] if index < len(row) else "" for row in rows[1:]]
        numbers = []
        for cell in cells:
            try:
                numbers.append(float(cell))
            except ValueError:
                pass
        columns.append({
            "name": rows[0][index] if index < len(rows[0]) else "",
            "numeric": len(numbers) == len(cells) > 0,
            "range": [min(numbers), max(numbers)] if numbers else None,
            "missing": sum(not cell.strip() for cell in cells),
        })
    return {"bytes": os.path.getsize(path), "rows": len(rows) - 1, "columns": columns}


def default_folder():
    import sklearn.datasets

    return pathlib.Path(sklearn.datasets.__file__).parent / "data"


# Workers start in another directory.
folder = pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else default_folder()
files = sorted(folder.glob("*.csv"))
gcc = client()
describe_id = gcc.register_function(describe)
batch = gcc.create_batch()
for path in files:
    batch.add(describe_id, args=(str(path),))
task_ids = gcc.batch_run(ENDPOINT, batch)["tasks"][describe_id]
print(f"{'file':24} {'bytes':>9} {'rows':>6} {'columns':>8} {'numeric':>8} {'missing':>8}")
for path, about in zip(files, results(gcc, task_ids)):
    columns = about["columns"]
    numeric = sum(column["numeric"] for column in columns)
    missing = sum(column["missing"] for column in columns)
    print(f"{path.name:24} {about['bytes']:9} {about['rows']:6} {len(columns):8} {numeric:8} {missing:8}")
assert files, f"no CSV files in {folder}"
if len(sys.argv) == 1:
    iris = dict(zip((path.name for path in files), results(gcc, task_ids)))["iris.csv"]
    assert (iris["rows"], len(iris["columns"])) == (150, 5), iris
