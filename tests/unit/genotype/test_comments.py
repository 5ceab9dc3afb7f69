"""Genotypes in comments and diffs: what is taken away is none, and what stays is read."""

import time

import pytest
from tests.helpers.golden_genotypes import DARTS_V2

from topocell.errors import GenotypeError
from topocell.genotype.genotype import Genotype

V2 = DARTS_V2.to_darts()
NOISE = V2.replace("skip_connect", "noise")
ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|"


@pytest.mark.parametrize("cell", [V2, ARCH])
@pytest.mark.parametrize(
    "text",
    [
        "5d4\n< DARTS = {}",
        "5c5\n< DARTS = {}\n---\n> DARTS = OTHER",
        "< {}",
        "DARTS = {}   <",
        "DARTS = {}   | DARTS = OTHER",
        "-    BEST = {}\n+    BEST = OTHER",
        "- BEST = {}\n+ BEST = OTHER",
        "    - BEST = {}\n    + BEST = OTHER",
        "-    BEST = {}\n",
        "-  BEST = {}\n",
        "- {}\n+ another is better",
        "    @@ -1 +1 @@\n    - BEST = {}\n    + BEST = OTHER",
        "@@@ -1,2 -1,2 +1,1 @@@\n- BEST = {}\n -BEST = {}\n  x = 1",
        "*** 1,2 ****\n- BEST = {}\n--- 1 ----\n",
        "*** 1,2 ****\n! BEST = {}\n--- 1,2 ----\n! BEST = OTHER",
        "! BEST = {}\n",
        "<del>{}</del>",
        "<del>\n{}\n</del>",
        "old: <s>{}</s>",
        "<!-- old\n{}\n",
        "rem old {}",
        "' old: {}",
        '" old: {}',
        "/* old: {}",
        "x = 1\n  /*\n * {}\n",
        "\\iffalse\nold: {}\n\\fi",
        "\\begin{comment}\n{}\n\\end{comment}",
        "#if 0\n{}\n#endif",
        "--[[\n{}\n]]",
        "<#\n{}\n#>",
        "=begin\n{}\n=end",
        "x = 1\n=begin\n{}\n",
        '"""\nOLD = {}\n"""\nBEST = OTHER',
        "import x\n'''OLD = {}\n'''\n",
    ],
)
def test_what_a_text_takes_away_is_no_genotype(text: str, cell: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_text(text.replace("{}", cell))
    assert "a line that a diff takes away" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"- {V2}",
        f"- found in 2019\n- {V2}\n- 97.2 %",
        f"-   {V2}",
        f"---\nbest: {V2}\n",
        f"python train.py \\\n  --arch '{V2}'",
        f"-    BEST = {NOISE}\n+    BEST = {V2}",
        f"- BEST = {NOISE}\n+ BEST = {V2}",
        f"5c5\n< DARTS = {NOISE}\n---\n> DARTS = {V2}",
        f"4a5\n> DARTS = {V2}",
        # dashes and arrows that a log draws
        f"------ genotype: {V2}",
        f"----- Best genotype: {V2} -----",
        f"==== best: {V2} ====",
        f"--> {V2}",
        f"-> {V2}\n+ normal cells are better\n",
        f"---- results ----\n{V2}\n-----------",
        f"name|genotype\n---|---\nDARTS|{V2}|97.24",
        f"--- a/cells.py\n+++ b/cells.py\n-BEST = {NOISE}\n+BEST = {V2}",
        f"--- a/cells.py\n+++ b/cells.py\n@@ -1 +1 @@\n-BEST = {NOISE}\n+BEST = {V2}",
        f"@@@ -1,2 -1,2 +1,1 @@@\n- BEST = {NOISE}\n -BEST = {NOISE}\n++BEST = {V2}",
        f"<del>{NOISE}</del> {V2}",
        f"/* {NOISE} */ {V2}",
        f"\\iffalse\n{NOISE}\n\\fi\n{V2}",
        f'"""\n{V2}\n"""',
        f'text = """\n{V2}\n"""',
        f'"""Cells."""\nBEST = {V2}\n',
        f'"""Cells.\n\nOLD: another\n"""\nBEST = {V2}\n',
    ],
)
def test_what_stays_is_read(text: str) -> None:
    assert Genotype.from_text(text) == DARTS_V2


@pytest.mark.parametrize("drawn", ["----- Best genotype: {} -----", "--> {}", "--- {} ---", "---- {}"])
@pytest.mark.parametrize(("cell", "other"), [(V2, NOISE), (ARCH, ARCH.replace("none", "noise"))])
def test_what_is_drawn_before_a_genotype_takes_it_not_away(drawn: str, cell: str, other: str) -> None:
    """The other one was read, and this one left out without a word."""
    assert Genotype.from_text(drawn.replace("{}", cell)) == Genotype.from_text(cell)
    with pytest.raises(GenotypeError, match=r"must hold one genotype|must be whole"):
        Genotype.from_text(f"genotype = {other}\n{drawn.replace('{}', cell)}")


@pytest.mark.parametrize("sign", ["% ", "; ", "-- ", "-    ", "-", "< ", "! ", "' ", '" ', "rem "])
def test_what_is_left_out_is_no_part_of_a_genotype(sign: str) -> None:
    """Of a form that lists what a node has, a shorter cell was left."""
    cell = "[('noise', 2, 0),\n('noise', 2, 1),\n('noise', 3, 0)]"
    text = f"Genotype(normal={cell}, normal_concat=[2, 3], reduce={cell}, reduce_concat=[2, 3])"
    lines = text.split("\n")
    with pytest.raises(GenotypeError, match="a genotype must be whole, but a part of"):
        Genotype.from_text("\n".join([lines[0], sign + lines[1], *lines[2:]]))
    whole = "\n".join([f"{sign}old", *lines, f"{sign}old"])
    assert Genotype.from_text(whole).cells["normal"].nodes[0] == (("noise", 0), ("noise", 1))


@pytest.mark.parametrize("text", [f"<<<<<<< HEAD\nBEST = {V2}\n=======\nBEST = OTHER\n>>>>>>> other"])
def test_of_two_versions_none_is_taken(text: str) -> None:
    with pytest.raises(GenotypeError, match="must have one version, but has those of a conflict; keep one"):
        Genotype.from_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "{first}\n# +{last}",
        "{first}\n#+{last}",
        "{first} \n// + {last}",
        "{first}\n-+{last}",
        "arch = {first}\n  # + {last}\n",
        "{first}\n<!-- +{last} -->",
        "{first}\n/*\n +{last} */",
        "{one}+\n# |none~0|none~1|+\n|none~0|skip_connect~1|",
        "{one}+|none~0|\n# none~1|\n|skip_connect~1|",
        "- {first}\n+{last}",
    ],
)
def test_an_architecture_string_that_goes_on_in_a_comment_is_not_whole(text: str) -> None:
    first, last = ARCH.rsplit("+", 1)
    with pytest.raises(GenotypeError, match="must be whole, but"):
        Genotype.from_text(text.format(first=first, last=last, one=first.split("+")[0]))


@pytest.mark.parametrize("comment", [ARCH.replace("none", "noise"), "|op~0|+|op~0|op~1|+...", "+0.3 %", "|none~0|"])
def test_comments_beside_an_architecture_string(comment: str) -> None:
    first, last = ARCH.rsplit("+", 1)
    expected = Genotype.from_text(ARCH)
    for text in (
        f"# {comment}\n{ARCH}",
        f"- old\n+ best = {ARCH}",
        f"this isn't new, {ARCH}",
        f"{ARCH}\n// {comment}",
        f"{first}\n# {comment}\n+{last}",
    ):
        assert Genotype.from_text(text) == expected


@pytest.mark.parametrize("sign", ["<!--", "/*", "<del", "<s>", '\n"""', "\n=begin"])
def test_comments_that_are_not_closed_take_no_time_that_squares(sign: str) -> None:
    start = time.process_time()
    with pytest.raises(GenotypeError):
        Genotype.from_text(f"x{sign}" * (19_000 // (1 + len(sign))))
    assert time.process_time() - start < 1


@pytest.mark.parametrize("blank", [" ", "\t", "\n"])
def test_blanks_take_no_time_that_squares(blank: str) -> None:
    start = time.process_time()
    assert Genotype.from_text(f"{ARCH}{blank * 19_000}") == Genotype.from_text(ARCH)
    with pytest.raises(GenotypeError):
        Genotype.from_text(blank * 20_000)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "text",
    [
        '--arch "Genotype(normal=[])"' + " --aa" * 60 + ' "x"',
        '"""' + "\n" * 19_000,
        "x y " + "(" * 19_000,
        "'|a~0| ' " * 1_500,
        "[-" * 9_000,
        "@@ -0" * 3_600,
    ],
)
def test_no_text_takes_time_that_squares_or_doubles(text: str) -> None:
    start = time.process_time()
    with pytest.raises(GenotypeError):
        Genotype.from_text(text)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("word", ["conv" * 4_500, "a" * 18_000, "'conv'" * 3_000, "<a" * 9_000])
def test_no_line_beside_a_genotype_takes_time_that_squares(word: str) -> None:
    """As a checkpoint in base64 in the log that has the cell."""
    start = time.process_time()
    assert Genotype.from_text(f"{V2}\n{word} |") == DARTS_V2
    assert time.process_time() - start < 3
