"""One self-contained HTML page about a run: no network, no scripts, figures inside as SVG."""

import io
import math
import re
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from optimality.experiments.run_folder import RunFolder


def write_report(
    summary: dict[str, Any], figures: dict[str, Figure], folder: RunFolder, *, template: str = "planning.html.jinja"
) -> None:
    """Writes `report.html` of a planning run, and each figure under `plots/`."""
    title = f"{summary['problem']} by {summary['method']}"
    page = render(template, title, summary, figures, folder)
    folder.write_text("report.html", page)


def render(
    template: str, title: str, summary: dict[str, Any], figures: dict[str, Figure], folder: RunFolder | None
) -> str:
    """The page; with a folder, each figure is also written under its `plots/`."""
    pictures = []
    for number, (caption, figure) in enumerate(figures.items()):
        svg = to_svg(figure, prefix=f"f{number}-")
        if folder is not None:
            slug = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")
            folder.write_text(f"plots/{slug}.svg", svg)
        pictures.append({"caption": caption, "text": _EXPLANATIONS.get(caption, ""), "svg": svg[svg.index("<svg") :]})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("optimality.experiments", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = format_number
    config = "" if folder is None else (folder.path / "config.toml").read_text()
    run = "" if folder is None else folder.path.name
    return environment.get_template(template).render(
        title=title, summary=summary, pictures=pictures, config=config, run=run
    )


def to_svg(figure: Figure, prefix: str = "") -> str:
    """The figure as SVG text, the same bytes for the same figure; ids get a prefix so that pages can hold several."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "optimality", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="', f'id="{prefix}', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", svg)
    return svg


def format_number(value: Any) -> str:
    """Four significant digits, whole numbers above ten thousand; a dash for what is not a number."""
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 and math.isfinite(value) else f"{value:.4g}"
    return str(value)


_EXPLANATIONS = {
    "Value and policy at the first step": (
        "Color and number: the method's value of a state in reward units, with the whole horizon ahead. Arrows: how "
        "likely each action is. S: first state, G: goal, H: hole; cells without a value are where episodes end."
    ),
    "Measured returns": "Returns of the episodes of the check, their mean with its 95 % interval, and the exact mean.",
    "Return, entropy and evidence against temperature": (
        "Left and middle: what the soft-optimal policy of each form gets, and how random it is over an episode. "
        "The entropy form pays log |A| a step on top of the KL form, so where episodes can end early it also buys "
        "survival. Right: the evidence log p(O) times the temperature, and its variational bound under the true "
        "dynamics; what lies between them is belief in luck. Dotted: the temperature of this run. Gaps: the soft "
        "value is infinite there."
    ),
    "Iterations": (
        "Relative entropy policy search. Left: the exact reward per step of each policy, from the first one on, and "
        "the bound that no policy exceeds. Middle: how far each projection went from the state-action law of the "
        "policy before, and how far it might. Right: the price of a nat of that distance, the projection's "
        "temperature; where the best policy of all lies within the bound it is zero, and not drawn."
    ),
    "Ascent": (
        "Along the exact policy gradient. From the left: the objective of each policy, entropy included where it has a "
        "price; the size of its gradient in the logits; how random the policy is over an episode; and how far each "
        "step went, the mean KL of the new policy to the old one where the new one goes."
    ),
    "Learning curve": (
        "Mean return of each evaluation, by the mode of the policy, against steps of the environment. Pale: the mean "
        "return of the episodes that ended while it explored. Of several runs: interquartile mean, and the 95 % "
        "interval of a bootstrap over runs."
    ),
    "The policy": (
        "Mean action, which is what an evaluation plays, and the spread of drawn actions, both within the "
        "environment's bounds and in its units. Dots: where episodes of drawn actions went; elsewhere nothing was "
        "learned."
    ),
    "What was learned": "Color and number: how good the mode's actions are, exactly, in reward units. Arrows: actions.",
    "States": (
        "Exact mean of each coordinate under the policy, with a band of two standard deviations: 95 % of episodes are "
        "in it at any one step. Gray: a few episodes with their noise. Dashed, of exact inference: what the posterior "
        "expects, noise included; the distance to the mean is belief in luck."
    ),
    "Controls": "The same of each control, which is held from step to step.",
    "Cost": (
        "Left: expected cost of each step; with a horizon the last point is the cost of the last state. Right: what "
        "the method's own value expects still to come; with entropy or risk it is not the expected cost alone."
    ),
    "Gains": (
        "Entries of K in u = K x + k: what a unit of each coordinate adds to the control. Near the end of a finite "
        "horizon there is less to win, and gains change."
    ),
    "Modes": (
        "Eigenvalues of A, and of A + B K with the first gain. A mode outside of the circle grows from step to step, "
        "one inside decays."
    ),
    "What is believed": (
        "Densities of the unknown means, and of the rate that endless play would earn. Dashed: before the data. Ticks: "
        "what was measured, with its mean dotted. Orange: what not playing earns; green: the chance that the game "
        "beats it."
    ),
    "The next game": "Its reward and its time, unknown means included: both have power tails. Ticks: measured.",
    "Break-even rates": (
        "Every criterion on one scale: it plays against opportunities whose rate is below its own. Orange: the rate of "
        "this opportunity, so that what lies to the right of it says play. Criteria that ignore the data are marked."
    ),
    "More games to come": (
        "The same belief with other numbers of games. Left: what playing is worth over the opportunity; who must play "
        "them all (dashed) gains or loses in proportion. Right: the decision now, by the number of games and the rate "
        "of the opportunity. Its border starts at the rate of a single game and rises with what there is to be learned "
        "for. Dot: this decision."
    ),
    "When to go on": (
        "The Bayes-optimal rule. By games: play on while all that was earned over all the time it took, the prior's "
        "shares included, is in the green. Gray: courses of play in worlds drawn from the belief, a cross where they "
        "quit. With a deadline: while what was earned is above the line of the games played."
    ),
    "Regret": (
        "What was lost against always pulling the best arm, recomputed from the numbers of pulls: mean over runs with "
        "its 95 % interval, against pulls on a logarithmic scale. Dashed: the slope below which no policy stays in the "
        "long run that is good on all such problems; a straight line here is logarithmic regret, a bent one more."
    ),
    "Pulls of each arm": "Which share of the pulls so far went to each arm, mean over runs.",
    "Regret at the end": (
        "Of every run: box from the lower to the upper quarter, line at the median, triangle at the mean, whiskers "
        "from 5 to 95 %. A heavy right tail is a policy that sometimes locks on to a worse arm."
    ),
    "Exact Bayes regret": (
        "Expected regret where the arms' chances are drawn from uniform laws, by counting out all states of knowledge: "
        "no simulation and no noise."
    ),
    "Bayes regret and the horizon": (
        "Expected regret where the chances are drawn from the prior, exactly, against someone who knows the arms. With "
        "a horizon, a dot is of the best policy for so many pulls, and no policy lies below it. That for the whole "
        "horizon (dashed) is above the dots on the way: it pays for what it will use later. Thompson sampling and "
        "greedy pulls know no horizon."
    ),
    "Which arm to pull": (
        "By how much pulling arm 0 is worth more than arm 1 (blue), or less (orange), when so much is known of both, "
        "with the pulls that are then left; gray where none are. Line: where the best pull changes. Dotted: where the "
        "posterior means are equal. Between the two one pulls the arm that looks worse, to learn about it."
    ),
    "Rewards": (
        "What entering a state pays (or acting in it, where the reward looks at the state that is left). Left the "
        "problem's own, which was not used. Each has its own scale, for a reward is known only up to what changes no "
        "policy: constants where all episodes have one length, and differences of a potential."
    ),
    "The recovered policy": (
        "The model of the expert, at the first step. Color and number: its value under the recovered reward, entropy "
        "included where the expert is soft-optimal."
    ),
    "Feature expectations": (
        "Derivative of the expected reward in each of its parameters; of a reward that is linear in features, their "
        "expected sums over an episode. Where bars differ, the penalty or the objective let them."
    ),
    "Convergence of the fit": "Largest entry of the gradient, or the margin, after each step; dotted the tolerance.",
    "Convergence": "Largest change of any value in a sweep.",
    "The backward pass": "A finite horizon needs one sweep: the value for each number of steps to go.",
}
