"""Builds killed at every step of every scenario: how many steps there are, and which end wrong.

``python -m tests.faults.every_build_step [--only bucket]``; it starts an S3 server of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.build_steps import Builds, Scenario, outcomes, write_project
from tests.s3.rgw import Rgw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="part of the scenarios' names, such as `bucket resumed`")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th step only")
    parser.add_argument("--workers", type=int, default=2, help="builds at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steps-") as folder, Rgw() as rgw:
        root = write_project(Path(folder) / "project")
        for where, bucket, more in (("local", "", {}), ("bucket", rgw.bucket("steps"), rgw.options())):
            for kind in ("first", "resumed", "reusing", "reusing resumed"):
                title = f"{where} {kind}"
                if options.only not in title:
                    continue
                scenario = Scenario(root, bucket, more, reuses="reusing" in kind)
                whole = Builds(scenario, root / title.replace(" ", "-")).whole
                if "resumed" in kind:
                    # Killed when it had computed some and sent some, but not all.
                    scenario = Scenario(root, bucket, more, "reusing" in kind, whole.commit * 3 // 4)
                    whole = Builds(scenario, root / f"{title.replace(' ', '-')}-whole").whole
                place = root / f"{title.replace(' ', '-')}-kills"
                place.mkdir()
                wrong = Counter[str]()
                ended: list[bool] = []
                # Threads make a few steps more or less.
                for one in outcomes(scenario, place, range(1, len(whole.steps) + 10, options.every), options.workers):
                    ended.append(bool(one.problems))
                    wrong.update({problem.partition("\n")[0][:150] for problem in one.problems})
                    for problem in one.problems:
                        print(f"  {title} {one.step} {one.what[:120]}: {problem}", flush=True)
                print(f"{title}: {len(whole.steps)} steps, {len(ended)} kills, {sum(ended)} ended wrong", flush=True)
                for problem, times in wrong.most_common():
                    print(f"  {times:4} {problem}", flush=True)


if __name__ == "__main__":
    main()
