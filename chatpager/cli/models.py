"""The folder of the model that is to be served, found before torch is imported: that takes seconds."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from chatpager.engine.model_folder import read_json, require_folder
from chatpager.errors import ModelLoadError


def local_model(name: str) -> Path | None:
    """The folder that ``name`` is, None where it can be a name on the hub.

    Raises:
        ModelLoadError: there is no such folder, or none with a configuration. What else may be wrong with it, the
            engine's loader says.
    """
    path = Path(name).expanduser()
    if not path.exists() and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return None
    require_folder(path)
    read_json(path / "config.json", required=True)
    return path


def fetch_model(name: str, console: Console) -> Path:
    """A model of the hub; the folder of its copy here. Raises ModelLoadError: it cannot be fetched."""
    from huggingface_hub import snapshot_download

    about = f"fetching {name} from the Hugging Face hub (only safetensors, configuration and tokenizer)"
    console.print(Text(about))
    wanted = ["*.safetensors", "*.json", "tokenizer*", "*.jinja", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # whatever the hub's client raises means the same here
        raise ModelLoadError(
            name, f"no such folder, and the hub did not give it: {str(error).splitlines()[0]}"
        ) from error


def model_name(asked: str, path: Path) -> str:
    """What clients call the model: its name on the hub, whose copy here is called by its revision, or its folder's."""
    return path.name if path == Path(asked).expanduser() else asked
