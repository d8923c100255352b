"""The comparison: query decoders, v15's local paths, the product's and dense DPT, everything else equal.

python -m bench.queries --config training/queries.yaml --data DIR --val DIR --out DIR [--only v14] [--steps N]
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from spd_core import files
from spd_core.errors import SPDError
from spd_core.metrics import collapsed
from spd_core.process import keep_freed_memory
from spd_core.training import train
from spd_core.training_config import FREE_TO_CHANGE, open_validation_data, recipe
from spd_research.judging import judge, multiply_accumulates
from spd_research.model import load
from spd_research.training import QueryRun, QueryTrainConfig

# What differs from the common recipe: the query decoder, or fields of the model, with the head that its preset has.
SYSTEMS: dict[str, dict[str, Any]] = {
    "v13": {"query_decoder": "v13"},
    "v14": {"query_decoder": "v14"},
    "v15": {"model": {"decoder": "v15", "features": 64, "activation": "exp"}},
    "v15_refinenet": {"model": {"decoder": "refinenet", "features": 64, "activation": "softplus"}},
    "lite": {"model": {"decoder": "lite", "features": 96, "activation": "exp"}},
    "dpt": {"model": {"decoder": "dpt", "features": 64, "activation": "softplus"}},
}
RATES = {"full": 1.0, "third": 1 / 3}  # of the recipe's learning rates
COLUMNS = (
    "system | rate | parameters, M | M multiply-accumulates, 128 points | AbsRel | δ1 | s\\* | ms per step"
    " | AbsRel on a grid | in a crowd | alone (the same among others) | change | prediction, m | different tokens"
)


@dataclass
class ComparisonConfig(QueryTrainConfig):
    """Compare query decoders with what came after; the same command goes on with an interrupted comparison. `spd train
    --help` explains what is not said here.

    Args:
        only: systems ("v14") or single runs ("v14-third") to do, with commas between; all of them without it.
    """

    only: str | None = None


def system_config(common: QueryTrainConfig, name: str, rate: str) -> QueryTrainConfig:
    """The settings of one run: `common` with the system's own decoder and a learning rate, in a folder of its own."""
    out, factor = files.expanded(common.out) / f"{name}-{rate}", RATES[rate]
    scaled = replace(common, out=out, encoder_lr=common.encoder_lr * factor, decoder_lr=common.decoder_lr * factor)
    changes = SYSTEMS[name]
    if "model" in changes:
        changes = {"model": {**(common.model or {}), **changes["model"]}}
    return replace(scaled, **changes)


def run_system(config: QueryTrainConfig) -> dict[str, Any]:
    """Train and judge one system, or read what an earlier call found with the same settings: parameters,
    multiply-accumulates, judgement, history of validations, seconds per step."""
    file = Path(config.out) / "result.json"
    settings = {key: value for key, value in recipe(config).items() if key not in FREE_TO_CHANGE}
    if file.exists():
        result = json.loads(files.read_text(file))
        if result["settings"] == settings:
            return result
    report = train(config, QueryRun)
    model = load(Path(config.out) / "last.safetensors")
    encoder, rest = multiply_accumulates(model)
    result = {
        "settings": settings,
        "environment": report["environment"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "encoder_multiply_accumulates": encoder,
        "multiply_accumulates": rest,
        "step_s": report["step_s"],
        "judgement": judge(model, open_validation_data(config), config.validation, config.device),
        "history": report["history"],
    }
    files.write_text(file, json.dumps(result, indent=1))
    return result


def compare(common: QueryTrainConfig, only: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Run the systems and single runs named (without `only`, all systems at each learning rate); writes
    `out`/comparison.json and .md after each, with the runs that earlier calls finished.

    Returns:
        Results by "<system>-<rate>".

    Raises:
        SPDError: an unknown system; TrainingError as in `train`.
    """
    runs = {f"{name}-{rate}": (name, rate) for name, rate in product(SYSTEMS, RATES)}
    if unknown := sorted(set(only or ()) - {*SYSTEMS, *runs}):
        raise SPDError(
            f"--only takes systems of {', '.join(SYSTEMS)}, or their runs with -{' or -'.join(RATES)}; got"
            f" {', '.join(unknown)}"
        )
    out = files.expanded(common.out)
    results: dict[str, dict[str, Any]] = {}
    for run, (name, rate) in runs.items():
        config = system_config(common, name, rate)
        if only is None or {name, run} & set(only) or (Path(config.out) / "result.json").exists():
            results[run] = run_system(config)
            files.write_json(out / "comparison.json", results)
            files.write_text(out / "comparison.md", table(results))
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each system with the rate of smaller AbsRel, and the curves of all."""
    count = COLUMNS.count("|") + 1
    lines = [f"| {COLUMNS} |", "|---" * count + "|"]
    for name in SYSTEMS:
        of_system = {rate: results[f"{name}-{rate}"] for rate in RATES if f"{name}-{rate}" in results}
        if not of_system:
            lines.append(f"| `{name}` | not run {'| ' * (count - 2)}|")
            continue
        rate, result = min(of_system.items(), key=lambda item: item[1]["judgement"]["random"]["abs_rel"])
        found = result["judgement"]
        mean = found["random"]
        step_s = result["step_s"]
        cells = (
            f"`{name}`",
            rate,
            f"{result['parameters'] / 1e6:.2f}",
            f"{result['multiply_accumulates'] / 1e6:.0f}",
            f"{mean['abs_rel']:.3f}",
            f"{mean['d1']:.3f}",
            f"{mean['s_star']:.3f}",
            "–" if step_s is None else f"{1000 * step_s:.0f}",
            *(f"{found[place]['abs_rel']:.3f}" for place in ("grid", "crowd")),
            f"{found['alone']:.3f} ({found['together']:.3f})",
            f"{found['change']:.1%}",
            f"{mean['pred_min']:.2f} … {mean['pred_max']:.2f}{' (collapsed)' if collapsed(mean) else ''}",
            ", ".join(f"level {level}: {count:.0f}" for level, count in found["routing"].items()) or "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "AbsRel at the validations:", ""]
    for run, result in results.items():
        curve = ", ".join(f"{validation['step']}: {validation['abs_rel']:.3f}" for validation in result["history"])
        lines.append(f"- `{run}` {curve}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare as the arguments say, and print the table."""
    keep_freed_memory()
    config = auto_cli(ComparisonConfig)
    common = QueryTrainConfig(**{field.name: getattr(config, field.name) for field in fields(QueryTrainConfig)})
    compare(common, config.only.split(",") if config.only else None)
    print(files.read_text(files.expanded(common.out) / "comparison.md"))


if __name__ == "__main__":
    main()
