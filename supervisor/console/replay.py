"""What of a terminal's past may be shown to a terminal again.

A replay must not make the viewer's terminal answer a query that some program asked long ago: the
answer would arrive as typed input. This is a courtesy, no security boundary: a program can always
ask again.
"""

from __future__ import annotations

import re

# A body ends where any other sequence could start, so that matching stays linear in the input.
_BODY = rb"((?:[^\x07\x1b\xc2]|\xc2(?![\x80-\x9f]))*+)"
_END = rb"(?:\x07|\x1b\\|\xc2\x9c)"
_SEQUENCE = re.compile(
    rb"(?P<csi>(?:\x1b\[|\xc2\x9b)([<-?]?)([0-;]*+)([ -/]*+)([@-~]))"
    rb"|(?P<osc>(?:\x1b\]|\xc2\x9d)" + _BODY + _END + rb")"
    rb"|(?P<dcs>(?:\x1bP|\xc2\x90)" + _BODY + _END + rb")"
    rb"|(?P<apc>(?:\x1b_|\xc2\x9f)" + _BODY + _END + rb")"
    rb"|(?P<enq>\x05|\x1bZ)"
)
_WINDOW_REPORTS = frozenset((b"11", b"13", b"14", b"15", b"16", b"18", b"19", b"20", b"21"))
_CSI_QUERIES = frozenset(
    (prefix, intermediate, final)
    for prefixes, intermediate, final in (
        ((b"", b"?"), b"", b"n"),  # DSR
        ((b"", b">", b"="), b"", b"c"),  # DA1, DA2, DA3
        ((b"", b"?"), b"$", b"p"),  # DECRQM
        ((b"",), b"$", b"w"),  # DECRQPSR
        ((b"",), b"$", b"u"),  # DECRQTSR
        ((b"",), b"&", b"u"),  # DECRQUPSS
        ((b"",), b"*", b"y"),  # DECRQCRA
        ((b"",), b"'", b"|"),  # DECRQLP
        ((b"",), b"", b"x"),  # DECREQTPARM
        ((b">",), b"", b"q"),  # XTVERSION
        ((b"?",), b"", b"m"),  # XTQMODKEYS
        ((b"?",), b"", b"u"),  # the kitty keyboard query
        ((b"?",), b"", b"S"),  # XTSMGRAPHICS
    )
    for prefix in prefixes
)
_TITLES = (b"0", b"1", b"2")
_STATUS_REQUEST = re.compile(rb"[0-9;]*[+$]q")


def clean(data: bytes) -> bytes:
    """`data` without the sequences that a terminal would answer."""
    return _SEQUENCE.sub(_keep, data)


def from_line_start(data: bytes) -> bytes:
    """`data` from its first whole line on; a full-screen program's from its first sequence on."""
    newline = data.find(b"\n")
    if newline >= 0:
        return data[newline + 1 :]
    return data[max(0, data.find(b"\x1b")) :]


def _keep(match: re.Match[bytes]) -> bytes:
    return b"" if _answered(match) else match[0]


def _answered(match: re.Match[bytes]) -> bool:
    name = match.lastgroup
    if name == "csi":
        prefix, parameters, intermediate, final = match.group(2, 3, 4, 5)
        if final == b"t" and not prefix and not intermediate:
            return parameters.partition(b";")[0] in _WINDOW_REPORTS
        return (prefix, intermediate, final) in _CSI_QUERIES
    if name == "osc":
        number, *parameters = match[7].split(b";")
        asks = b"?" in parameters or (number == b"1337" and match[7][5:11] == b"Report")
        return asks and number not in _TITLES
    if name == "dcs":
        return _STATUS_REQUEST.match(match[9]) is not None
    if name == "apc":
        control = match[11].partition(b";")[0]
        return control.startswith(b"G") and b"a=q" in control[1:].split(b",")
    return True
