"""What people see: labeling configurations, the data of one comparison, and the results they give back.

A screen is data, frozen and hashed per project; whoever changes it in Label Studio's settings changes the meaning of
the answers, and is found out by the digest. Pictures are shown by ``HyperText``, whose content is one ``<img>`` made of
our own ids alone: an ``Image`` smaller than its cell is cropped. The prompt is shown by ``Text``, which escapes it,
because it comes from a file that others write.

No Label Studio is needed here, and nothing is sent.
"""

import hashlib
import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

__all__ = [
    "COMPARE_VERDICTS",
    "MAX_GROUP_SIZE",
    "Screen",
    "compare_screen",
    "labeling_digest",
    "local_file_url",
    "mark_screen",
    "result_for",
    "task_data",
]

COMPARE_VERDICTS = ("left", "right", "tie", "both_bad")
MAX_GROUP_SIZE = 9
"""The marks of a group have the hotkeys 1 … 9."""

_REVIEWED = "all_reviewed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """One kind of comparison as people see it."""

    kind: Literal["compare", "mark"]
    group_size: int
    """k: images on the screen."""
    choice: str
    """What marks an image on a ``mark`` screen, e.g. ``deformed``; empty on a ``compare`` screen."""
    labeling_config: str
    """Label Studio's XML."""
    instructions: str
    """What people read before they start, a few plain sentences."""

    @property
    def digest(self) -> str:
        """SHA-256 of the labeling configuration, hex; the same for two that differ in white space only."""
        return labeling_digest(self.labeling_config)


def labeling_digest(labeling_config: str) -> str:
    """SHA-256, hex, of a labeling configuration in canonical XML, so that a mere re-indentation is no change."""
    try:
        text = ElementTree.canonicalize(labeling_config, strip_text=True)
    except ElementTree.ParseError:
        text = labeling_config
    return hashlib.sha256(re.sub(r"\s+", " ", text).encode()).hexdigest()


# The styles reach the whole page of the annotator. Heights are given in vh, so that on a small window the pictures shrink
# rather than push the answers below its edge; what is subtracted is the editor's bars, three lines of prompt, the hint,
# and the answers (in Label Studio 1.23.2). A test measures what a person sees without scrolling.
_STYLE = """
.d3po-prompt{margin:0 0 6px;padding:7px 14px;border-left:5px solid #4c6ef5;border-radius:4px;background:#eef1ff;max-height:96px;overflow-y:auto}
.d3po-prompt *{font-size:20px!important;line-height:27px!important;font-weight:600;color:#1b1b2b!important}
.d3po-hint *{margin:0 0 8px!important;padding:0!important;font-size:13px!important;font-weight:400!important;line-height:18px!important;opacity:.8}
.d3po-cell{min-width:0;display:flex;flex-direction:column;align-items:center}
.d3po-cell .lsf-object{width:100%}
.d3po-cell img{display:block;height:auto;margin:0 auto;object-fit:contain;border-radius:3px;outline:1px solid #c9c9d4}
.lsf-choices.lsf-choices_layout_inline{margin:4px 0;display:flex;flex-wrap:wrap;gap:4px 10px;justify-content:center}
.lsf-choice__item{display:flex;align-items:center;height:34px;padding:0 14px;border:1px solid #c9c9d4;border-radius:17px}
.lsf-choice__item .ant-radio,.lsf-choice__item .ant-checkbox{top:0!important}
.lsf-choice__item label{height:auto!important;margin:0!important;align-items:center}
.lsf-choice__item:has(input:checked){border-color:#4c6ef5;background:#4c6ef522;box-shadow:0 0 0 1px #4c6ef5}
"""
_COMPARE_STYLE = """
.d3po-row{display:flex;gap:16px;margin:0 0 4px}
.d3po-row .d3po-cell{flex:1 1 0}
.d3po-cell img{width:min(100%,calc(100vh - 340px));max-height:calc(100vh - 340px);min-width:160px}
"""
_MARK_STYLE = """
.d3po-grid{display:grid;grid-template-columns:repeat(%(columns)d,minmax(0,1fr));gap:4px 16px}
.d3po-cell img{width:min(100%%,calc((100vh - %(reserved)dpx)/%(rows)d));max-height:calc((100vh - %(reserved)dpx)/%(rows)d);min-width:64px}
.d3po-cell:has(input:checked) img{outline:5px solid #e03131;opacity:.55}
.d3po-cell .lsf-choice__item:has(input:checked){border-color:#e03131;background:#e0313122;box-shadow:0 0 0 1px #e03131}
"""
_PIXELATED = ".d3po-cell img{image-rendering:pixelated}\n"


def compare_screen(pixelated: bool = False, instructions: str = "") -> Screen:
    """Two images of one prompt: left, right, a tie, or both bad.

    Args:
        pixelated: Show small images with hard pixel edges instead of blurring them up.
        instructions: What people read instead of the screen's own text.
    """
    choices = _choices(
        ("left", "Left is better", "1"),
        ("right", "Right is better", "2"),
        ("tie", "Equally good", "3"),
        ("both_bad", "Both are bad", "4"),
    )
    config = f"""<View>
<Style>{_STYLE}{_COMPARE_STYLE}{_PIXELATED if pixelated else ""}</Style>
<View className="d3po-prompt"><Text name="prompt" value="$prompt"/></View>
<View className="d3po-hint"><Header size="5" value="Which image fits the text better and looks better? Press 1 to 4, then Ctrl+Enter. Ctrl+Space skips."/></View>
<View className="d3po-row">
<View className="d3po-cell"><HyperText name="left" value="$html_0" inline="true"/></View>
<View className="d3po-cell"><HyperText name="right" value="$html_1" inline="true"/></View>
</View>
<View className="d3po-answers"><Choices name="preference" toName="prompt" choice="single-radio" required="true" requiredMessage="Choose one of the four" showInline="true">
{choices}
</Choices></View>
<TextArea name="comment" toName="prompt" rows="1" maxSubmissions="1" required="false" placeholder="Comment (optional)"/>
</View>"""
    own_text = (
        "Two images were made from the text above them. Which fits it better and looks better? "
        "Press 1 for the left image, 2 for the right one, 3 if they are equally good, 4 if both are bad; "
        "then Ctrl+Enter to submit, or Ctrl+Space to skip."
    )
    return Screen(
        kind="compare", group_size=2, choice="", labeling_config=config, instructions=instructions or own_text
    )


def mark_screen(group_size: int, choice: str = "deformed", pixelated: bool = False, instructions: str = "") -> Screen:
    """A group of images of one prompt, any number of which are marked as bad.

    Nothing marked would be an empty result, which an accidental Ctrl+Enter gives as well: hence the required
    "all reviewed".

    Args:
        group_size: k, 2 to 9.
        choice: What the mark says, e.g. ``deformed`` or ``unsafe``; letters, digits, ``_``, ``-`` and spaces.
        pixelated: Show small images with hard pixel edges instead of blurring them up.
        instructions: What people read instead of the screen's own text.

    Raises:
        ValueError: A group size or a choice that the screen cannot show.
    """
    if not 2 <= group_size <= MAX_GROUP_SIZE:
        raise ValueError(
            f"a mark screen shows 2 to {MAX_GROUP_SIZE} images (their hotkeys are digits), not {group_size}"
        )
    if not re.fullmatch(r"\w[\w -]*", choice) or choice == _REVIEWED:
        raise ValueError(f"the choice of a mark screen is made of letters, digits, spaces, _ and -, not {choice!r}")
    columns = group_size if group_size <= 3 else (group_size + 1) // 2
    rows = -(-group_size // columns)
    style = _STYLE + _MARK_STYLE % {"columns": columns, "rows": rows, "reserved": 284 + 50 * rows}
    label = choice.replace("_", " ").capitalize()
    hint = (
        f"Mark every image that is {label.lower()} with its number (1 to {group_size}), or none. When you have looked at "
        "all of them press 0, then Ctrl+Enter. Ctrl+Space skips."
    )
    cells = "\n".join(
        f'<View className="d3po-cell"><HyperText name="img_{image}" value="$html_{image}" inline="true"/>'
        f'<Choices name="mark_{image}" toName="img_{image}" choice="multiple" showInline="true">'
        f"{_choices((choice, label, str(image + 1)))}</Choices></View>"
        for image in range(group_size)
    )
    config = f"""<View>
<Style>{style}{_PIXELATED if pixelated else ""}</Style>
<View className="d3po-prompt"><Text name="prompt" value="$prompt"/></View>
<View className="d3po-hint"><Header size="5" value="{hint}"/></View>
<View className="d3po-grid">
{cells}
</View>
<View className="d3po-answers"><Choices name="reviewed" toName="prompt" choice="single-radio" required="true" requiredMessage="Look at all images, then press 0" showInline="true">
{_choices((_REVIEWED, "I have looked at all of them", "0"))}
</Choices></View>
</View>"""
    own_text = (
        f"Mark every image that is {label.lower()} with its number (1 to {group_size}); mark none if none is. "
        "When you have looked at all of them press 0, then Ctrl+Enter to submit, or Ctrl+Space to skip."
    )
    return Screen(
        kind="mark", group_size=group_size, choice=choice, labeling_config=config, instructions=instructions or own_text
    )


def task_data(screen: Screen, uid: str, prompt: str, image_urls: Sequence[str]) -> dict[str, Any]:
    """The data of one comparison.

    Args:
        uid: ``<run_id>/<epoch>/<group>``.
        prompt: Shown as text, escaped by Label Studio.
        image_urls: [k] in presented order, made of our own ids (``local_file_url``) or an ``https`` address.

    Raises:
        ValueError: Another number of images than the screen shows.
    """
    if len(image_urls) != screen.group_size:
        raise ValueError(f"the {screen.kind} screen shows {screen.group_size} images, {uid} has {len(image_urls)}")
    cells = {f"html_{image}": f'<img src="{html.escape(url)}">' for image, url in enumerate(image_urls)}
    return {"uid": uid, "prompt": prompt, **cells}


def local_file_url(relative_path: str) -> str:
    """The address under which Label Studio serves a file below its document root.

    Raises:
        ValueError: A path that is absolute or leaves the document root.
    """
    if relative_path.startswith("/") or ".." in relative_path.split("/"):
        raise ValueError(f"expected a path below Label Studio's document root, got {relative_path!r}")
    return f"/data/local-files/?d={quote(relative_path, safe='/')}"


def result_for(screen: Screen, verdict: str = "", marked: Collection[int] = ()) -> list[dict[str, Any]]:
    """The result that a person's answer leaves in Label Studio, for simulated annotators.

    Args:
        verdict: On a ``compare`` screen one of ``COMPARE_VERDICTS``, as presented.
        marked: On a ``mark`` screen the marked positions, as presented.

    Raises:
        ValueError: An answer that the screen does not offer.
    """
    if screen.kind == "compare":
        if verdict not in COMPARE_VERDICTS or marked:
            raise ValueError(f"a compare screen answers one of {', '.join(COMPARE_VERDICTS)}, not {verdict!r}")
        return [_choices_row("preference", "prompt", verdict)]
    if verdict or not set(marked) <= set(range(screen.group_size)):
        raise ValueError(
            f"a mark screen marks positions 0 to {screen.group_size - 1}, not {sorted(marked)} {verdict!r}"
        )
    rows = [_choices_row(f"mark_{image}", f"img_{image}", screen.choice) for image in sorted(marked)]
    return [*rows, _choices_row("reviewed", "prompt", _REVIEWED)]


def _choices(*choices: tuple[str, str, str]) -> str:
    """``Choice`` tags of (what is stored, what is shown, its hotkey)."""
    return "".join(f'<Choice value="{shown}" alias="{stored}" hotkey="{key}"/>' for stored, shown, key in choices)


def _choices_row(control: str, to_name: str, choice: str) -> dict[str, Any]:
    value = {"choices": [choice]}
    return {"from_name": control, "to_name": to_name, "type": "choices", "origin": "manual", "value": value}
