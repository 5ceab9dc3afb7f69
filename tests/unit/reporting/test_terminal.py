"""What a person sees: lines in a file, a live line on a terminal, and never more than what was meant."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from rich.console import Console

from topocell.errors import RecipeError, RunError
from topocell.reporting.events import Events, Headline
from topocell.reporting.live import WINDOW_SECONDS, LiveView, Throughput
from topocell.reporting.showing import shown as shown_as
from topocell.reporting.terminal import Display, Logged, Quiet, Terminal, epoch_line, result_lines

CELLS = {
    "normal": {"inputs": 2, "nodes": [[["sep_conv_3x3", 0], ["skip_connect", 1]], []], "concat": [2]},
    "reduce": {"inputs": 2, "nodes": [[["max_pool_3x3", 1]], [["dil_conv_5x5", 2]]], "concat": [2, 3]},
}
SEARCH: dict[str, Any] = {
    "phase": "search",
    "stage": "operations",
    "epoch": 2,
    "train_loss": 1.23456,
    "train_accuracy": 0.5678,
    "val_loss": 1.5,
    "val_accuracy": 0.4321,
    "gap": {"soft": 0.4321, "derived": 0.125},
    "operations": {"normal": {"sep_conv_3x3": 1, "skip_connect": 1}, "reduce": {"max_pool_3x3": 2}},
    "derived": CELLS,
    "warnings": ["skip connections take over the normal cell: 1 of 2 operations"],
}
RETRAIN: dict[str, Any] = {
    "phase": "retrain",
    "seed": 3,
    "epoch": 0,
    "train_loss": 2.0,
    "train_accuracy": 0.25,
    "test_loss": 2.25,
    "test_accuracy": 0.3,
}
RESULTS: dict[str, Any] = {
    "dataset": "digits",
    "parameters": 3_512_345,
    "multiply_adds": 541_000_000,
    "last_mean": 0.9751,
    "last_std": 0.0006,
    "best_mean": 0.9763,
    "best_std": 0.0005,
    "n": 4,
}
HOSTILE = "[bold red]x[/] [link=http://x]y[/link] :smile: [/nothing]"


def figures() -> Mapping[str, float]:
    return {"loss": 0.98765, "accuracy": 0.4567}


def plain(width: int = 120) -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(Console(file=out, width=width, soft_wrap=True, highlight=False)), out


@pytest.fixture
def live() -> Iterator[tuple[Terminal, io.StringIO]]:
    out = io.StringIO()
    with Terminal(Console(file=out, width=120, force_terminal=True, color_system=None)) as terminal:
        yield terminal, out


def shown(out: io.StringIO) -> str:
    """What was written, without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", out.getvalue())


# --- lines


def test_an_epoch_of_the_search_in_one_line() -> None:
    assert epoch_line(SEARCH) == (
        "operations epoch 3: loss 1.235, accuracy 56.8 %, validation 43.2 %, derived 12.5 %, "
        "skips normal 1/2 reduce 0/2"
    )


def test_an_epoch_of_the_warm_up_says_why_the_cell_does_not_change() -> None:
    assert epoch_line(SEARCH | {"updates_architecture": False}) == f"{epoch_line(SEARCH)}, warm-up: weights only"
    assert epoch_line(SEARCH | {"updates_architecture": True}) == epoch_line(SEARCH)


def test_an_epoch_of_retraining_in_one_line() -> None:
    assert epoch_line(RETRAIN) == "retrain seed 3 epoch 1: loss 2.000, accuracy 25.0 %, test 30.0 %"


def test_what_was_not_measured_is_not_shown() -> None:
    assert epoch_line(RETRAIN | {"test_accuracy": None}) == "retrain seed 3 epoch 1: loss 2.000, accuracy 25.0 %"
    bare = {k: v for k, v in SEARCH.items() if k in ("phase", "stage", "epoch", "train_loss", "train_accuracy")}
    assert epoch_line(bare | {"gap": None, "val_accuracy": None}) == "operations epoch 3: loss 1.235, accuracy 56.8 %"


def test_results_say_last_before_best_with_spread_and_n() -> None:
    assert result_lines(RESULTS) == [
        "test accuracy, last epoch: 97.51 ± 0.06 % (n = 4)",
        "test accuracy, best epoch: 97.63 ± 0.05 % (n = 4) (chosen on the test split)",
        "digits: 3.51 M parameters, 541 M multiply-adds",
    ]
    single = result_lines(RESULTS | {"n": 1, "last_std": None, "best_std": None})
    assert single[0] == "test accuracy, last epoch: 97.51 % (n = 1)"


@pytest.mark.parametrize("std", ["x", None, [0.1], True, float("nan")])
def test_a_spread_that_is_no_number_is_not_shown(std: Any) -> None:
    lines = result_lines(RESULTS | {"last_std": std, "best_std": std})
    assert lines[0] == "test accuracy, last epoch: 97.51 % (n = 4)"
    assert lines[1] == "test accuracy, best epoch: 97.63 % (n = 4) (chosen on the test split)"


# --- displays


def use(shows: Display) -> None:
    """Everything that a run tells a display."""
    shows.say("data: a note")
    for done in range(1, 4):
        shows.step("search 1/2 operations", done, 3, figures)
    shows.epoch(SEARCH)
    shows.cell({"cells": CELLS})
    shows.step("retrain, seed 1/1", 1, 1, figures)
    shows.epoch(RETRAIN)
    shows.results(RESULTS)


def test_quiet_shows_nothing(capsys: Any) -> None:
    use(Quiet())
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_there_are_lines_and_no_bar() -> None:
    terminal, out = plain()
    use(terminal)
    assert out.getvalue().splitlines() == [
        "data: a note",
        epoch_line(SEARCH),
        "  skip connections take over the normal cell: 1 of 2 operations",
        "derived cell",
        "  normal",
        "    2 ← sep 3×3(0) + skip(1)",
        "    3 ← dropped",
        "    out ← 2",
        "  reduce",
        "    2 ← max 3×3(1)",
        "    3 ← dil 5×5(2)",
        "    out ← concat(2, 3)",
        epoch_line(RETRAIN),
        *result_lines(RESULTS),
    ]


def test_without_a_terminal_the_device_is_left_alone() -> None:
    terminal, _ = plain()

    def never() -> Mapping[str, float]:
        raise AssertionError("figures were read")

    terminal.step("search", 1, 2, never)


def test_a_long_line_is_not_broken() -> None:
    terminal, out = plain(width=20)
    terminal.say("word " * 30)
    assert out.getvalue().count("\n") == 1


def test_a_terminal_shows_loss_accuracy_time_left_and_the_cell(live: tuple[Terminal, io.StringIO]) -> None:
    terminal, out = live
    terminal.step("search 1/2 operations", 1, 30, figures)
    terminal.epoch(SEARCH)
    terminal.step("search 1/2 operations", 30, 30, figures)
    terminal.close()
    text = shown(out)
    assert "search 1/2 operations" in text
    assert re.search(r"operations  (1|30)/30  loss 0\.988  accuracy 45\.7 %", text)
    assert re.search(r"━ \d:\d\d:\d\d left (\d|-):(\d\d|--):(\d\d|--)", text)
    frames = text[text.index("operations epoch 3") :]
    assert "normal" in frames and "2 ← sep 3×3(0) + skip(1)" in frames and "out ← concat(2, 3)" in frames


@pytest.mark.parametrize("name", ["select, tuning", "search 1/3 operations", "search 12/12 " + "long-" * 9 + "name"])
@pytest.mark.parametrize("left", [None, 59.0, 35 * 3600.0, 300 * 86400.0])
def test_nothing_is_cut_at_80_columns(name: str, left: float | None) -> None:
    """Also with numbers of steps as large as they get, and after more than a day."""
    now = [0.0]
    options: dict[str, Any] = {"width": 80, "force_terminal": True, "record": True, "color_system": None}
    console = Console(file=io.StringIO(), get_time=lambda: now[0], **options)
    with Terminal(console) as terminal:
        terminal.step(name, 1, 1_250_000, figures, left)
        now[0] = 30 * 3600.0
        terminal.step(name, 1_250_000 // 3, 1_250_000, lambda: {"loss": 123.456, "accuracy": 1.0}, left)
        terminal._looked = -1.0
        terminal.step(name, 1_250_000 // 2, 1_250_000, lambda: {"loss": 123.456, "accuracy": 1.0}, left)
    console.print(terminal._view)
    last = console.export_text().splitlines()[-4:]
    text = " ".join(" ".join(last).split())
    assert "…" not in text and all(len(line) <= 80 for line in last)
    assert f"{name} 625000/1250000 loss 123.456 accuracy 100.0 %" in text
    assert re.search(r"━ 1 day, 6:00:00 left (\d+|-):(\d\d|--):(\d\d|--)", text)
    words = {None: "", 59.0: "in all 59 s", 35 * 3600.0: "in all 35 h 00 min", 300 * 86400.0: "in all 300 d 00 h"}
    assert text.endswith(words[left])


def test_without_a_terminal_the_time_left_is_told_once_a_minute(monkeypatch: Any) -> None:
    now = [1000.0]
    monkeypatch.setattr("topocell.reporting.terminal.time.monotonic", lambda: now[0])
    terminal, out = plain()
    for seconds, left in ((0, None), (1, 4000.0), (40, 3960.0), (61, 3900.0), (100, 3860.0), (121, 50.0)):
        now[0] = 1000.0 + seconds
        terminal.epoch(RETRAIN, left)
    told = [line.partition(", left ")[2] for line in out.getvalue().splitlines()]
    assert told == ["", "1 h 07 min", "", "1 h 05 min", "", "50 s"]


def test_a_status_is_a_line_that_goes_away_on_a_terminal(live: tuple[Terminal, io.StringIO]) -> None:
    for terminal, out in (plain(), live):
        terminal.status(f"measuring {HOSTILE}")
        terminal.say("data: a note")
        terminal.status("measuring retraining")
        terminal.step("retrain, seed 1/1", 1, 2, figures)
        terminal.close()
        assert f"measuring {HOSTILE}" in shown(out) and "measuring retraining" in shown(out)
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")


def test_the_log_has_what_is_shown() -> None:
    terminal, out = plain()
    lines: list[str] = []
    use(Logged(terminal, lines.append))
    assert lines == out.getvalue().splitlines()
    use(Logged(Quiet(), lines.append))
    assert len(lines) == 2 * len(out.getvalue().splitlines())


def test_a_long_message_is_logged_whole_and_shown_in_part() -> None:
    terminal, out = plain()
    lines: list[str] = []
    logged, text = Logged(terminal, lines.append), f"left out: {'a name, ' * 1000}the last"
    for said in ("short", text):
        logged.say(said)
    assert lines == ["short", text]
    first, *others = out.getvalue().splitlines()
    assert first == "short" and len("".join(others)) < 1100
    assert "".join(others).endswith("... (all of it in log.txt)")


def test_a_new_phase_starts_a_new_bar_with_its_own_total(live: tuple[Terminal, io.StringIO]) -> None:
    terminal, out = live
    terminal.step("search 1/2 operations", 30, 30, figures)
    terminal.step("search 2/2 topology", 1, 7, figures)
    terminal.close()
    text = shown(out)
    assert "30/30" in text and "1/7" in text
    assert text.index("search 2/2 topology") > text.index("search 1/2 operations")


def test_figures_are_read_rarely_but_at_the_end(live: tuple[Terminal, io.StringIO], monkeypatch: Any) -> None:
    """Reading them waits for the device, so it must not happen at every step."""
    terminal, _ = live
    now = [0.0]
    monkeypatch.setattr("topocell.reporting.terminal.time.monotonic", lambda: now[0])
    reads: list[int] = []

    def step(done: int) -> None:
        def look() -> Mapping[str, float]:
            reads.append(done)
            return figures()

        now[0] += 0.01
        terminal.step("search", done, 200, look)

    for done in range(1, 201):
        step(done)
    assert reads[0] == 1 and reads[-1] == 200
    assert len(reads) == 5  # two seconds: at once, every half second, and the last


def test_the_terminal_is_left_in_order_after_a_fault() -> None:
    out = io.StringIO()
    with (
        pytest.raises(RuntimeError),
        Terminal(Console(file=out, width=120, force_terminal=True)) as terminal,
    ):
        terminal.step("search", 1, 2, figures)
        raise RuntimeError
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l") >= 0  # the cursor is back
    terminal.close()  # twice does no harm


def test_names_are_never_markup(live: tuple[Terminal, io.StringIO]) -> None:
    record = SEARCH | {"stage": HOSTILE, "warnings": [HOSTILE], "operations": {HOSTILE: {"skip_connect": 1}}}
    results = RESULTS | {"dataset": HOSTILE}
    cells = {HOSTILE: {"inputs": 2, "nodes": [[[HOSTILE, 0]]], "concat": [2]}}
    for terminal, out in (plain(width=400), live):
        terminal.console.width = 400
        terminal.say(HOSTILE)
        terminal.epoch(record | {"derived": cells})
        terminal.step(HOSTILE, 1, 2, figures)
        terminal.cell({"cells": cells})
        terminal.results(results)
        terminal.close()
        text = shown(out)
        assert text.count(HOSTILE) >= 6
        assert "\U0001f604" not in text and "\x1b]8" not in out.getvalue()


# --- the live view


def drawn(view: LiveView, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True, color_system=None)
    console.print(view)
    return [line.rstrip() for line in console.export_text().splitlines()]


def a_view() -> LiveView:
    view = LiveView(Console(file=io.StringIO()))
    view.begin()
    view.step("search 1/2 operations", 3, 30, ["loss 0.988", "1,234 images/s"], 90.0)
    view.epoch(SEARCH | {"depth": {"normal": 1, "reduce": 2}})
    return view


@pytest.mark.parametrize("width", [80, 120])
def test_the_view_shows_progress_warnings_counts_and_cells(width: int) -> None:
    lines = drawn(a_view(), width)
    assert lines[0] == "search 1/2 operations  3/30  loss 0.988  1,234 images/s"
    assert lines[1].startswith("━") and lines[1].endswith("in all 1 min 30 s")
    assert lines[2] == "! skip connections take over the normal cell: 1 of 2 operations"
    assert re.fullmatch(r"normal  1 sep 3×3, 1 skip, depth 1 +reduce  2 max 3×3, depth 2", lines[3])
    assert re.fullmatch(r"  2 ← sep 3×3\(0\) \+ skip\(1\) +2 ← max 3×3\(1\)", lines[4])


def test_cells_stand_below_each_other_where_there_is_no_room() -> None:
    lines = drawn(a_view(), 40)
    assert "normal  1 sep 3×3, 1 skip, depth 1" in lines and "reduce  2 max 3×3, depth 2" in lines
    assert all(len(line) <= 40 for line in lines)


def test_a_record_without_a_cell_leaves_the_view_as_it_is() -> None:
    view = a_view()
    before = drawn(view, 80)
    view.epoch(RETRAIN)
    assert drawn(view, 80) == before


def test_a_terminal_prints_a_warning_once(live: tuple[Terminal, io.StringIO]) -> None:
    terminal, out = live
    other = {"warnings": ["another"]}
    for epoch, extra in enumerate(({}, {}, other, {})):
        terminal.epoch(SEARCH | {"epoch": epoch} | extra)
    lines = shown(out).splitlines()
    assert lines.count(f"  {SEARCH['warnings'][0]}") == 2 and lines.count("  another") == 1


def test_throughput_is_that_of_the_last_seconds() -> None:
    pace = Throughput()
    assert pace.add(0.0, 0) is None and pace.add(1.0, None) is None
    assert pace.add(2.0, 200) == 100.0
    for second in range(3, 40):
        found = pace.add(float(second), 200 + 50 * (second - 2))
    assert found == 50.0  # what was faster lies more than WINDOW_SECONDS back
    assert WINDOW_SECONDS < 30
    assert pace.add(40.0, 5) is None  # another training, which counts anew


def test_figures_of_other_work_are_shown_too(live: tuple[Terminal, io.StringIO]) -> None:
    terminal, out = live
    terminal.step("select, trials", 1, 4, lambda: {"score": 0.51234})
    terminal.step("search", 1, 4, lambda: {"trained_images": 64})  # of a GPU that has not answered yet
    terminal.close()
    assert "select, trials  1/4  score 0.5123" in shown(out) and "search  1/4" in shown(out)


# --- for other programs


def test_events_are_json_objects_a_line() -> None:
    out = io.StringIO()
    use(Events(out))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    kinds = [event.pop("event") for event in events]
    assert kinds == ["message", "step", "step", "epoch", "cell", "step", "epoch", "results"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{15}Z", event.pop("time")) for event in events)
    assert events[0] == {"text": "data: a note"}
    pace = events[2].pop("images_per_second")
    assert pace is None
    step = {"phase": "search 1/2 operations", "done": 3, "total": 3, "seconds_left": None}
    assert events[2] == step | figures()
    assert events[3] == {"record": SEARCH} and events[4] == {"genotype": {"cells": CELLS}}
    assert events[7] == {"results": RESULTS}


def test_events_of_steps_come_once_a_second(monkeypatch: Any) -> None:
    now, out = [0.0], io.StringIO()
    monkeypatch.setattr("topocell.reporting.events.time.monotonic", lambda: now[0])
    events = Events(out)
    for done in range(1, 401):
        now[0] += 0.01
        events.step("search", done, 400, lambda: figures() | {"trained_images": 100 * now[0]}, None)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["done"] for event in told] == pytest.approx([1, 101, 201, 301, 400], abs=3)
    assert "trained_images" not in told[0] and told[-1]["images_per_second"] == pytest.approx(100.0)


def test_a_fault_is_an_event_and_stays_a_fault(capsys: Any) -> None:
    with pytest.raises(RunError), shown_as("json"):
        raise RunError("x must be y")
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "error" and event["text"] == "x must be y"


def test_the_quiet_one_ends_with_the_line_that_leads(capsys: Any) -> None:
    with shown_as("quiet") as display:
        use(display)
        assert capsys.readouterr().out == ""
    assert capsys.readouterr().out == result_lines(RESULTS)[0] + "\n"
    assert isinstance(display, Headline)


def test_a_display_of_one_s_own_need_not_have_all_methods() -> None:
    said: list[str] = []

    class Mine:
        def say(self, text: str) -> None:
            said.append(text)

    with shown_as(Mine()) as display:  # type: ignore[arg-type]
        use(display)
        display.say("once more")
    assert said[-1] == "once more"


def test_what_is_shown_is_chosen_by_name(monkeypatch: Any, capsys: Any) -> None:
    mine = Quiet()
    with shown_as(mine) as display:
        assert display is mine
    with shown_as(None) as display:
        assert type(display) is Quiet  # no terminal here
    with shown_as("lines") as display:
        assert isinstance(display, Terminal) and not display.console.is_terminal
    with pytest.raises(RecipeError, match=r"'liv' .did you mean 'live'"), shown_as("liv"):
        pass
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with shown_as(None) as display:
        assert isinstance(display, Terminal)
    monkeypatch.setenv("RANK", "1")
    for name in (None, "live", "json"):
        with shown_as(name) as display:
            assert type(display) is Quiet  # the first of several processes shows it for all
    assert capsys.readouterr().out == ""
