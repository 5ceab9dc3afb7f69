"""The tutorial, a notebook that is kept with what its cells show.

python -m tests.helpers.tutorial    runs docs/tutorial.ipynb and keeps its outputs
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parent.parent.parent / "docs" / "tutorial.ipynb"
#: Entry of its metadata: the hash of the cells that were run.
EXECUTED = "executed"


def read() -> Any:
    """The notebook as it is kept."""
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def source_hash(notebook: Any) -> str:
    """A hash of the sources of the code cells, in order."""
    text = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(text.encode()).hexdigest()


def executed(notebook: Any, folder: Path) -> Any:
    """The notebook after all its cells have run in a folder. Raises CellExecutionError where one fails."""
    from nbclient import NotebookClient

    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    done = client.execute()
    for cell in done.cells:
        cell.metadata.pop("execution", None)  # times
    done.metadata["language_info"] = {"name": "python"}
    done.metadata[EXECUTED] = source_hash(done)
    return done


if __name__ == "__main__":
    import nbformat

    with tempfile.TemporaryDirectory() as place:
        nbformat.write(executed(read(), Path(place)), NOTEBOOK)
