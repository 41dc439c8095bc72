"""The table of neighbours that were thought of; ``make fuzz`` looks for others."""

from __future__ import annotations

from tests.fuzz.inputs import model_files, write_folder
from tests.neighbours import (
    BODY,
    SUITE,
    Neighbour,
    aliases,
    analysed,
    both,
    chain,
    damaged_model,
    diamonds,
    documents,
    folders,
    merge,
    merge_keys,
    model,
    number,
    put_file,
    recipe,
    special,
    suite,
    task,
)

LONG = "9" * 400
NEIGHBOURS: dict[str, Neighbour] = {
    # numbers
    "integer of 400 digits": number(LONG),
    "integer of 400 digits as a weight": recipe(
        f"merge_method: linear\nmodels: [{{model: ./good-model, parameters: {{weight: {LONG}}}}}]\n"
    ),
    "integer of 400 digits in a gradient": number(f"[0, {LONG}]"),
    "integer of 400 digits as seed": recipe(f"{BODY}seed: {LONG}\n"),
    "integer of 400 digits as key": recipe(f"{BODY}{LONG}: 1\n"),
    "integer of 5000 digits": number("9" * 5000),
    "hexadecimal integer of 5000 digits": number("0x" + "f" * 5000),
    "hexadecimal integer where a mapping is expected": recipe(f"merge_method: linear\nmodels: [0x{'f' * 5000}]\n"),
    "hexadecimal layers": recipe(
        f"merge_method: passthrough\nslices: [{{sources: [{{model: ./good-model, layer_range: [0, 0x{'f' * 5000}]}}]}}]\n"
    ),
    "integer in base sixty": number("1" + ":1" * 100_000),
    "fraction in base sixty": number("1" + ":1" * 100_000 + ".5"),
    "float of 100000 digits": number("1" * 100_000 + ".5"),
    "huge exponent": number("1e999999999"),
    "negative huge exponent": number("1.5e-999999999"),
    "not a number": number(".nan"),
    "infinity": number("-.inf"),
    "layers beyond all": recipe(
        "merge_method: passthrough\nslices: [{sources: [{model: ./good-model, layer_range: [0, 1000000]}]}]\n"
    ),
    "huge overlap": recipe(
        "merge_method: passthrough\ndepth_upscale: {model: ./good-model, overlap: 1000000000000000000}\n"
    ),
    "huge pad": recipe(f"{BODY}tokenizer: {{source: union, pad_to_multiple_of: {LONG}}}\n"),
    "huge layer number": recipe(
        f"merge_method: passthrough\nprune_layers: {{model: ./good-model, by: list, remove: [{LONG}]}}\n"
    ),
    "true for a number": recipe(f"{BODY}seed: true\n"),
    "date for a text": recipe(f"{BODY}description: 2024-01-31\nname: 2024-01-31\n"),
    # references
    "model of 300 letters": model("x" * 300),
    "model of 300 letters in a folder": model("./" + "x" * 300),
    "model of 300 letters that looks like the Hub": model("x" * 300 + "/" + "y" * 300),
    "model of 5000 letters": model("/x" * 2500),
    "model of a million letters": model("x" * 1_000_000),
    "home of nobody": model("~nouser/x"),
    "home of nobody as an adapter": model("./good-model+~nouser/x"),
    "home of nobody as base": recipe(f"{BODY}base_model: ~nouser/x\n"),
    "home of nobody as tokenizer": recipe(f"{BODY}tokenizer_source: ~nouser/x\n"),
    "home of nobody not stored": recipe(
        "materialize: false\nmerge_method: passthrough\nmodels: [{model: ~nouser/x}]\n"
    ),
    "home of nobody analysed": recipe(
        "merge_method: passthrough\nprune_layers: {model: ~nouser/x, by: snr, tensor: v_proj, remove: 1}\n"
    ),
    "NUL in a model": model("a\0b"),
    "NUL in a model's folder": model("./a\0b"),
    "newlines in a model": model("./a\nb\n"),
    "escape sequences in a model": model("./\x1b[2J\x1b]0;owned\x07"),
    "model is the project": model("."),
    "model is the root": model("/"),
    "model is a file": model("./recipes/good.yaml"),
    "model is below a file": model("./recipes/good.yaml/model"),
    "model is a FIFO": both(special("pipe", "fifo"), model("./pipe")),
    "model is a link to itself": both(special("loop", "loop"), model("./loop")),
    "model is a link to nowhere": both(special("lost", "gone"), model("./lost")),
    "model is /dev/zero": model("/dev/zero"),
    "model is /proc/self": model("/proc/self"),
    "model below a folder that may not be read": both(special("locked", "unreadable folder"), model("./locked/model")),
    "model is a folder that may not be read": both(special("locked", "unreadable folder"), model("./locked")),
    "model in root's folder": model("/root/models/x"),
    "Hub name below a folder that may not be read": both(special("org", "unreadable folder"), model("org/model")),
    "a URL": model("s3://bucket/model"),
    "file URL": model("file:///etc"),
    "a pinned revision": model("org/model@v1.0"),
    "revisions that differ in a slash": both(
        recipe(BODY.replace("./good-model", "org/model@a/b"), "a.yaml"),
        recipe(BODY.replace("./good-model", "org/model@a-b"), "b.yaml"),
    ),
    "Hub names that differ in a dash": recipe(
        "merge_method: linear\nmodels: ["
        + ", ".join(f"{{model: org/{name}, parameters: {{weight: 1}}}}" for name in ("a-b", "a_b", "a.b"))
        + "]\n"
    ),
    "letters that are not ASCII in a Hub name": model("é/ü"),
    **{
        f"model in a folder called {name!r}": both(
            lambda root, name=name: write_folder(root / "odd" / name, model_files()), model(f"./odd/{name}")
        )
        for name in ("my model", "ünï", "a'b\"c", "a,b;c", "$HOME", "[x]*?", "x\\y", "-", "...", "a:b", "{{x}}", "%s")
    },
    "folders that differ in a dash": both(
        *(lambda root, name=name: write_folder(root / name, model_files()) for name in ("good_model", "good.model")),
        recipe(merge("./good_model", "./good.model")),
    ),
    "a folder elsewhere of the same path": recipe(BODY.replace("./good-model", "/proc/self")),
    "broken recipes that differ in a dash": lambda root: (
        [put_file(root / "recipes", f"{name}.yaml", "merge_method: [") for name in ("a-b", "a_b", "a.b", "a b")]
        and None
    ),
    "a local folder of a recipe's name": recipe(f"name: good-model\n{BODY}evaluate: [sound]\n"),
    "keys that two models share": both(
        recipe(
            analysed("twin", "./twin"),
            "twin.yaml",
        ),
        recipe(
            analysed("user", "twin"),
            "user.yaml",
        ),
        lambda root: write_folder(root / "twin", model_files()),
    ),
    "300 models": recipe(
        "merge_method: linear\nmodels:\n"
        + "".join(f"- {{model: org/m{n}, parameters: {{weight: 1}}}}\n" for n in range(300))
    ),
    "5000 models": recipe(
        "merge_method: linear\nmodels:\n"
        + "".join(f"- {{model: org/m{n}, parameters: {{weight: 1}}}}\n" for n in range(5000))
    ),
    "10000 models in many recipes": recipe(
        documents(
            [
                f"name: r{r}\nmerge_method: linear\nmodels:\n"
                + "".join(f"- {{model: o{r}/m{n}}}\n" for n in range(200))
                for r in range(50)
            ]
        )
    ),
    # graphs of recipes
    "a chain of 2000 recipes": recipe(chain(2000)),
    "a chain of 500 recipes": recipe(chain(500)),
    "a chain of 500 recipes that are not stored": recipe(chain(500, materialize=False)),
    "diamonds of recipes that are not stored": recipe(diamonds(40)),
    "a cycle of 900 recipes": recipe(
        documents(
            [f"name: c{n}\nmerge_method: passthrough\nmodels: [{{model: c{(n + 1) % 900}}}]\n" for n in range(900)]
        )
    ),
    "900 recipes of one name": recipe(documents([f"name: same\n{BODY}"] * 900)),
    "900 recipes of a broken one": recipe(
        documents(
            [f"name: o{n}\nmerge_method: passthrough\nmodels: [{{model: x{n}}}]\n" for n in range(900)]
            + [f"name: x{n}\nmerge_method: [\n"[:-2] + "3\n" for n in range(900)]
        )
    ),
    "10000 broken recipes": recipe(documents(["name: x\n"] * 10_000)),
    "300 files of one name": lambda root: (
        [put_file(root / "recipes", f"s{n}.yaml", f"name: same\n{BODY}") for n in range(300)] and None
    ),
    # names and what Dagster is given
    "name of a million letters": recipe(f"name: {'x' * 1_000_000}\n{BODY}"),
    "name with slashes": recipe(f"name: a/b/../c\n{BODY}"),
    "name with newlines": recipe(f'name: "a\\nb\\e[31m"\n{BODY}'),
    "names that become one": both(
        recipe(f"name: a-b\n{BODY}", "1.yaml"),
        recipe(f"name: a_b\n{BODY}", "2.yaml"),
        recipe(f"name: a__b\n{BODY}", "3.yaml"),
        recipe(f"name: A_b\n{BODY}", "4.yaml"),
    ),
    "reserved names": lambda root: (
        [
            put_file(root / "recipes", f"{name}.yaml", BODY)
            for name in (
                "broken",
                "leaderboard",
                "base_checkpoints",
                "base",
                "variants",
                "scores",
                "snr",
                "build",
                "nightly",
                "null",
                "CON",
                "automation",
                "__ASSET_JOB",
                "broken_recipes",
            )
        ]
        and None
    ),
    "broken recipes of reserved names": lambda root: (
        [
            put_file(root / "recipes", f"{name}.yaml", "merge_method: [")
            for name in ("broken", "leaderboard", "good2", "good.x")
        ]
        and None
    ),
    "private tag of Dagster": recipe(f"{BODY}tags: {{.dagster/secret: x}}\n"),
    "tag of Dagster": recipe(
        f"{BODY}tags: {{dagster/max_retries: x, dagster/priority: zzz, dagster/concurrency_key: x}}\n"
    ),
    "tag of ours": recipe(f"{BODY}tags: {{automation: x, method: y}}\n"),
    "1000 tags": recipe(f"{BODY}tags: {{{', '.join(f't{n}: x' for n in range(1000))}}}\n"),
    "tag values that Dagster refuses": recipe(f"{BODY}tags: {{a: -x, b: x., _: _, -: .}}\n"),
    "odd owners": recipe(f"{BODY}owners: ['team:', 'team:a b', 'team:{'x' * 5000}', 'a@b.co', 'team:\\x']\n"),
    "odd owner": recipe(f"{BODY}owners: ['team:{'x' * 5000}', 'team:é', 'team:!']\n"),
    "owner twice": recipe(f"{BODY}owners: [team:a, team:a]\n"),
    "long group": recipe(f"{BODY}group: {'/'.join(['x' * 300] * 100)}\n"),
    "odd groups": recipe(f"{BODY}group: _\n"),
    "cron of no day": recipe(f"{BODY}schedule: 0 0 30 2 *\n"),
    "cron of a leap day": recipe(f"{BODY}schedule: 0 0 29 2 1\n"),
    "long cron": recipe(f"{BODY}schedule: '{','.join(['0'] * 100_000)} 0 * * *'\n"),
    "cron with a huge step": recipe(f"{BODY}schedule: '*/{LONG * 20} 0 * * *'\n"),
    "cron lines that differ in spaces": both(
        recipe(f"{BODY}schedule: '0 0 * * *'\n", "a.yaml"), recipe(f"{BODY}schedule: '0  0 * * *'\n", "b.yaml")
    ),
    "hostile description": recipe(
        f'{BODY}description: "```\\n</script><script>alert(1)</script>\\n![x](javascript:alert(1)) \\0 \\e[2J"\n'
    ),
    "description of a million letters": recipe(f"{BODY}description: {'x' * 1_000_000}\n"),
    "fences in a recipe": recipe(f"{BODY}# ```\n# ~~~~\n# <img src=x onerror=alert(1)>\n"),
    "fences in a broken recipe": recipe(f"{BODY}'```': 1\n"),
    "suite that is nowhere": recipe(f"{BODY}evaluate: [nowhere]\n"),
    "suites of odd names": recipe(f'{BODY}evaluate: ["a/b", "../x", "\\n\\e[2J", "{"y" * 100_000}", ""]\n'),
    "10000 suites": recipe(f"{BODY}evaluate: [{', '.join(f's{n}' for n in range(10_000))}]\n"),
    "surrogates in text": recipe(f'{BODY}description: "\\ud800"\n'),
    # YAML
    "merge keys": recipe(merge_keys(40)),
    "merge keys of one": recipe(merge_keys(39, 1)),
    "aliases": recipe(aliases(30)),
    "aliases in every document": recipe(
        documents([f"x-a: &a [{'x, ' * 100}]\nx-b: [{'*a, ' * 400}]\nname: n{n}\n{BODY}" for n in range(300)])
    ),
    "deep nesting": recipe("[" * 100_000),
    "deep mappings": recipe("{a: " * 10_000),
    "python": recipe("merge_method: !!python/object/apply:os.system [id]\n"),
    "not text": recipe(b"\xff\xfe\x00\x01"),
    "NUL bytes": recipe(b"\0" * 1000),
    "two mebibytes": recipe(b"# " + b"x" * (2 << 20)),
    "empty": recipe(""),
    "a list": recipe("- 1\n"),
    "keys of all kinds": recipe("? [1]\n: 2\n"),
    "directives": recipe("%YAML 9.9\n%TAG ! tag:x\n---\na: 1\n"),
    "one long line of keys": recipe("{" + ", ".join(f"k{n}: 1" for n in range(20_000)) + "}"),
    # files
    **{
        f"recipe: {kind}": special("recipes/bad.yaml", kind)
        for kind in (
            "fifo",
            "socket",
            "folder",
            "unreadable file",
            "unreadable folder",
            "bad.yaml",
            "gone.yaml",
            "/dev/zero",
            "/dev/stdin",
            "/dev/tty",
            "/proc/self/mem",
            "/proc/kmsg",
            "/proc/self/environ",
            "/etc/shadow",
            "/sys/kernel/debug/tracing/trace_pipe",
            "good.yaml",
            "..",
        )
    },
    "links in a circle": both(special("recipes/a.yaml", "b.yaml"), special("recipes/b.yaml", "a.yaml")),
    "folders that link to themselves": both(special("recipes/sub", "."), special("recipes/up", "..")),
    "name that is not UTF-8": recipe(BODY, b"bad\xff\xfe.yaml"),
    "named recipe in a file whose name is not UTF-8": recipe(f"name: hidden\n{BODY}", b"bad\xff.yaml"),
    "named recipe in a folder whose name is not UTF-8": recipe(f"name: hidden\n{BODY}", b"bad\xff/x.yaml"),
    "file name with newlines": recipe(f"name: hidden\n{BODY}", b"bad\n\x1b[31m.yaml"),
    "broken recipe in a file with an odd name": recipe("merge_method: [", b"a`b```c<b>[x](y).yaml"),
    "folder name with newlines": recipe(f"name: hidden\n{BODY}", b"a\nb/x.yaml"),
    "folder of an odd name": recipe(f"name: hidden\n{BODY}", "ü é-%20 {x}/…/x.yaml"),
    "deep folders": folders(60),
    "very deep folders": folders(1500),
    "folders deeper than paths": folders(300, "x" * 100),
    "unreadable folder": special("recipes/locked", "unreadable folder"),
    # suites
    **{
        f"suite: {kind}": both(special("suites/bad.yaml", kind), suite("", "other.txt"))
        for kind in (
            "fifo",
            "socket",
            "folder",
            "unreadable file",
            "unreadable folder",
            "bad.yaml",
            "gone.yaml",
            "/dev/zero",
            "/proc/self/mem",
            "/proc/kmsg",
            "..",
        )
    },
    "suite: integer of 400 digits": suite(f"seed: {LONG}\ntasks: [{{task: a, metric: acc}}]\n"),
    "suite: shots of 4000 digits": suite(f"tasks: [{{task: a, metric: acc, shots: {'9' * 4000}}}]\n"),
    "suite: hexadecimal seed": suite(f"seed: 0x{'f' * 5000}\ntasks: [{{task: a, metric: acc}}]\n"),
    "suite: base sixty": suite(f"seed: 1{':1' * 100_000}\ntasks: [{{task: a, metric: acc}}]\n"),
    "suite: limit": suite("tasks: [{task: a, metric: acc, limit: .nan}]\n"),
    "suite: huge limit": suite(f"tasks: [{{task: a, metric: acc, limit: {LONG}}}]\n"),
    "suite: merge keys": suite(merge_keys(40) + "tasks: [{task: a, metric: acc}]\n"),
    "suite: aliases": suite(aliases(30)),
    "suite: many keys": suite("\n".join(f"k{n}: 1" for n in range(100_000))),
    "suite: deep": suite("[" * 100_000),
    "suite: date": suite("description: 2024-13-45\ntasks: [{task: a, metric: acc}]\n"),
    "suite: two documents": suite(f"{SUITE}---\n{SUITE}"),
    "suite: NUL in include_path": suite('include_path: "a\\0b"\ntasks: [{task: a, metric: acc}]\n'),
    "suite: long include_path": suite(f"include_path: {'x' * 300}\ntasks: [{{task: a, metric: acc}}]\n"),
    "suite: include_path is everything": suite("include_path: /\ntasks: [{task: a, metric: acc}]\n"),
    "suite: include_path is /proc": suite("include_path: /proc\ntasks: [{task: a, metric: acc}]\n"),
    "suite: include_path may not be read": both(
        special("suites/locked", "unreadable folder"), suite("include_path: locked\ntasks: [{task: a, metric: acc}]\n")
    ),
    "suite: include_path below what may not be read": both(
        special("suites/locked", "unreadable folder"),
        suite("include_path: locked/tasks\ntasks: [{task: a, metric: acc}]\n"),
    ),
    "suite: include_path is a loop": both(
        special("suites/loop", "loop"), suite("include_path: loop\ntasks: [{task: a, metric: acc}]\n")
    ),
    "suite: 10000 tasks": suite("tasks:\n" + "".join(f"- {{task: t{n}, metric: acc}}\n" for n in range(10_000))),
    "suite: name that is not UTF-8": suite(SUITE, b"bad\xff.yaml"),
    "suite: surrogates": suite('description: "\\ud800"\ntasks: [{task: a, metric: acc}]\n'),
    "suite: escape sequences": suite('description: "\\e[2J"\ntasks: [{task: "\\e]0;x\\a`", metric: "```"}]\n'),
    # tasks
    **{
        f"task: {kind}": both(task("", "other.txt"), special("suites/tasks/t.yaml", kind))
        for kind in ("fifo", "socket", "unreadable file", "t.yaml", "gone.yaml", "/dev/zero", "/proc/kmsg")
    },
    "task: python": task("task: t\ndoc_to_text: !!python/object/apply:os.system [id]\n"),
    "task: merge keys": task("task: t\n" + merge_keys(40)),
    "task: aliases": task("task: t\n" + aliases(30)),
    "task: base sixty": task(f"task: t\nx: 1{':1' * 100_000}\n"),
    "task: deep": task("[" * 100_000),
    "task: includes itself": task("task: t\ninclude: t.yaml\n"),
    "task: includes /dev/zero": task("task: t\ninclude: /dev/zero\n"),
    "task: includes a FIFO": both(task("task: t\ninclude: pipe\n"), special("suites/tasks/pipe", "fifo")),
    "task: 2000 includes in a row": both(
        task("task: t\ninclude: i0\n"),
        lambda root: [put_file(root / "suites/tasks", f"i{n}", f"include: i{n + 1}\n") for n in range(2000)] and None,
    ),
    "task: tags of all kinds": task("task: t\ntag: 5\n"),
    "task: tag is a mapping": task("task: t\ntag: {a: 1}\ngroup: [1]\n"),
    "task: members of all kinds": task("group: t\ntask: [1, null, {task: [t]}, t, [[t]]]\n"),
    "task: data is everything": task("task: t\ndataset_path: json\ndataset_kwargs: {data_files: '/**'}\n"),
    "task: data is below everything": task(
        "task: t\ndataset_path: json\ndataset_kwargs: {data_files: '**/nothing-of-that-name.jsonl'}\n"
    ),
    "task: data is /dev/zero": task("task: t\ndataset_path: json\ndataset_kwargs: {data_files: /dev/zero}\n"),
    "task: data is a FIFO": both(
        task("task: t\ndataset_path: json\ndataset_kwargs: {data_files: pipe}\n"), special("suites/tasks/pipe", "fifo")
    ),
    "task: data has a NUL": task('task: t\ndataset_path: json\ndataset_kwargs: {data_files: "a\\0b"}\n'),
    "task: data is long": task(f"task: t\ndataset_path: json\ndataset_kwargs: {{data_files: {'x' * 5000}}}\n"),
    "task: function beside a FIFO": both(
        task("task: t\ndoc_to_text: !function utils.x\n"), special("suites/tasks/pipe", "fifo")
    ),
    "task: function beside /dev/zero": both(
        task("task: t\ndoc_to_text: !function utils.x\n"), special("suites/tasks/zero", "/dev/zero")
    ),
    "task: function of no name": task("task: t\ndoc_to_text: !function [1]\n"),
    "task: deep folders": both(task("task: t\n"), folders(1500, where="suites/tasks")),
    # checkpoints
    **{
        f"checkpoint: {name} is a {kind}": damaged_model(name, f"!{kind}")
        for name in (
            "config.json",
            "tokenizer.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
        )
        for kind in ("fifo", "unreadable file", "/dev/zero")
    },
    **{
        f"checkpoint: config: {text[:40]}": damaged_model("config.json", text)
        for text in (
            '{"architectures": {"a": 1}}',
            '{"architectures": 5}',
            '{"architectures": [[]], "num_hidden_layers": ' + LONG + "}",
            '{"num_hidden_layers": ' + "9" * 5000 + "}",
            "[" * 100_000,
            '{"peft_type": []}',
            '{"architectures": ["\\u001b[2J"], "num_hidden_layers": 3}',
            "",
            "{}",
        )
    },
    "checkpoint: a file whose name is not UTF-8": both(
        damaged_model("config.json", "{}"), lambda root: put_file(root / "bad-model", b"\xff.model", "x")
    ),
    "checkpoint: sound, with a file whose name is not UTF-8": both(
        lambda root: write_folder(root / "bad-model", model_files()),
        model("./bad-model"),
        lambda root: put_file(root / "bad-model", b"\xff.model", "x"),
    ),
    "checkpoint: an adapter that cannot be read": both(
        special("adapter", "unreadable folder"), model("./good-model+./adapter")
    ),
}
"""Each by what it is."""
