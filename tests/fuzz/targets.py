"""What is fuzzed: the entry points that read what others wrote. Each takes raw bytes and may only end as a guard allows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from merge_assets import api
from merge_assets.checkpoint import open_checkpoint
from merge_assets.errors import HubError
from merge_assets.importing.config import import_text
from merge_assets.methods import methods
from merge_assets.plan.layer_map import layer_map
from merge_assets.plan.parameter_table import parameter_table
from merge_assets.recipe.load import BrokenRecipe, read_file
from merge_assets.settings import Settings
from tests import hostile, neighbours
from tests.checkpoint_support import raw_file
from tests.fuzz.guard import FuzzFailure, check_message, guarded
from tests.fuzz.inputs import RECIPES, adapter_files, model_files, pickled_files, quantised_files, write_folder

_SMALL = 1 << 20
"""Bytes that a merge may write; sound inputs give a hundredth."""


class _NoHub:
    """In place of the Hub, so that a fuzzer asks nothing of the network."""

    def resolve(self, reference: object) -> None:
        raise HubError(reference, "there is no network here", "offline")


class Project:
    """A project folder with a sound model ``good``, the model ``m`` and the ``adapter`` that inputs replace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        methods()  # finds plugins along sys.path, once in a process
        self._files = model_files()
        self._adapter = adapter_files()
        write_folder(root / "good", self._files)
        write_folder(root / "m", self._files)
        write_folder(root / "adapter", self._adapter)

    @staticmethod
    def sound() -> dict[str, bytes]:
        """The sound files that inputs replace, by name."""
        return adapter_files() | model_files()

    def warm_up(self) -> None:
        """Merge every recipe once, so that what is imported then does not count for an input."""
        for text in RECIPES.values():
            file = self.root / "recipe.yaml"
            file.write_text(text)
            api.merge(
                self._workspace(), api.load_recipe(file), self.root / "out", overwrite=True, device="cpu", threads=1
            )

    def _workspace(self) -> api.Workspace:
        workspace = api.Workspace.open(
            Settings(root=self.root, recipes=[], store=str(self.root / "store"), allow_pickle=True)
        )
        workspace.__dict__["hub"] = _NoHub()
        return workspace

    def plan(self, recipe: str) -> None:
        """Plan a recipe, as the command line does, and merge it where it can be planned."""
        file = self.root / "recipe.yaml"
        file.write_text(recipe, encoding="utf-8", errors="surrogatepass")
        with guarded(self.root):
            loaded = api.load_recipe(file)
            plan = api.plan(self._workspace(), loaded)
            layer_map(plan)
            parameter_table(plan)
            if plan.bytes_to_write < _SMALL:
                api.merge(self._workspace(), loaded, self.root / "out", overwrite=True, device="cpu", threads=1)

    def model(self, changes: dict[str, bytes], recipe: str) -> None:
        """Open and plan with a model of which some files are replaced."""
        write_folder(self.root / "m", {**self._files, **changes})
        with guarded(self.root):
            checkpoint = open_checkpoint(self.root / "m")
            assert checkpoint.layer_count >= 0 and checkpoint.nbytes >= 0 and checkpoint.tied in (True, False)
        self.plan(RECIPES[recipe])

    def model_of(self, files: dict[str, bytes]) -> None:
        """Merge a model that consists of these files."""
        write_folder(self.root / "m", files)
        self.plan(RECIPES["passthrough"])

    def adapter(self, changes: dict[str, bytes]) -> None:
        """Plan with an adapter of which some files are replaced."""
        write_folder(self.root / "adapter", {**self._adapter, **changes})
        self.plan(RECIPES["adapter"])

    def recipe(self, data: bytes) -> None:
        """Read a file of recipes, and plan each that is sound."""
        file = self.root / "recipe.yaml"
        file.write_bytes(data)
        with guarded(self.root):
            entries = read_file(file)
        for entry in entries:
            if isinstance(entry, BrokenRecipe):
                check_message(str(entry.error))
            elif all(str(ref).startswith("./") and ".." not in str(ref) for ref in entry.references()):
                with guarded(self.root):
                    api.plan(self._workspace(), entry)

    def importing(self, data: bytes) -> None:
        """Find a merge config in any text."""
        text = data.decode("utf-8", "replace")
        with guarded(self.root):
            found = import_text(text, Path("page.html"), "page")
            if not found.recipes or not found.text.endswith("\n"):
                raise FuzzFailure("imported nothing without saying so")

    def beside(self, data: bytes) -> None:
        """A good recipe beside a hostile neighbour; the first byte says which file the others are."""
        places = (
            "recipes/bad.yaml",
            "suites/bad.yaml",
            "suites/tasks/t.yaml",
            "bad-model/config.json",
            "recipes/model",
            "recipes/name",
        )
        place, content = places[data[0] % len(places)] if data else places[0], data[1:]

        def put(root: Path) -> None:
            write_folder(root / "bad-model", self._files)
            (root / "suites" / "tasks").mkdir()
            (root / "suites" / "bad.yaml").write_text("include_path: tasks\ntasks: [{task: t, metric: acc}]\n")
            neighbours.model("./bad-model", "evaluate: [bad]\n")(root)
            if place == "recipes/model":
                neighbours.model(content.decode("utf-8", "replace"))(root)
            elif place == "recipes/name":
                name = content.replace(b"/", b"").replace(b"\0", b"")[:200] + b".yaml"
                neighbours.recipe(neighbours.BODY, b"x" + name)(root)
            else:
                (root / place).write_bytes(content)

        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            hostile.look_beside(Path(folder) / "project", put)

    def header(self, data: bytes) -> None:
        """The JSON of a safetensors header, with the data of the sound file behind it."""
        name = "model-00001-of-00002.safetensors"
        sound = self.sound()[name]
        start = 8 + int.from_bytes(sound[:8], "little")
        self.model({name: raw_file(data, sound[start:])}, "linear")


TARGETS: dict[str, Callable[[Project, bytes], None]] = {
    "recipe": Project.recipe,
    "import": Project.importing,
    "header": Project.header,
    "shard": lambda project, data: project.model({"model-00001-of-00002.safetensors": data}, "passthrough"),
    "index": lambda project, data: project.model({"model.safetensors.index.json": data}, "passthrough"),
    "config": lambda project, data: project.model({"config.json": data}, "stack"),
    "generation": lambda project, data: project.model({"generation_config.json": data}, "union"),
    "tokenizer": lambda project, data: project.model({"tokenizer.json": data}, "union"),
    "tokenizer_config": lambda project, data: project.model({"tokenizer_config.json": data}, "tokenizer"),
    "adapter": lambda project, data: project.adapter({"adapter_config.json": data}),
    "scales": lambda project, data: project.model_of(quantised_files() | {"model.safetensors": data}),
    "quantisation": lambda project, data: project.model_of(quantised_files() | {"config.json": data}),
    "pickle": lambda project, data: project.model_of(pickled_files() | {"pytorch_model.bin": data}),
    "project": Project.beside,
}
"""What one file of raw bytes becomes, by the name of the target."""

SEEDS = {
    "shard": "model-00001-of-00002.safetensors",
    "index": "model.safetensors.index.json",
    "config": "config.json",
    "generation": "generation_config.json",
    "tokenizer": "tokenizer.json",
    "tokenizer_config": "tokenizer_config.json",
    "adapter": "adapter_config.json",
}
"""Target -> the sound file that it starts from, where it is one file."""


def seeds(project: Project, target: str) -> list[bytes]:
    """Sound inputs of a target."""
    if target in SEEDS:
        return [project.sound()[SEEDS[target]]]
    if target in ("scales", "quantisation"):
        return [quantised_files()["model.safetensors" if target == "scales" else "config.json"]]
    if target == "pickle":
        return [pickled_files()["pytorch_model.bin"]]
    if target == "header":
        sound = project.sound()["model-00001-of-00002.safetensors"]
        return [sound[8 : 8 + int.from_bytes(sound[:8], "little")]]
    texts = [text.encode() for text in RECIPES.values()]
    if target == "project":
        suite = b"description: x\ninclude_path: tasks\ntasks: [{task: t, metric: acc, shots: 0, limit: 0.5}]\nseed: 1\n"
        task = (
            b"task: t\ntag: [x]\ndataset_path: json\ndataset_kwargs: {data_files: {test: x.jsonl}}\nx: !function a.b\n"
        )
        return [
            b"\0" + hostile.GOOD.encode(),
            b"\1" + suite,
            b"\2" + task,
            b"\3" + project.sound()["config.json"],
            b"\4./good-model",
            b"\5name",
        ]
    if target == "import":
        texts += [b"```yaml\n" + text + b"```\n" for text in texts] + [b"<pre>" + text + b"</pre>" for text in texts]
    return texts
